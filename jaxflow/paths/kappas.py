r"""How much of the tokens is data: functions of time that rise from 0 to 1.

| kappa | $\kappa(t)$ | |
|---|---|---|
| linear | $t$ | |
| polynomial | $t^n$ | late for $n > 1$, early below |
| cosine | $1 - \cos(\pi t / 2)$ | late: few tokens at a time where little is known |
| cosine_squared | $\sin^2(\pi t / 2)$ | slow at both ends |
| geometric | $(1 - e^{-s}) / (1 - e^{-s(1)})$, $s = a\,(e^{bt} - 1)$ | a growing rate |

The clock of a path runs at $\dot\kappa / (1 - \kappa)$, which float32 cannot tell once $1 - \kappa$
is below 1e-7: each has a `last` time, where 1e-5 of the noise is left, at which paths end.
"""

import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np

from jaxflow.arrays import is_concrete
from jaxflow.checks import check_made
from jaxflow.records import record, static, traceable
from jaxflow.types import AnyArray, Float

__all__ = [
    "Kappa",
    "as_kappa",
    "cosine",
    "cosine_squared",
    "custom",
    "geometric",
    "linear",
    "polynomial",
]

At = Float[AnyArray, "..."]
Function = Callable[[At], At]

_GRID = 1025
_LEFT = 1e-5
_LAST = 1.0 - _LEFT


@runtime_checkable
class Kappa(Protocol):
    """The share of tokens that is data, by time."""

    @property
    def last(self) -> float:
        """The time at which some 1e-5 of the noise is left."""
        ...

    def __call__(self, t: At) -> At:
        """The share at each time."""
        ...


@record
class Linear:
    """As much data as time."""

    last = _LAST

    def __call__(self, t: At) -> At:
        return t


@record
class Polynomial:
    """A power of time."""

    n: Any

    last = _LAST

    def __call__(self, t: At) -> At:
        inside = t > 0
        return jnp.where(inside, jnp.where(inside, t, 1.0) ** self.n, 0.0)


@record
class Cosine:
    """One less the cosine of a right angle's share."""

    last = _LAST

    def __call__(self, t: At) -> At:
        return 2 * jnp.sin(jnp.pi / 4 * t) ** 2


@record
class CosineSquared:
    """The squared sine of a right angle's share."""

    last = 2 / math.pi * math.acos(math.sqrt(_LEFT))

    def __call__(self, t: At) -> At:
        return jnp.sin(jnp.pi / 2 * t) ** 2


@record
class Geometric:
    """The share that a rate growing as `exp(b t)` has reached."""

    scale: float = static()
    growth: float = static()

    @property
    def last(self) -> float:
        """By solving for the time, no later than of linear."""
        reached = _LAST * math.expm1(-self.scale * math.expm1(self.growth))
        return min(_LAST, math.log1p(-math.log1p(reached) / self.scale) / self.growth)

    def __call__(self, t: At) -> At:
        def spent(t: At) -> At:
            return jnp.expm1(-self.scale * jnp.expm1(self.growth * t))

        return spent(t) / spent(jnp.ones_like(t))


@record
class Custom:
    """Any function that rises from 0 to 1."""

    function: Function
    last: float = static()

    def __call__(self, t: At) -> At:
        return self.function(t)


def linear() -> Linear:
    """As much data as time, `t`."""
    return Linear()


def polynomial(n: Float[AnyArray, "*event"] | float) -> Polynomial:
    """`t^n`; with an array `n`, one power for each place of a sample: those of small ones early.

    Raises:
        ValueError: where a power is not positive and finite.

    >>> polynomial(jnp.array([1.0, 2.0]))(jnp.full((1, 2), 0.5))
    Array([[0.5 , 0.25]], dtype=float32)
    """
    if is_concrete(n) and not np.all((np.asarray(n) > 0) & np.isfinite(n)):
        raise ValueError(f"polynomial needs positive, finite powers; got {n}")
    return Polynomial(jnp.asarray(n) if np.ndim(n) else n)


def cosine() -> Cosine:
    """`1 - cos(pi t / 2)`: the share still masked is a cosine, as in MaskGIT and MD4."""
    return Cosine()


def cosine_squared() -> CosineSquared:
    """`sin^2(pi t / 2)`, slow at both ends."""
    return CosineSquared()


def geometric(scale: float = 1e-2, growth: float = 6.0) -> Geometric:
    """The share reached by a rate that grows as `exp(growth t)`, scaled to end at 1.

    Args:
        scale: the rate at the beginning over its growth.
        growth: of the rate's logarithm from beginning to end.

    Raises:
        ValueError: where either is not positive and finite.

    >>> geometric()(jnp.array([0.0, 1.0]))
    Array([0., 1.], dtype=float32)
    """
    for name, value in {"scale": scale, "growth": growth}.items():
        if not 0 < value < math.inf:
            raise ValueError(f"geometric needs a positive, finite {name}; got {value}")
    return Geometric(float(scale), float(growth))


def custom(function: Function) -> Custom:
    """Any differentiable function of times that rises from 0 at `t = 0` to 1 at `t = 1`.

    Define it once, at the top of a module: functions are compared by identity. A record's arrays
    are leaves of the path.

    Raises:
        TypeError: for what is no function.
        ValueError: where its ends are others, or it falls somewhere.

    >>> custom(lambda t: t * t * (3 - 2 * t))(jnp.array([0.5]))
    Array([0.5], dtype=float32)
    """
    check_made("function", function)
    if not callable(function):
        raise TypeError(f"kappa is a function of times, such as kappas.linear(); got {function!r}")
    values = np.asarray(function(jnp.linspace(0.0, 1.0, _GRID)))
    if not (abs(values[0]) < 1e-6 and abs(values[-1] - 1) < 1e-6):
        raise ValueError(
            f"kappa is {values[0]:.4g} at t = 0 and {values[-1]:.4g} at t = 1: it is the share of "
            "tokens that are data, 0 at the source and 1 at the data"
        )
    if not np.all(np.diff(values) >= 0):
        at = float(np.linspace(0, 1, _GRID)[int(np.argmin(np.diff(values)))])
        raise ValueError(f"kappa falls near t = {at:.3g}: a token that is data stays so")
    return Custom(traceable(function), _last(function))


def _last(function: Function) -> float:
    """The last of times, ever closer to the end, at which the noise that is left can be told."""
    times = 1 - np.geomspace(_LEFT, 0.5, _GRID)
    left = 1 - np.asarray(function(jnp.asarray(times)))
    return float(times[int(np.argmax(left >= _LEFT * (1 - 1e-2)))])


def as_kappa(kappa: Any) -> Kappa:
    """One of this module's as it is, another function checked."""
    own = (Linear, Polynomial, Cosine, CosineSquared, Geometric, Custom)
    return kappa if isinstance(kappa, own) else custom(kappa)

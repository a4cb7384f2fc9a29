r"""How wide the noise of an interpolant is: functions of time that vanish at both ends, but one.

| gamma | $\gamma(t)$ | slope at the ends | interval |
|---|---|---|---|
| brownian | $\sigma \sqrt{t (1 - t)}$ | infinite | $[10^{-5}, 1 - 10^{-5}]$ |
| quadratic | $c\, t (1 - t)$ | $\pm c$ | $[0, 1]$ |
| sine_squared | $c \sin^2(\pi t)$ | 0 | $[0, 1]$ |
| constant | $\sigma$ | 0 | $[0, 1]$ |

`interval` is where the slope is finite; a function without one is taken to be so on $[0, 1]$.
Values at the ends are exactly zero all the same, but for `constant`, whose path begins at the
source and ends at the data, both widened by $N(0, \sigma^2)$.
"""

import math
from collections.abc import Callable

import jax.numpy as jnp

from jaxflow.checks import check_made
from jaxflow.paths.schedules import At
from jaxflow.records import record, static, traceable
from jaxflow.types import Interval

__all__ = ["Gamma", "brownian", "constant", "custom", "quadratic", "sine_squared"]

Gamma = Callable[[At], At]

_FROM_ENDS = 1e-5


@record
class Brownian:
    """The standard deviation of a Brownian bridge."""

    sigma: float = static()

    interval = (_FROM_ENDS, 1 - _FROM_ENDS)

    def __call__(self, t: At) -> At:
        square = t * (1 - t)
        inside = square > 0
        return jnp.where(inside, self.sigma * jnp.sqrt(jnp.where(inside, square, 1.0)), 0.0)


@record
class Quadratic:
    """A parabola."""

    scale: float = static()

    interval = (0.0, 1.0)

    def __call__(self, t: At) -> At:
        return self.scale * t * (1 - t)


@record
class SineSquared:
    """Half a period of a squared sine, written so that it is zero at `t = 1` too."""

    scale: float = static()

    interval = (0.0, 1.0)

    def __call__(self, t: At) -> At:
        return self.scale * (2 * jnp.sin(jnp.pi / 2 * t) * jnp.sin(jnp.pi / 2 * (1 - t))) ** 2


@record
class Constant:
    """One width at all times, the ends among them."""

    sigma: float = static()

    interval = (0.0, 1.0)

    def __call__(self, t: At) -> At:
        return jnp.full_like(t, self.sigma)


@record
class Custom:
    """A function of time with the interval where its slope is finite."""

    function: Gamma
    interval: Interval = static()

    def __call__(self, t: At) -> At:
        return self.function(t)


def brownian(sigma: float = 1.0) -> Brownian:
    """That of a Brownian motion of diffusion `sigma` held at both ends, `sigma sqrt(t (1 - t))`.

    Raises:
        ValueError: where `sigma` is not positive and finite.

    >>> brownian(2.0)(jnp.array([0.0, 0.5, 1.0]))
    Array([0., 1., 0.], dtype=float32)
    """
    return Brownian(_positive("brownian", "sigma", sigma))


def quadratic(scale: float = 1.0) -> Quadratic:
    """A parabola, `scale t (1 - t)`; its slope is finite everywhere.

    Raises:
        ValueError: where `scale` is not positive and finite.
    """
    return Quadratic(_positive("quadratic", "scale", scale))


def sine_squared(scale: float = 1.0) -> SineSquared:
    """A squared sine, `scale sin^2(pi t)`: noise sets in and ends without a jump of the velocity.

    Raises:
        ValueError: where `scale` is not positive and finite.
    """
    return SineSquared(_positive("sine_squared", "scale", scale))


def constant(sigma: float = 0.1) -> Constant:
    """One width at all times: I-CFM's `x_t = t x1 + (1 - t) x0 + sigma z` with `u_t = x1 - x0`.

    It does not vanish at the ends, so the path leads from the source to the data, each widened by
    `N(0, sigma^2)`. Its velocity is learned for starts `x0 + sigma z`: begin there, by
    `x0 + sigma * path.latent(key, x0)`, where `sigma` is not small beside the source. Samples are
    data with that noise in them. The score of a pair, `-z / sigma`, is finite at all times.

    Raises:
        ValueError: where `sigma` is not positive and finite; without noise a path is affine.

    Tong et al., Improving and Generalizing Flow-Based Generative Models with Minibatch Optimal
    Transport, 2024, arXiv:2302.00482, eq. 14 and 15.

    >>> constant(0.5)(jnp.array([0.0, 0.5, 1.0]))
    Array([0.5, 0.5, 0.5], dtype=float32)
    """
    return Constant(_positive("constant", "sigma", sigma))


def custom(function: Gamma, interval: Interval = (0.0, 1.0)) -> Custom:
    """Any function that vanishes at both ends and is positive between them.

    Args:
        function: of times, differentiable inside the interval. Define it once, at the top of a
            module: functions are compared by identity. A record's arrays are leaves of the path.
        interval: where its slope is finite.

    >>> custom(jnp.sqrt, (0.25, 1.0)).interval
    (0.25, 1.0)
    """
    check_made("function", function)
    low, high = interval
    return Custom(traceable(function), (float(low), float(high)))


def _positive(name: str, argument: str, value: float) -> float:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} needs a positive, finite {argument}; got {value}")
    return float(value)

r"""What becomes of a wanted field $v^+$ and an unwanted $v^-$: `(t, x, wanted, unwanted, scale)`.

(1) plain: $v = v^- + s\,(v^+ - v^-)$

(2) rescaled: $v' = (1 + \phi\,(\mathrm{std}\,v^+ / \mathrm{std}\,v - 1))\,v$ with $v$ of (1)

(3) zero_star: $v = a v^- + s\,(v^+ - a v^-)$ with $a = \langle v^+, v^- \rangle / \|v^-\|^2$, which
    minimises $\|v^+ - a v^-\|$

Means, deviations and products run over the event of each sample, or over that of each part. A
prediction of another kind is an affine function of the velocity whose slope depends on $t$ alone,
so (1) is the same in every space; (2) and (3) are not, and act on the velocity.
"""

from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxflow.arrays import as_floats, event_mean, event_sum, expand
from jaxflow.records import record
from jaxflow.types import Array, Data, Time

__all__ = ["plain", "rescaled", "root", "share", "zero_star"]


@record
class Plain:
    """The rule (1)."""

    def __call__(self, t: Time, x: Data, wanted: Array, unwanted: Array, scale: ArrayLike) -> Array:
        return unwanted + scale * (wanted - unwanted)


@record
class Rescaled:
    """The rule (2)."""

    phi: Any

    def __call__(self, t: Time, x: Data, wanted: Array, unwanted: Array, scale: ArrayLike) -> Array:
        v = unwanted + scale * (wanted - unwanted)
        ratio = root(share(_variance(wanted), _variance(v), otherwise=1.0))
        return expand(1 + self.phi * (ratio - 1), v) * v


@record
class ZeroStar:
    """The rule (3), and no motion before `zero_until`."""

    zero_until: Any

    def __call__(self, t: Time, x: Data, wanted: Array, unwanted: Array, scale: ArrayLike) -> Array:
        a = share(event_sum(wanted * unwanted), event_sum(unwanted**2), otherwise=1.0)
        unwanted = expand(a, unwanted) * unwanted
        v = unwanted + scale * (wanted - unwanted)
        return jnp.where(expand(t, v) < self.zero_until, 0.0, v)


def share(part: Array, whole: Array, *, otherwise: float) -> Array:
    """`part / whole`, without NaN in value or gradient where the whole is zero."""
    some = whole > 0
    return jnp.where(some, part / jnp.where(some, whole, 1.0), otherwise)


def root(square: Array) -> Array:
    """The square root, whose gradient is zero at zero."""
    some = square > 0
    return jnp.where(some, jnp.sqrt(jnp.where(some, square, 1.0)), 0.0)


def _variance(v: Array) -> Array:
    return event_mean((v - expand(event_mean(v), v)) ** 2)


def plain() -> Plain:
    """The linear rule (1) of classifier-free guidance.

    >>> plain()(jnp.zeros(1), jnp.zeros((1, 1)), jnp.ones((1, 1)), jnp.zeros((1, 1)), 3.0)
    Array([[3.]], dtype=float32)
    """
    return Plain()


def rescaled(phi: float = 0.7) -> Rescaled:
    """The plain rule, brought back to the standard deviation of the wanted field by a share (2).

    Args:
        phi: the share, in [0, 1]: 0 is `plain()`, 1 has the deviation of the wanted
            field.

    Raises:
        ValueError: for a share outside [0, 1].

    Lin et al., Common Diffusion Noise Schedules and Sample Steps are Flawed, 2023,
    arXiv:2305.08891, eq. 14 to 16. There it acts on the output of a network that predicts
    `alpha x0 - sigma x1` on a variance-preserving path. Along such a path `alpha = sin(a)` and
    `sigma = cos(a)`, so the velocity is that output times minus the rate of the angle `a`, which
    leaves the ratio of (2) as it is: the rule on velocities is the paper's.
    """
    if not 0 <= phi <= 1:
        raise ValueError(f"rescaled needs a share phi in [0, 1]; got {phi}")
    return Rescaled(as_floats(phi))


def zero_star(zero_until: float = 0.0) -> ZeroStar:
    """The plain rule with the unwanted field at its best scale, and no motion at first (3).

    Args:
        zero_until: the velocity is zero before this time; 0 for never. The paper leaves out
            the first few steps of a solver, so some hundredths.

    Raises:
        ValueError: for a time outside [0, 1].

    Fan et al., CFG-Zero*: Improved Classifier-Free Guidance for Flow Matching Models, 2025,
    arXiv:2503.18886, who count steps of the solver: a time says the same of every grid.
    """
    if not 0 <= zero_until <= 1:
        raise ValueError(f"zero_star needs a time zero_until in [0, 1]; got {zero_until}")
    return ZeroStar(as_floats(zero_until))

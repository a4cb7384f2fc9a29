r"""What becomes of a wanted field $v^+$ and an unwanted $v^-$: `(t, x, wanted, unwanted, scale)`.

(1) plain: $v = v^- + s\,(v^+ - v^-)$

(2) rescaled: $v' = (1 + \phi\,(\mathrm{std}\,v^+ / \mathrm{std}\,v - 1))\,v$ with $v$ of (1)

(3) zero_star: $v = a v^- + s\,(v^+ - a v^-)$ with $a = \langle v^+, v^- \rangle / \|v^-\|^2$, which
    minimises $\|v^+ - a v^-\|$

(4) magnitude_aware: $v = v^- + s'\,(v^+ - v^-)$ with
    $s' = 1 + (s - 1)\,e^{-\alpha \|v^+ - v^-\| / \|v^-\|}$

(5) tangential: $v = v^-_1 + s\,(v^+ - v^-_1)$ with $v^-_1$ the part of $v^-$ along the first right
    singular vector of the matrix whose rows are $v^+$ and $v^-$

(6) geometric, of logits: $\log p = s \log p^+ + (1 - s) \log p^-$, each of them normalised before
    and the whole not, as rates want it

The left singular vectors of two rows are a rotation by $\theta$, and so (5) needs three products:
$v^-_1 = \sin\theta\cos\theta\, v^+ + \sin^2\theta\, v^-$ with
$\tan 2\theta = 2 \langle v^+, v^- \rangle / (\|v^+\|^2 - \|v^-\|^2)$.

Means, deviations and products run over the event of each sample, or over that of each part. A
prediction of another kind is an affine function of the velocity whose slope depends on $t$ alone,
so (1) is the same in every space; (2) to (5) are not, and act on the velocity.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxflow.arrays import as_floats, event_mean, event_sum, expand, root
from jaxflow.records import record
from jaxflow.types import Array, Data, Time

__all__ = ["geometric", "magnitude_aware", "plain", "rescaled", "share", "tangential", "zero_star"]


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


@record
class MagnitudeAware:
    """The rule (4)."""

    alpha: Any

    def __call__(self, t: Time, x: Data, wanted: Array, unwanted: Array, scale: ArrayLike) -> Array:
        delta, size = wanted - unwanted, root(event_sum(unwanted**2))
        ratio = share(root(event_sum(delta**2)), size, otherwise=0.0)
        kept = jnp.where(size > 0, jnp.exp(-self.alpha * ratio), 0.0)
        return wanted + (scale - 1) * expand(kept, delta) * delta


@record
class Tangential:
    """The rule (5)."""

    def __call__(self, t: Time, x: Data, wanted: Array, unwanted: Array, scale: ArrayLike) -> Array:
        product, more = event_sum(wanted * unwanted), event_sum(wanted**2) - event_sum(unwanted**2)
        length = root(more**2 + 4 * product**2)
        crossed = share(product, length, otherwise=0.0)
        straight = (1 - share(more, length, otherwise=-1.0)) / 2
        aligned = expand(crossed, wanted) * wanted + expand(straight, unwanted) * unwanted
        return aligned + scale * (wanted - aligned)


def share(part: Array, whole: Array, *, otherwise: float) -> Array:
    """`part / whole`, without NaN in value or gradient where the whole is zero."""
    some = whole > 0
    return jnp.where(some, part / jnp.where(some, whole, 1.0), otherwise)


def _variance(v: Array) -> Array:
    return event_mean((v - expand(event_mean(v), v)) ** 2)


@record
class Geometric:
    """The rule (6)."""

    def __call__(self, t: Time, x: Data, wanted: Array, unwanted: Array, scale: ArrayLike) -> Array:
        wanted, unwanted = jax.nn.log_softmax(wanted), jax.nn.log_softmax(unwanted)
        return jnp.where(wanted == unwanted, wanted, unwanted + scale * (wanted - unwanted))


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


def magnitude_aware(alpha: float = 8.0) -> MagnitudeAware:
    """The plain rule at a scale that is nearer to 1 where the fields differ by much (4).

    Early on, where little is known, the difference may be as large as the field itself; there large
    scales do the most harm. At scale 1 it is the wanted field, and so it is where the unwanted one
    vanishes.

    Args:
        alpha: how fast the scale falls to 1 with the length of the difference in units of that of
            the unwanted field; 0 is `plain()`.

    Raises:
        ValueError: for a rate that is negative or not finite.

    Zhu et al., MAMBO-G: Magnitude-Aware Mitigation for Boosted Guidance, 2025, arXiv:2508.03442.
    """
    if not 0 <= alpha < math.inf:
        raise ValueError(f"magnitude_aware needs a finite alpha of 0 or more; got {alpha}")
    return MagnitudeAware(as_floats(alpha))


def tangential() -> Tangential:
    """The plain rule with the unwanted field less what does not lie along the pair (5).

    Of the two directions of the pair the first is what the fields share, and the second, along
    which they disagree, is taken out of the unwanted one. At scale 1 it is the wanted field. Where
    no direction is the first (fields of one length, at right angles) it is `plain()`.

    Kwon et al., TCFG: Tangential Damping Classifier-free Guidance, 2025, arXiv:2503.18137, there on
    scores: here on velocities, which are what a flow's network predicts.
    """
    return Tangential()


def geometric() -> Geometric:
    """The rule (6): powers of two laws of tokens, for `leaps.by_rates`.

    Where the logits are normalised afterwards, as by all other leaps, it says the same as `plain`.

    Nisonoff et al., Unlocking Guidance for Discrete State-Space Diffusion and Flow Models, 2024,
    arXiv:2406.01572, eq. 3.
    """
    return Geometric()

r"""A rule that guides low and high frequencies by scales of their own.

With $\delta = v^+ - v^-$ and a linear low-pass $L$

(1) $v = v^+ + (s - 1)\,(\delta - L\delta + r\, L\delta)$

guides high frequencies at the scale $s$ and low ones at $1 + r\,(s - 1)$. The low-pass is a blur of
standard deviation $\tau$ that keeps within the edges: along an axis of $n$ positions

(2) $L = C^\top \mathrm{diag}\big(e^{-(\pi k \tau / n)^2 / 2}\big)\, C$, $k = 0, \dots, n - 1$

with the rows of $C$ the orthonormal cosines $\cos(\pi k (i + \frac12) / n)$. A constant stays as it
is. As $L$ is linear, (1) is the same in every space of predictions, as the plain rule is.
"""

import math
from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxflow.arrays import as_floats
from jaxflow.records import record
from jaxflow.types import Array, Data, Time

__all__ = ["frequency_decoupled"]


@record
class FrequencyDecoupled:
    """The rule (1)."""

    low: Any
    width: Any

    def __call__(self, t: Time, x: Data, wanted: Array, unwanted: Array, scale: ArrayLike) -> Array:
        delta = wanted - unwanted
        return wanted + (scale - 1) * (delta - (1 - self.low) * _blurred(delta, self.width))


def _blurred(delta: Array, width: Array) -> Array:
    """The low-pass (2) along every axis of positions: all but the batch and the channels."""
    for axis in range(1, max(delta.ndim - 1, min(delta.ndim, 2))):
        low_pass = _low_pass(delta.shape[axis], width).astype(delta.dtype)
        product = jnp.tensordot(delta, low_pass, (axis, 0), precision="highest")
        delta = jnp.moveaxis(product, -1, axis)
    return delta


def _low_pass(n: int, width: Array) -> Array:
    """(2), which is symmetric."""
    k, place = jnp.arange(n)[:, None], jnp.arange(n) + 0.5
    cosines = jnp.cos(jnp.pi * k * place / n) * jnp.sqrt(jnp.where(k > 0, 2, 1) / n)
    shrinks = jnp.exp(-((jnp.pi * k * width / n) ** 2) / 2)
    return jnp.matmul(cosines.T, shrinks * cosines, precision="highest")


def frequency_decoupled(low: float = 0.5, width: float = 1.5) -> FrequencyDecoupled:
    """The plain rule for high frequencies, and a share of it for low ones (1).

    Low frequencies carry colours and layout, which large scales saturate and make alike; high ones
    carry detail, which they sharpen. An event is an image `[h, w, c]`, or has any number of axes of
    positions before its channels; a lone axis is one of positions.

    Args:
        low: the share $r$ of guidance that low frequencies get; 1 is `plain()`. The paper's scales
            `w_low` and `w_high` are `low = (w_low - 1) / (w_high - 1)` at the scale `w_high`.
        width: the standard deviation of the blur that tells low from high, in positions.

    Raises:
        ValueError: for a share or a width that is negative or not finite.

    Sadat et al., Guidance in the Frequency Domain Enables High-Fidelity Sampling at Low CFG Scales,
    2025, arXiv:2506.19713, who split by a Laplacian pyramid: of one level, whose blur is about as
    wide as the default here. The split by (2) is at one frequency and resamples nothing.

    >>> ones = jnp.ones((1, 4, 4, 1))
    >>> frequency_decoupled(0.5)(jnp.zeros(1), ones, ones, 0 * ones, 3.0)[0, 0, 0]
    Array([2.], dtype=float32)
    """
    if not (0 <= low < math.inf and 0 <= width < math.inf):
        raise ValueError(
            "frequency_decoupled needs a finite share low and a finite width, both of 0 or more; "
            f"got low={low}, width={width}"
        )
    return FrequencyDecoupled(as_floats(low), as_floats(width))

"""Images at half and at twice the size.

A 3x3 convolution of an image doubled by repetition meets each pixel of the small image through at
most 2x2 different weights,

    (1)  y[2i + p, 2j + q] = sum_ab (M_p W M_q^T)[a, b] x[i + p - 1 + a, j + q - 1 + b],

with `M_p` adding up the rows of `W` that fall on the same pixel: the same function with 4/9 of the
products and no large image in between.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.types import Array, Float

__all__ = ["double", "doubling_conv", "halve"]

Image = Float[Array, "batch height width channels"]
Doubled = Float[Array, "batch 2*height 2*width channels"]

_SHARED_ROWS = (np.array([[1, 0, 0], [0, 1, 1]]), np.array([[1, 1, 0], [0, 0, 1]]))


def halve(x: Image) -> Float[Array, "batch height//2 width//2 channels"]:
    """The mean of each square of four pixels."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean((2, 4))


def double(x: Image) -> Doubled:
    """Each pixel as a square of four."""
    return _interleave([[x, x], [x, x]])


def doubling_conv(
    x: Float[Array, "batch height width inward"],
    kernel: Float[Array, "3 3 inward channels"],
    *_: Any,
    **__: Any,
) -> Doubled:
    """`double`, then a 3x3 convolution, by (1); stands in for `jax.lax.conv_general_dilated`."""
    return _interleave([[_corner(x, kernel, p, q) for q in (0, 1)] for p in (0, 1)])


def _corner(x: Array, kernel: Array, p: int, q: int) -> Image:
    rows, columns = (jnp.asarray(_SHARED_ROWS[parity], kernel.dtype) for parity in (p, q))
    return jax.lax.conv_general_dilated(
        x,
        jnp.einsum("ai,bj,ijcd->abcd", rows, columns, kernel),
        window_strides=(1, 1),
        padding=((1 - p, p), (1 - q, q)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _interleave(corners: list[list[Image]]) -> Doubled:
    batch, height, width, channels = corners[0][0].shape
    stacked = jnp.stack([jnp.stack(row, axis=3) for row in corners], axis=2)
    return stacked.reshape(batch, 2 * height, 2 * width, channels)

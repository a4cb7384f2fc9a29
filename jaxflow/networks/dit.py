"""The diffusion transformer: patches as tokens, conditioned by adaptive layer norm
(`jaxflow.networks.blocks`).

Peebles & Xie, 2022, Scalable Diffusion Models with Transformers, arXiv:2212.09748, section 3.2;
Ma et al., 2024, SiT: Exploring Flow and Diffusion-based Generative Models with Scalable
Interpolant Transformers, arXiv:2401.08740.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxflow.arrays import at_least_float32
from jaxflow.names import check_known
from jaxflow.networks.blocks import blocks, check_remat, tensor_axes
from jaxflow.networks.embeddings import Conditioning, check_one_time, positions
from jaxflow.networks.initialisers import zeros
from jaxflow.networks.layers import beside, check_fields, dense, layer_norm, modulate
from jaxflow.networks.patches import check_patches, from_patches, to_patches
from jaxflow.types import AnyArray, Array, Float, Labels, Time

__all__ = ["DiT", "dit"]

Image = Float[AnyArray, "batch height width channels"]


class DiT(nn.Module):
    """A diffusion transformer for images `[batch, height, width, channels]`; zero when initialised.

    With a second time `r`, it is told `t` and `r - t` (see `jaxflow.networks.embeddings`). An
    `estimate` of its own output (`self_conditioned`) comes in beside the image, as more channels.

    Attributes:
        patch: side of a patch; each becomes one token.
        width: channels a token, a multiple of `heads` and of 4.
        depth: blocks. Their parameters are stacked, and a scan runs over them.
        heads: of the attention.
        num_classes: labels run from 0 to `num_classes - 1`, and `num_classes` is none.
        out_channels: those of the input where None.
        dtype: of the computation; parameters and output are at least float32.
        remat: what is recomputed in the backward pass, for memory: None, "full" for whole blocks,
            "dots" for all but matrix products.
        attention: the implementation in `jax.nn.dot_product_attention`: None, "xla" or "cudnn".
        unroll: blocks of the scan laid out one after another; the parameters and the function stay
            the same, the program grows.
    """

    patch: int = 2
    width: int = 384
    depth: int = 12
    heads: int = 6
    num_classes: int | None = None
    out_channels: int | None = None
    dtype: Any = None
    remat: str | None = None
    attention: str | None = None
    unroll: int = 1

    gathers = True

    def __post_init__(self) -> None:
        check_fields(self, patch=1, width=1, depth=1, heads=1, unroll=1)
        super().__post_init__()

    @property
    def tensor_axes(self) -> dict[str, tuple[int, int]]:
        """Where a tensor axis of devices cuts each block: attention by heads, the MLP by units.

        The end of a parameter's path, the axis that is cut, and the units that stay whole.
        """
        return tensor_axes(self.width, self.heads)

    @nn.compact
    def __call__(
        self,
        t: Time,
        x: Image,
        *,
        r: Time | None = None,
        label: Labels | None = None,
        guidance: Float[AnyArray, "batch 3"] | None = None,
        estimate: Float[AnyArray, "batch height width _"] | None = None,
    ) -> Float[Array, "batch height width outward"]:
        self._check(x)
        check_one_time(t, x)
        _, height, width, channels = x.shape
        c = Conditioning(self.width, self.num_classes, name="conditioning")
        c = c(t, x, label, r, guidance)
        c = nn.silu(c)
        patches = to_patches(beside(x, estimate), self.patch)
        h = dense(self.width, dtype=self.dtype, name="inward")(patches)
        h = h + positions(height // self.patch, width // self.patch, self.width).astype(h.dtype)
        h = blocks(self.depth, self.remat, self.unroll)(
            self.heads, self.dtype, self.attention, name="blocks"
        )(h, c)[0]
        shift, scale = jnp.split(
            dense(2 * self.width, kernel_init=zeros, name="modulation")(c), 2, -1
        )
        h = modulate(layer_norm(at_least_float32(h)), shift, scale)
        out_channels = self.out_channels or channels
        h = dense(self.patch**2 * out_channels, kernel_init=zeros, name="outward")(h)
        return from_patches(h, height, width, self.patch)

    def _check(self, x: Image) -> None:
        if x.ndim != 4:
            raise ValueError(f"x has shape {x.shape}: a DiT takes [batch, height, width, channels]")
        check_patches(x, self.patch)
        check_remat(self.remat)


_sizes = {
    "S": {"width": 384, "depth": 12, "heads": 6},
    "B": {"width": 768, "depth": 12, "heads": 12},
    "L": {"width": 1024, "depth": 24, "heads": 16},
    "XL": {"width": 1152, "depth": 28, "heads": 16},
}


def dit(name: str, **fields: Any) -> DiT:
    """A DiT of a published size, as "B/2": size S, B, L or XL, and the side of a patch, 2, 4 or 8.

    Args:
        name: size and patch.
        **fields: any other attribute of `DiT`.

    Raises:
        ValueError: for another name, with the nearest known one.

    >>> dit("B/2", num_classes=1000).width
    768
    """
    known = [f"{size}/{patch}" for size in _sizes for patch in (2, 4, 8)]
    check_known("a DiT", name, known)
    size, patch = name.split("/")
    return DiT(**{"patch": int(patch), **_sizes[size], **fields})

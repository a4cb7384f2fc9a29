"""The U-Net of diffusion models: residual blocks and attention over a pyramid of resolutions.

Dhariwal & Nichol, 2021, Diffusion Models Beat GANs on Image Synthesis, arXiv:2105.05233, section 3.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxflow.networks.embeddings import Conditioning, check_one_time
from jaxflow.networks.initialisers import zeros
from jaxflow.networks.layers import (
    Attention,
    GroupNorm,
    beside,
    check_fields,
    conv,
    dense,
    regathering,
)
from jaxflow.networks.resampling import double, doubling_conv, halve
from jaxflow.types import AnyArray, Array, Float, Labels, Time

__all__ = ["UNet"]

Image = Float[AnyArray, "batch height width channels"]
Hidden = Float[Array, "batch height width channels"]


class UNet(nn.Module):
    """A U-Net for images `[batch, height, width, channels]`; zero at initialisation.

    The defaults are the CIFAR-10 network of Tong et al., 2023, Improving and Generalizing
    Flow-Based Generative Models with Minibatch Optimal Transport, arXiv:2302.00482, parameter for
    parameter (35,746,307). With a second time `r`, it is told `t` and `r - t` (see
    `jaxflow.networks.embeddings`). An `estimate` of its own output (`self_conditioned`) comes in
    beside the image, as more channels.

    Attributes:
        channels: of the finest level.
        multipliers: of the channels, one a level, each level half as high and wide as the last.
        blocks: residual blocks a level on the way down; one more on the way up.
        attention: heights at which the blocks are followed by attention.
        head_channels: channels an attention head; all of them where a level has fewer.
        film: whether the condition scales and shifts the second norm of a block, or is added
            before it.
        resample: "conv" resamples by a convolution, "block" inside a residual block.
        num_classes: labels run from 0 to `num_classes - 1`, and `num_classes` is none.
        out_channels: those of the input where None.
        dropout: share of units dropped in training.
        dtype: of the computation; parameters and output are at least float32.
        remat: whether blocks are recomputed in the backward pass, for memory.
    """

    channels: int = 128
    multipliers: Sequence[int] = (1, 2, 2, 2)
    blocks: int = 2
    attention: Sequence[int] = (16,)
    head_channels: int = 64
    film: bool = False
    resample: str = "conv"
    num_classes: int | None = None
    out_channels: int | None = None
    dropout: float = 0.0
    dtype: Any = None
    remat: bool = False

    gathers = True

    def __post_init__(self) -> None:
        check_fields(self, channels=1, multipliers=1, blocks=1, attention=1, head_channels=1)
        super().__post_init__()

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
        deterministic: bool = True,
    ) -> Float[Array, "batch height width outward"]:
        self._check(x)
        check_one_time(t, x)
        c = Conditioning(4 * self.channels, self.num_classes, self.channels, name="conditioning")
        c = nn.silu(c(t, x, label, r, guidance))
        remat = nn.remat if self.remat else regathering
        residual, attention = remat(_Residual, static_argnums=(3,)), regathering(_Attend)

        def block(h: Array, channels: int, name: str, resize: str | None = None) -> Array:
            layer = residual(channels, self.film, self.dropout, self.dtype, resize, name=name)
            return layer(h, c, deterministic)

        def attend(h: Array, name: str) -> Array:
            return attention(self.head_channels, self.dtype, name=name)(h)

        def rescale(h: Array, resize: str, name: str) -> Array:
            if self.resample == "block":
                return block(h, h.shape[-1], name, resize)
            return _Resample(resize, self.dtype, name=name)(h)

        inward = conv(self.channels * self.multipliers[0], (3, 3), dtype=self.dtype, name="inward")
        h = inward(beside(x, estimate))
        skips = [h]
        for level, multiplier in enumerate(self.multipliers):
            if level:
                h = rescale(h, "down", f"down_{level}")
                skips.append(h)
            for i in range(self.blocks):
                h = block(h, multiplier * self.channels, f"down_{level}_{i}")
                if h.shape[1] in self.attention:
                    h = attend(h, f"down_{level}_{i}_attention")
                skips.append(h)

        h = block(h, h.shape[-1], "middle_0")
        h = attend(h, "middle_attention")
        h = block(h, h.shape[-1], "middle_1")

        for level, multiplier in reversed(list(enumerate(self.multipliers))):
            for i in range(self.blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = block(h, multiplier * self.channels, f"up_{level}_{i}")
                if h.shape[1] in self.attention:
                    h = attend(h, f"up_{level}_{i}_attention")
            if level:
                h = rescale(h, "up", f"up_{level}")

        h = nn.silu(GroupNorm(name="outward_norm")(h)).astype(
            jnp.promote_types(x.dtype, jnp.float32)
        )
        out = conv(self.out_channels or x.shape[-1], (3, 3), kernel_init=zeros, name="outward")
        return out(h)

    def _check(self, x: Image) -> None:
        factor = 2 ** (len(self.multipliers) - 1)
        if x.ndim != 4:
            raise ValueError(
                f"x has shape {x.shape}: a UNet takes [batch, height, width, channels]"
            )
        if x.shape[1] % factor or x.shape[2] % factor:
            raise ValueError(
                f"images of {x.shape[1]}x{x.shape[2]} cannot be halved {len(self.multipliers) - 1} "
                f"times: pad them to a multiple of {factor}, or take fewer multipliers"
            )
        if self.resample not in ("conv", "block"):
            raise ValueError(f'resample is "conv" or "block"; got {self.resample!r}')


class _Resample(nn.Module):
    resize: str
    dtype: Any

    @nn.compact
    def __call__(self, x: Hidden) -> Float[Array, "batch rows columns channels"]:
        layer = partial(conv, x.shape[-1], (3, 3), dtype=self.dtype, name="conv")
        if self.resize == "up":
            return layer(conv_general_dilated=doubling_conv)(x)
        return layer(strides=2, padding=1)(x)


class _Residual(nn.Module):
    channels: int
    film: bool
    dropout: float
    dtype: Any
    resize: str | None

    @nn.compact
    def __call__(
        self, x: Hidden, c: Float[Array, "batch features"], deterministic: bool
    ) -> Float[Array, "batch rows columns outward"]:
        convolve = conv(self.channels, (3, 3), dtype=self.dtype, name="first")
        h = nn.silu(GroupNorm(name="first_norm")(x))
        if self.resize:
            rescale = {"up": double, "down": halve}[self.resize]
            h, x = rescale(h), rescale(x)
        h = convolve(h)
        c = dense((1 + self.film) * self.channels, dtype=self.dtype, name="condition")(c)
        c = c[:, None, None]
        norm = GroupNorm(name="second_norm")
        if self.film:
            scale, shift = jnp.split(c, 2, axis=-1)
            h = norm(h) * (1 + scale) + shift
        else:
            h = norm(h + c)
        h = nn.Dropout(self.dropout, deterministic=deterministic)(nn.silu(h))
        h = conv(self.channels, (3, 3), dtype=self.dtype, kernel_init=zeros, name="second")(h)
        if x.shape[-1] != self.channels:
            x = conv(self.channels, (1, 1), dtype=self.dtype, name="skip")(x)
        return x + h


class _Attend(nn.Module):
    head_channels: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Hidden) -> Hidden:
        batch, height, width, channels = x.shape
        h = GroupNorm(name="norm")(x).reshape(batch, height * width, channels)
        heads = max(1, channels // self.head_channels)
        h = Attention(heads, dtype=self.dtype, out_init=zeros, name="attention")(h)
        return x + h.reshape(x.shape)

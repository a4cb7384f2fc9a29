"""One transformer over samples of several parts: images, tokens, vectors.

Every part becomes tokens of one width, and all attend to all. Each part has a time of its own, and
its tokens are conditioned by that and by what part they are, as in `jaxflow.networks.blocks`; so
one network serves every conditional of its parts, those that are known standing at time 1.

After the single stream of Bao et al., 2023, One Transformer Fits All Distributions in Multi-Modal
Diffusion at Scale (UniDiffuser), arXiv:2303.06555, which tells times as tokens of their own.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.core import FrozenDict

from jaxflow.arrays import at_least_float32
from jaxflow.networks.blocks import blocks, check_remat, tensor_axes
from jaxflow.networks.embeddings import Conditioning, check_one_time, positions
from jaxflow.networks.initialisers import normal, zeros
from jaxflow.networks.layers import (
    check_fields,
    dense,
    for_tokens,
    layer_norm,
    modulate,
    token_table,
)
from jaxflow.networks.patches import check_patches, from_patches, to_patches
from jaxflow.types import Array, Float, Time

__all__ = ["MixedTransformer"]

Tokens = Float[Array, "batch tokens features"]


class MixedTransformer(nn.Module):
    """Of a mapping of parts, a mapping of what is said of each; zero when initialised.

    | a part | becomes | and what is said of it |
    |---|---|---|
    | images `[batch, height, width, channels]` | a token a patch | of the same shape |
    | sequences `[batch, length, channels]` | a token a place | of the same shape |
    | vectors `[batch, channels]` | a token | of the same shape |
    | tokens `[batch, length]` of `vocabularies` | a token each | logits, a last axis more |

    Attributes:
        vocabularies: tokens that each part of tokens is made of, by name; the mask is one more.
        patch: side of a patch of images.
        width: channels a token, a multiple of `heads` and of 4.
        depth: blocks. Their parameters are stacked, and a scan runs over them.
        heads: of the attention.
        condition: channels that a part and its time are told in.
        dtype, remat, attention, unroll: as in `DiT`.
    """

    vocabularies: Mapping[str, int]
    patch: int = 2
    width: int = 128
    depth: int = 4
    heads: int = 4
    condition: int = 128
    dtype: Any = None
    remat: str | None = None
    attention: str | None = None
    unroll: int = 1

    gathers = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "vocabularies", FrozenDict(self.vocabularies))
        check_fields(self, patch=1, width=1, depth=1, heads=1, condition=2, unroll=1)
        super().__post_init__()

    @property
    def tensor_axes(self) -> dict[str, tuple[int, int]]:
        """Where a tensor axis of devices cuts each block: attention by heads, the MLP by units."""
        return tensor_axes(self.width, self.heads)

    @nn.compact
    def __call__(self, t: Time | Mapping[str, Time], x: Mapping[str, Any]) -> dict[str, Array]:
        check_remat(self.remat)
        names = sorted(x)
        times = t if isinstance(t, Mapping) else dict.fromkeys(names, t)
        told, tokens = [], []
        for name in names:
            check_one_time(times[name], x[name])
            c = Conditioning(self.condition, name=f"{name}_conditioning")(times[name], x[name])
            part = self.param(f"{name}_part", normal(0.02), (self.condition,))
            tokens.append(self._inward(name, x[name]))
            told.append(jnp.broadcast_to(for_tokens(c + part), (*tokens[-1].shape[:2], len(part))))
        c = nn.silu(jnp.concatenate(told, axis=1))
        h = jnp.concatenate(tokens, axis=1)
        h = blocks(self.depth, self.remat, self.unroll)(
            self.heads, self.dtype, self.attention, name="blocks"
        )(h, c)[0]
        modulation = dense(2 * self.width, kernel_init=zeros, name="modulation")(c)
        shift, scale = jnp.split(modulation, 2, axis=-1)
        h = modulate(layer_norm(at_least_float32(h)), shift, scale)
        said, start = {}, 0
        for name, own in zip(names, tokens, strict=True):
            said[name] = self._outward(name, h[:, start : start + own.shape[1]], x[name])
            start += own.shape[1]
        return said

    def _inward(self, name: str, x: Any) -> Tokens:
        """A part as tokens of the width, with their places."""
        if jnp.issubdtype(x.dtype, jnp.integer):
            h = self._embedded(name, x)
            rows, columns = 1, x.shape[1]
        else:
            rows, columns = self._places(name, x)
            x = to_patches(x, self.patch) if x.ndim == 4 else x.reshape(len(x), -1, x.shape[-1])
            h = dense(self.width, dtype=self.dtype, name=f"{name}_inward")(x)
        return h + positions(rows, columns, self.width).astype(h.dtype)

    def _embedded(self, name: str, x: Any) -> Tokens:
        if name not in self.vocabularies or x.ndim != 2:
            raise ValueError(
                f"the part {name!r} is whole numbers of shape {x.shape}: tokens are [batch, "
                f"length], with a vocabulary each, and vocabularies has {dict(self.vocabularies)}"
            )
        size = self.vocabularies[name]
        return token_table(size, self.width, self.dtype, f"{name}_tokens")(x)

    def _places(self, name: str, x: Any) -> tuple[int, int]:
        if name in self.vocabularies or x.ndim not in (2, 3, 4):
            raise ValueError(
                f"the part {name!r} is {x.dtype} of shape {x.shape}: a part is whole numbers "
                "[batch, length] with a vocabulary, or real numbers [batch, channels], [batch, "
                "length, channels] or [batch, height, width, channels]"
            )
        if x.ndim < 4:
            return 1, x.shape[1] if x.ndim == 3 else 1
        check_patches(x, self.patch)
        return x.shape[1] // self.patch, x.shape[2] // self.patch

    def _outward(self, name: str, h: Tokens, x: Any) -> Array:
        """What is said of a part, of its own tokens."""
        tokens = name in self.vocabularies
        features = self.vocabularies[name] if tokens else x.shape[-1]
        each = features * self.patch**2 if x.ndim == 4 else features
        h = dense(each, kernel_init=zeros, name=f"{name}_outward")(h)
        if tokens:
            return h
        if x.ndim < 4:
            return h.reshape(x.shape)
        return from_patches(h, x.shape[1], x.shape[2], self.patch)

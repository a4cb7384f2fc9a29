"""A bidirectional transformer of tokens: logits of each from all of them.

Rotary places, time and label by adaptive layer norm (`jaxflow.networks.blocks`). What it returns
are logits over the vocabulary; the mask, the token after it, is read and never said.

Lou et al., 2023, Discrete Diffusion Modeling by Estimating the Ratios of the Data Distribution,
arXiv:2310.16834, appendix C, whose shape Gat et al., 2024, Discrete Flow Matching,
arXiv:2407.15595, take over.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxflow.arrays import at_least_float32
from jaxflow.names import check_known
from jaxflow.networks.blocks import blocks, check_remat, tensor_axes
from jaxflow.networks.embeddings import Conditioning, check_one_time
from jaxflow.networks.initialisers import zeros
from jaxflow.networks.layers import check_fields, dense, layer_norm, modulate, token_table
from jaxflow.sharding import gathered
from jaxflow.types import AnyArray, Array, Float, Int, Labels, Time

__all__ = ["Transformer", "check_heads", "inward", "logits_of", "outward", "transformer"]


class Transformer(nn.Module):
    """Logits `[batch, length, vocabulary]` of tokens `[batch, length]`; all alike when initialised.

    Tokens run from 0 to `vocabulary`, the last of them the mask. Soft tokens, `[batch, length,
    vocabulary]` (`paths.fisher`), are read as sums of tokens by these weights. An `estimate`, its
    own logits (`self_conditioned`), is read as soft tokens beside `x`.

    Attributes:
        vocabulary: tokens that the data is made of.
        width: channels a token, a multiple of `heads`, and a head's share even.
        depth: blocks. Their parameters are stacked, and a scan runs over them.
        heads: of the attention.
        condition: channels that time and label are told in.
        num_classes: labels run from 0 to `num_classes - 1`, and `num_classes` is none.
        neighbours: tokens that each is weighed with before attention, itself in their middle: an
            odd number, or 0 for none (`jaxflow.networks.layers.Neighbours`).
        tied: whether logits are products with the tokens' own vectors; else with others.
        dtype: of the computation; parameters and logits are at least float32.
        remat, attention, unroll: as in `DiT`.
    """

    vocabulary: int
    width: int = 256
    depth: int = 6
    heads: int = 4
    condition: int = 128
    num_classes: int | None = None
    neighbours: int = 0
    tied: bool = True
    dtype: Any = None
    remat: str | None = None
    attention: str | None = None
    unroll: int = 1

    gathers = True

    def __post_init__(self) -> None:
        least = {"vocabulary": 1, "width": 2, "depth": 1, "heads": 1, "condition": 2, "unroll": 1}
        check_fields(self, neighbours=0, **least)
        if self.neighbours and self.neighbours % 2 == 0:
            raise ValueError(
                f"neighbours is {self.neighbours}: a token stands in the middle of an odd number, "
                "such as 5, or is read alone by 0"
            )
        super().__post_init__()

    @property
    def tensor_axes(self) -> dict[str, tuple[int, int]]:
        """Where a tensor axis of devices cuts each block: attention by heads, the MLP by units."""
        return tensor_axes(self.width, self.heads)

    @nn.compact
    def __call__(
        self,
        t: Time,
        x: Int[AnyArray, "batch length"] | Float[AnyArray, "batch length vocabulary"],
        *,
        label: Labels | None = None,
        guidance: Float[AnyArray, "batch 3"] | None = None,
        estimate: Float[AnyArray, "batch length vocabulary"] | None = None,
    ) -> Float[Array, "batch length vocabulary"]:
        self._check(x)
        check_one_time(t, x)
        c = Conditioning(self.condition, self.num_classes, name="conditioning")
        c = nn.silu(c(t, x, label, None, guidance))
        h, table = inward(self, x, c.dtype)
        if estimate is not None:
            said = soft(self, nn.softmax(at_least_float32(estimate)), table)
            h = h + dense(self.width, dtype=self.dtype, kernel_init=zeros, name="estimate")(said)
        h = blocks(self.depth, self.remat, self.unroll)(
            self.heads,
            self.dtype,
            self.attention,
            rotary=True,
            neighbours=self.neighbours,
            name="blocks",
        )(h, c)[0]
        return logits_of(self, outward(self, h, c), table)

    def _check(self, x: Any) -> None:
        hard = x.ndim == 2 and jnp.issubdtype(x.dtype, jnp.integer)
        soft = x.ndim == 3 and jnp.issubdtype(x.dtype, jnp.floating)
        if not hard and not (soft and x.shape[-1] == self.vocabulary):
            raise ValueError(
                f"x is {x.dtype} of shape {x.shape}: a Transformer takes tokens, whole numbers "
                f"[batch, length], or soft ones, real numbers [batch, length, {self.vocabulary}]"
            )
        check_heads(self)
        check_remat(self.remat)


def check_heads(module: Any) -> None:
    """Refuse a share of channels for each head that rotary places cannot turn.

    Raises:
        ValueError: with both numbers.
    """
    if module.width % module.heads or (module.width // module.heads) % 2:
        raise ValueError(
            f"{module.heads} heads share {module.width} channels: each needs an even number of "
            "them, for rotary places"
        )


def inward(module: Any, x: Any, dtype: Any) -> tuple[Array, nn.Embed]:
    """Tokens, or soft ones, as vectors, in the module's `dtype` or else this; and their table."""
    table = token_table(module.vocabulary, module.width, module.dtype, "tokens")
    if x.ndim == 2:
        return table(x).astype(module.dtype or dtype), table
    return soft(module, x, table), table


def soft(module: Any, x: Array, table: nn.Embed) -> Float[Array, "batch length width"]:
    """The vectors of tokens, summed by the weights of each place."""
    vectors = gathered(table.embedding.astype(module.dtype or x.dtype), table=True)
    return jnp.einsum("blv,vw->blw", x.astype(vectors.dtype), vectors[: module.vocabulary])


def outward(module: Any, h: Array, c: Array) -> Array:
    """What the last block leaves, normalised and modulated by the condition."""
    modulation = dense(2 * module.width, kernel_init=zeros, name="modulation")(c)
    shift, scale = jnp.split(modulation, 2, axis=-1)
    return modulate(layer_norm(at_least_float32(h)), shift, scale)


def logits_of(
    module: Any, h: Array, table: nn.Embed, name: str = "outward", bias: str = "bias"
) -> Float[Array, "batch length vocabulary"]:
    """Logits of each place, by the tokens' own vectors where `module.tied`."""
    if not module.tied:
        return dense(module.vocabulary, kernel_init=zeros, name=name)(h)
    h = dense(module.width, kernel_init=zeros, name=name)(h)
    vectors = gathered(table.embedding.astype(module.dtype or h.dtype), table=True)
    logits = jnp.einsum(
        "blw,vw->blv",
        h.astype(vectors.dtype),
        vectors[: module.vocabulary],
        preferred_element_type=h.dtype,
    )
    return logits + gathered(module.param(bias, zeros, (module.vocabulary,)))


_sizes = {
    "1M": {"width": 128, "depth": 4, "heads": 4},
    "6M": {"width": 256, "depth": 6, "heads": 4},
    "28M": {"width": 512, "depth": 8, "heads": 8},
    "92M": {"width": 768, "depth": 12, "heads": 12},
}


def transformer(size: str, vocabulary: int, **fields: Any) -> Transformer:
    """A Transformer of a size, named by the parameters of its blocks: 1M, 6M, 28M or 92M.

    The last is the shape of the published small models: of 170 M with an untied vocabulary of
    50,257.

    Args:
        size: its name.
        vocabulary: tokens that the data is made of.
        **fields: any other attribute of `Transformer`.

    Raises:
        ValueError: for another name, with the nearest known one.

    >>> transformer("92M", 27).depth
    12
    """
    check_known("a Transformer", size, _sizes)
    return Transformer(vocabulary, **{**_sizes[size], **fields})

"""A bidirectional transformer of sequences: rates of their edits, and laws of what comes.

Rotary places, time and label by adaptive layer norm (`jaxflow.networks.blocks`). A place before the
first token, which holds padding, is put in front; padding after the last is seen by none.

Havasi et al., 2025, Edit Flows: Flow Matching with Edit Operations, arXiv:2506.09018, eq. 13 to 15.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxflow.networks.blocks import blocks, check_remat, tensor_axes
from jaxflow.networks.embeddings import Conditioning, check_one_time
from jaxflow.networks.initialisers import zeros
from jaxflow.networks.layers import check_fields, dense
from jaxflow.networks.transformer import check_heads, inward, logits_of, outward
from jaxflow.types import AnyArray, Array, Float, Int, Labels, Time

__all__ = ["EditTransformer"]


class EditTransformer(nn.Module):
    """Edits of sequences `[batch, length]`, padded at their end by the token after the vocabulary.

    Of `places = length + 1` places, the first of them before the first token, it returns

    - `"log_rates" [batch, places, 3]`: the logarithm of the expected number of tokens missing after
      the place, and of the probabilities that its own is to be substituted and deleted, all of them
      zero when initialised;
    - `"insert"` and `"substitute"` `[batch, places, vocabulary]`: logits of the token that comes.

    What it says of padding, or of substitution and deletion at the first place, means nothing, and
    `paths.Edits.log_rates` does not read it. The loss is `losses.edits`, the sampler
    `sampling.edits`.

    Attributes:
        vocabulary: tokens that the data is made of.
        width: channels a token, a multiple of `heads`, and a head's share even.
        depth: blocks. Their parameters are stacked, and a scan runs over them.
        heads: of the attention.
        condition: channels that time and label are told in.
        num_classes: labels run from 0 to `num_classes - 1`, and `num_classes` is none.
        tied: whether logits are products with the tokens' own vectors; else with others.
        dtype: of the computation; parameters and what is returned are at least float32.
        remat, attention, unroll: as in `DiT`.
    """

    vocabulary: int
    width: int = 256
    depth: int = 6
    heads: int = 4
    condition: int = 128
    num_classes: int | None = None
    tied: bool = True
    dtype: Any = None
    remat: str | None = None
    attention: str | None = None
    unroll: int = 1

    gathers = True

    def __post_init__(self) -> None:
        check_fields(self, vocabulary=1, width=2, depth=1, heads=1, condition=2, unroll=1)
        super().__post_init__()

    @property
    def tensor_axes(self) -> dict[str, tuple[int, int]]:
        """Where a tensor axis of devices cuts each block: attention by heads, the MLP by units."""
        return tensor_axes(self.width, self.heads)

    @nn.compact
    def __call__(
        self,
        t: Time,
        x: Int[AnyArray, "batch length"],
        *,
        label: Labels | None = None,
        guidance: Float[AnyArray, "batch 3"] | None = None,
    ) -> dict[str, Float[Array, "batch places channels"]]:
        self._check(x)
        check_one_time(t, x)
        c = Conditioning(self.condition, self.num_classes, name="conditioning")
        c = nn.silu(c(t, x, label, None, guidance))
        x = jnp.pad(x, ((0, 0), (1, 0)), constant_values=self.vocabulary)
        h, table = inward(self, x, c.dtype)
        seen = (x != self.vocabulary).at[:, 0].set(True)[:, None, None]
        h = blocks(self.depth, self.remat, self.unroll)(
            self.heads, self.dtype, self.attention, rotary=True, name="blocks"
        )(h, c, seen)[0]
        h = outward(self, h, c)
        said = {"log_rates": dense(3, kernel_init=zeros, name="rates")(h)}
        for name in ("insert", "substitute"):
            said[name] = logits_of(self, h, table, name, f"{name}_bias")
        return said

    def _check(self, x: Any) -> None:
        if x.ndim != 2 or not jnp.issubdtype(x.dtype, jnp.integer):
            raise ValueError(
                f"x is {x.dtype} of shape {x.shape}: an EditTransformer takes sequences of tokens, "
                f"whole numbers [batch, length], padded at their end by {self.vocabulary}"
            )
        check_heads(self)
        check_remat(self.remat)

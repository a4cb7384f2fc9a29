r"""A transformer of blocks of tokens: each is generated whole, given those before.

(1) $\log p(x) = \sum_b \log p(x^b \mid x^{< b})$, each factor that of a path of its own

In training all factors are computed at once, of the noisy tokens beside the clean ones,

(2) a noisy token sees those of its block, and clean ones of the blocks before,

(3) a clean token sees clean ones, of its block and of those before

and in sampling the keys and values of (3) are kept, so that a call costs a block.

Arriola et al., Block Diffusion: Interpolating Between Autoregressive and Diffusion Language Models,
2025, arXiv:2503.09573, section 3 and figure 2.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxflow.networks.blocks import blocks, check_remat, tensor_axes
from jaxflow.networks.embeddings import Conditioning
from jaxflow.networks.layers import check_fields
from jaxflow.networks.transformer import check_heads, inward, logits_of, outward
from jaxflow.types import AnyArray, Array, Int, Labels, Time

__all__ = ["BlockTransformer"]

Memory = tuple[Array, Array]


class BlockTransformer(nn.Module):
    """Logits `[batch, length, vocabulary]` of noisy tokens `[batch, length]`, given clean ones.

    Called with `clean`, the data at each place, it is (2); with a `memory` of the blocks before,
    keys and values `[depth, batch, length, heads, features]`, `x` is one block, `start` the place
    of its first token, and what it returns are its logits and its own keys and values.

    Attributes:
        vocabulary: tokens that the data is made of; the mask is the token after them.
        block: tokens that are generated at a time; 1 is an autoregressive model.
        width: channels a token, a multiple of `heads`, and a head's share even.
        depth: blocks of layers. Their parameters are stacked, and a scan runs over them.
        heads: of the attention.
        condition: channels that time and label are told in.
        num_classes, tied, dtype, remat, attention, unroll: as in `Transformer`.
    """

    vocabulary: int
    block: int
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
        check_fields(self, vocabulary=1, block=1, width=2, depth=1, heads=1, condition=2, unroll=1)
        super().__post_init__()

    @property
    def tensor_axes(self) -> dict[str, tuple[int, int]]:
        """Where a tensor axis of devices cuts each block: attention by heads, the MLP by units."""
        return tensor_axes(self.width, self.heads)

    def empty(self, batch: int, length: int, dtype: Any) -> Memory:
        """A memory for sequences of this length that nothing has been read into."""
        shape = (self.depth, batch, length, self.heads, self.width // self.heads)
        return jnp.zeros(shape, self.dtype or dtype), jnp.zeros(shape, self.dtype or dtype)

    @nn.compact
    def __call__(
        self,
        t: Time,
        x: Int[AnyArray, "batch length"],
        *,
        clean: Int[AnyArray, "batch length"] | None = None,
        label: Labels | None = None,
        memory: Memory | None = None,
        start: ArrayLike | None = None,
    ) -> Any:
        self._check(t, x, clean, memory, start)
        count, times = x.shape[1] // self.block, jnp.asarray(t)
        if times.ndim == 1:
            times = jnp.broadcast_to(times[:, None], (len(x), count))
        else:
            times = times[:, :: self.block]
        conditioning = Conditioning(self.condition, self.num_classes, name="conditioning")

        def told(times: Array) -> Array:
            """One vector a token, of a time a block."""
            each = None if label is None else jnp.repeat(label, count)
            c = conditioning(times.reshape(-1), x.reshape(-1, self.block), each)
            return jnp.repeat(nn.silu(c).reshape(len(x), count, -1), self.block, axis=1)

        c = told(times)
        layers = blocks(self.depth, self.remat, self.unroll, memory=memory is not None)(
            self.heads, self.dtype, self.attention, rotary=True, name="blocks"
        )
        if memory is not None:
            h, table = inward(self, x, c.dtype)
            first = jnp.asarray(start)
            seen = jnp.arange(memory[0].shape[2]) < first
            mask = jnp.concatenate([seen, jnp.ones(self.block, bool)])[None, None, None]
            h, own = layers(h, c, mask, first + jnp.arange(self.block), memory)
            return logits_of(self, outward(self, h, c), table), own
        both = jnp.concatenate([jnp.asarray(x), jnp.asarray(clean)], axis=1)
        h, table = inward(self, both, c.dtype)
        mask, places = sees(x.shape[1], self.block), jnp.tile(jnp.arange(x.shape[1]), 2)
        both = jnp.concatenate([c, told(jnp.ones_like(times))], axis=1)
        h = layers(h, both, jnp.asarray(mask), places)[0]
        return logits_of(self, outward(self, h[:, : x.shape[1]], c), table)

    def _check(self, t: Any, x: Any, clean: Any, memory: Any, start: Any) -> None:
        if x.ndim != 2 or not jnp.issubdtype(x.dtype, jnp.integer):
            raise ValueError(
                f"x is {x.dtype} of shape {x.shape}: a BlockTransformer takes tokens, whole "
                "numbers [batch, length]"
            )
        if x.shape[1] % self.block or (memory is not None and x.shape[1] != self.block):
            of = "one block of" if memory is not None else "whole blocks of"
            raise ValueError(f"{x.shape[1]} tokens are not {of} {self.block}: take a multiple")
        if jnp.shape(t) not in (x.shape[:1], x.shape):
            raise ValueError(
                f"t has shape {jnp.shape(t)} for tokens of shape {x.shape}: it is [batch], or one "
                "time a token, alike in each block, as draws.by_block draws them"
            )
        if memory is not None and start is None:
            raise ValueError("start is missing: the place of the block's first token")
        if memory is None and (clean is None or jnp.shape(clean) != x.shape):
            found = "missing" if clean is None else f"of shape {jnp.shape(clean)}"
            raise ValueError(
                f"clean is {found} for tokens of shape {x.shape}: the data at each place, which "
                "draws.by_block(block) puts into the conditions, and sampling.by_block keeps"
            )
        check_heads(self)
        check_remat(self.remat)


def sees(length: int, block: int) -> np.ndarray:
    """(2) and (3), `[1, 1, 2 length, 2 length]`, noisy tokens before clean ones."""
    of = np.arange(length) // block
    same, before = of[:, None] == of, of[:, None] > of
    none = np.zeros_like(same)
    return np.block([[same, before], [none, same | before]])[None, None]

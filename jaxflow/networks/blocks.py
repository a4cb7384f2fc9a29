"""The blocks of transformers, conditioned by adaptive layer norm.

    (1)  h <- h + gate_1 * attention(norm(h) (1 + scale_1) + shift_1)
    (2)  h <- h + gate_2 * mlp(norm(h) (1 + scale_2) + shift_2)

with shifts, scales and gates linear in the condition, one an example or one a token, and zero at
initialisation.

Peebles & Xie, 2022, Scalable Diffusion Models with Transformers, arXiv:2212.09748, section 3.2.
"""

from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxflow.networks.initialisers import zeros
from jaxflow.networks.layers import (
    Attention,
    Neighbours,
    column,
    dense,
    for_tokens,
    layer_norm,
    modulate,
    regathering,
    row,
)
from jaxflow.types import Array, Float

__all__ = ["blocks", "check_remat", "tensor_axes"]

Tokens = Float[Array, "batch tokens features"]

_policies = {
    None: None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


def blocks(depth: int, remat: str | None, unroll: int, *, memory: bool = False) -> Any:
    """So many blocks, their parameters stacked, in a scan: a module of the fields of one.

    With a memory, called `(h, c, mask, places, (keys, values))`, both led by the blocks, and
    returning those of `h` as well; see `jaxflow.networks.layers.Attention`.
    """
    prevent_cse = unroll > 1
    if remat is None:
        block = regathering(_Block, prevent_cse=prevent_cse)
    else:
        block = nn.remat(_Block, policy=_policies[remat], prevent_cse=prevent_cse)
    return nn.scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=cast(Any, (nn.broadcast,) * 3 + (0,) if memory else nn.broadcast),
        length=depth,
        unroll=unroll,
    )


def check_remat(remat: str | None) -> None:
    """Refuse what is no way of saving memory.

    Raises:
        ValueError: naming those there are.
    """
    if remat not in _policies:
        raise ValueError(f"remat is one of {list(_policies)}; got {remat!r}")


def tensor_axes(width: int, heads: int) -> dict[str, tuple[int, int]]:
    """Where a tensor axis of devices cuts each block: attention by heads, the MLP by units.

    The end of a parameter's path, the axis that is cut, and the units that stay whole.
    """
    hidden = 4 * width
    return {
        "attention/qkv/kernel": (-1, heads),
        "attention/qkv/bias": (-1, heads),
        "attention/out/kernel": (-2, heads),
        "expand/kernel": (-1, hidden),
        "expand/bias": (-1, hidden),
        "contract/kernel": (-2, hidden),
    }


class _Block(nn.Module):
    heads: int
    dtype: Any
    attention: str | None
    rotary: bool = False
    neighbours: int = 0

    @nn.compact
    def __call__(
        self,
        h: Tokens,
        c: Float[Array, "batch *tokens told"],
        mask: Array | None = None,
        places: Array | None = None,
        memory: tuple[Array, Array] | None = None,
    ) -> tuple[Tokens, Any]:
        width = h.shape[-1]
        modulation = dense(6 * width, dtype=self.dtype, kernel_init=zeros, name="modulation")(c)
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = jnp.split(modulation, 6, axis=-1)
        y = modulate(layer_norm(h), shift_1, scale_1)
        if self.neighbours:
            y = Neighbours(self.neighbours, name="neighbours")(y)
        attention = Attention(
            self.heads, self.attention, self.dtype, rotary=self.rotary, name="attention"
        )
        y, own = attention(y, mask, places, memory), None
        if memory is not None:
            y, own = y
        h = h + for_tokens(gate_1) * y
        y = modulate(layer_norm(h), shift_2, scale_2)
        y = nn.gelu(column(4 * width, dtype=self.dtype, name="expand")(y))
        y = row(width, dtype=self.dtype, name="contract")(y)
        return h + for_tokens(gate_2) * y, own

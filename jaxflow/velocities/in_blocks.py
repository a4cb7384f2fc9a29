"""Logits of one block of tokens given those before, for `sampling.by_block`.

What has been read of the blocks before is a memory: `empty` makes one, `read` adds a block to it,
and a call has the logits of the next. A network of blocks keeps keys and values; any other function
is called anew with all that came before as its condition `clean`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxflow.arrays import at_least_float32
from jaxflow.checks import check_made
from jaxflow.records import record, static
from jaxflow.tokens import check_logits
from jaxflow.types import Array, Data, Network, Params, Velocity
from jaxflow.velocities.function import as_velocity
from jaxflow.velocities.network import NetworkVelocity
from jaxflow.velocities.sharpened import Sharpened

__all__ = ["in_blocks"]


@record
class Kept:
    """A network of blocks, its memory the keys and values of those before."""

    network: Network
    params: Params
    block: int = static()

    reads = 1

    def empty(self, x: Data) -> Any:
        """A memory for sequences as `x`."""
        network: Any = self.network
        return network.empty(*x.shape, at_least_float32(jax.tree.leaves(self.params)[0]).dtype)

    def __call__(self, t: Any, x: Data, memory: Any, start: ArrayLike, **cond: Any) -> Array:
        return self.network(self.params, t, x, memory=memory, start=start, **cond)[0]

    def read(self, x: Data, memory: Any, start: ArrayLike, **cond: Any) -> Any:
        """The memory, with a block of data more; a call of the network."""
        end = jnp.ones(len(x))
        own = self.network(self.params, end, x, memory=memory, start=start, **cond)[1]
        write = jax.lax.dynamic_update_slice_in_dim
        return jax.tree.map(lambda m, o: write(m, o.astype(m.dtype), start, 2), memory, own)


@record
class Anew:
    """Any logits of sequences, told the blocks before by `clean`; its memory is these."""

    logits: Velocity
    block: int = static()

    reads = 0

    def empty(self, x: Data) -> Any:
        """A memory for sequences as `x`."""
        return jnp.zeros_like(x)

    def __call__(self, t: Any, x: Data, memory: Any, start: ArrayLike, **cond: Any) -> Array:
        whole = jax.lax.dynamic_update_slice_in_dim(memory, x, start, 1)
        logits = self.logits(t, whole, clean=memory, **cond)
        check_logits(logits, whole)
        return jax.lax.dynamic_slice_in_dim(logits, start, self.block, 1)

    def read(self, x: Data, memory: Any, start: ArrayLike, **cond: Any) -> Any:
        """The memory, with a block of data more; no call."""
        return jax.lax.dynamic_update_slice_in_dim(memory, x, start, 1)


@record
class SharpenedBlocks:
    """Logits of blocks, made surer by a rule of `velocities.temperature` or `top_p`."""

    blocks: Any
    rule: Callable[..., Any]
    size: Array

    @property
    def block(self) -> int:
        """Tokens of a block."""
        return self.blocks.block

    @property
    def reads(self) -> int:
        """Calls of the network that reading a block costs."""
        return self.blocks.reads

    def empty(self, x: Data) -> Any:
        """A memory for sequences as `x`."""
        return self.blocks.empty(x)

    def __call__(self, t: Any, x: Data, memory: Any, start: ArrayLike, **cond: Any) -> Array:
        return self.rule(self.blocks(t, x, memory, start, **cond), self.size)

    def read(self, x: Data, memory: Any, start: ArrayLike, **cond: Any) -> Any:
        """The memory, with a block of data more."""
        return self.blocks.read(x, memory, start, **cond)


def in_blocks(logits: Velocity | Callable[..., Any], block: int | None = None) -> Any:
    """Logits of a block given those before: a call, `empty` and `read`.

    Args:
        logits: those of a network of blocks, `velocities.from_network(network, params)`, also under
            `temperature` or `top_p`, which keeps keys and values; or any others `(t, x, *, clean,
            **cond) -> logits [batch, length, vocabulary]`, as guided ones, whose block is that of
            `x` and `clean` the data before it, and which are called with whole sequences.
        block: tokens of one; that of the network where None.

    Raises:
        ValueError: for a block that is missing, not positive, or another than the network's.
    """
    check_made("logits", logits)
    if isinstance(logits, Sharpened):
        return SharpenedBlocks(in_blocks(logits.velocity, block), logits.rule, logits.size)
    if isinstance(logits, NetworkVelocity):
        own = getattr(logits.network, "block", None)
        if own is not None:
            if block not in (None, own):
                raise ValueError(f"block is {block}, but the network's is {own}: leave it out")
            return Kept(logits.network, logits.params, own)
    if not (isinstance(block, int) and block >= 1):
        raise ValueError(
            f"block is {block!r}: give the number of tokens that are generated at a time, where "
            "the logits are not those of a network of blocks themselves"
        )
    return Anew(as_velocity(logits), block)

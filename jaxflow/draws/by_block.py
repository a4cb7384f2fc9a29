"""Times of blocks of tokens, and the data before each, for networks of blocks."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from jaxflow import times as times_
from jaxflow.draws.pairs import stretched
from jaxflow.paths.ends import interval_of
from jaxflow.records import record, static, traceable
from jaxflow.types import Batch, Draw, Held, Interval, Key, Path, Times

__all__ = ["by_block"]


@record
class ByBlock:
    """A time a block, and the data as the condition `clean`."""

    times: Any
    interval: Interval = static()
    block: int = static()

    def __call__(self, key: Key, batch: Batch, held: Held | None = None) -> Batch:
        x1 = batch["x1"]
        if jnp.ndim(x1) != 2 or jnp.shape(x1)[1] % self.block:
            raise ValueError(
                f"the data has shape {jnp.shape(x1)}: tokens [batch, length], whole blocks of "
                f"{self.block}"
            )
        count = x1.shape[1] // self.block
        t = stretched(key, self.times, len(x1) * count, self.interval)
        t = jnp.repeat(t.reshape(count, len(x1)).T, self.block, axis=1)  # far apart if stratified
        return {**batch, "t": t, "cond": {**batch.get("cond", {}), "clean": x1}}


def by_block(path: Path, block: int, *, times: Times | Callable[..., Any] | None = None) -> Draw:
    """Times `[batch, length]`, alike in each block of tokens, and the data as condition `clean`.

    After `draws.standard(path)`, whose times it replaces, for a `networks.BlockTransformer`.

    Args:
        path: of tokens, which gives the interval of the times.
        block: tokens of one.
        times: their distribution; uniform where None.

    Raises:
        ValueError: for a block that is no positive number; and, called, for data that is not whole
            blocks.
    """
    if not (isinstance(block, int) and block >= 1):
        raise ValueError(
            f"by_block needs the number of tokens of a block, 1 or more; got {block!r}"
        )
    chosen = times_.uniform() if times is None else times
    return ByBlock(traceable(chosen), interval_of(path), block)

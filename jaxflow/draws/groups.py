"""Examples in groups, for losses that compare samples with one another."""

import jax

from jaxflow.arrays import batch_size
from jaxflow.draws.chain import as_draw
from jaxflow.records import record, static
from jaxflow.types import Batch, Draw, Held, Key

__all__ = ["Grouped", "groups", "in_groups"]


@record
class Grouped:
    """The mark of a batch in groups of `size`, its `"groups"`.

    Where only some members are carried from `t` to an `r`, those are the first, `moving` of them;
    the others rest at `r = t`.
    """

    size: int = static()
    moving: int | None = static(default=None)


@record
class Groups:
    """Gives every array of the batch a second axis, the members of a group."""

    spans: Draw | None
    size: int = static()

    def __call__(self, key: Key, batch: Batch, held: Held | None = None) -> Batch:
        batch = in_groups(batch, Grouped(self.size))
        return batch if self.spans is None else self.spans(key, batch, held)


def in_groups(batch: Batch, mark: Grouped) -> Batch:
    """The batch in groups of members that follow each other, with their mark.

    Raises:
        ValueError: for a batch that does not divide, or is in groups already.
    """
    n, size = batch_size(batch["x1"]), mark.size
    if "groups" in batch:
        raise ValueError(
            "the batch is in groups already, which share their times: draw them by "
            "draws.groups(size, draws.spans(times, equal=0.0))"
        )
    if n % size:
        raise ValueError(f"a batch of {n} does not divide into groups of {size}: choose a multiple")
    gathered = jax.tree.map(lambda a: a.reshape(n // size, size, *a.shape[1:]), dict(batch))
    return {**gathered, "groups": mark}


def groups(size: int, spans: Draw | None = None) -> Draw:
    """Gathers every `size` examples in a row into one, `[batch / size, size, *event]`.

    Comes after what draws the pairs, `draws.chain(draws.standard(path), draws.groups(64))`. A group
    is then the example of everything that follows: it is never split between microbatches or
    devices, so that every layout compares the same samples. Losses say where they need one.

    Args:
        size: of a group; the batch is a multiple of it.
        spans: draws times for the groups, one pair for all members, as `draws.spans(times)`.

    Raises:
        ValueError: unless `size >= 2`; (when called) for a batch that does not divide.

    >>> import jax.numpy as jnp
    >>> groups(2)(jax.random.key(0), {"x1": jnp.zeros((6, 3))})["x1"].shape
    (3, 2, 3)
    """
    if not (isinstance(size, int) and size >= 2):
        raise ValueError(f"a group has two members or more; got size={size!r}")
    return Groups(None if spans is None else as_draw(spans), size)

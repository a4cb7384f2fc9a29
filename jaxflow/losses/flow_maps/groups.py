"""Batches whose examples are groups of samples that a loss compares with one another."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.arrays import batch_size
from jaxflow.draws.groups import Grouped
from jaxflow.losses.flow_matching import check_complete
from jaxflow.types import Array, Batch

__all__ = ["flattened", "regrouped"]


def flattened(name: str, batch: Batch) -> tuple[Batch, tuple[int, int]]:
    """The batch sample by sample, with the number of groups and of members.

    Raises:
        ValueError: where the batch was not completed, has a mask, or is not grouped, naming the
            loss.
    """
    check_complete(batch)
    if "mask" in batch:
        raise ValueError(f"{name} takes no mask: leave batch['mask'] out")
    arrays = {k: batch[k] for k in ("x0", "x1", "z", "cond") if k in batch}
    mark = batch.get("groups")
    if mark is None:
        raise ValueError(
            f"{name} compares the samples of a group: complete the batch with draws.chain("
            "draws.standard(path), draws.groups(size))"
        )
    assert isinstance(mark, Grouped)
    n, size = batch_size(arrays), mark.size
    flat = jax.tree.map(lambda a: a.reshape(n * size, *a.shape[2:]), arrays)
    times = {k: _each(batch[k], size) for k in ("t", "s", "r") if k in batch}
    return {**batch, **flat, **times}, (n, size)


def _each(t: Any, size: int) -> Array:
    """One time a sample, of one a group or one a sample."""
    t = jnp.asarray(t)
    return t.reshape(-1) if t.ndim == 2 else jnp.repeat(t, size)


def regrouped(x: Any, shape: tuple[int, int]) -> Array:
    """Samples as vectors, `[groups, members, numbers]`; the parts of a sample side by side."""
    leaves = [jnp.asarray(a).reshape(*shape, -1) for a in jax.tree.leaves(x)]
    return jnp.concatenate(leaves, axis=-1)

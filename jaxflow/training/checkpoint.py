"""Checkpoints: asynchronous, checked, and restored from the newest that is whole.

Orbax writes; a checksum of every array, computed where the array lies, is stored beside them and
compared after reading, since a flipped bit would otherwise pass unseen. The position in the data
is the step itself, so the state is all there is to save.
"""

import itertools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import UInt32

from jaxflow.types import Array, PyTree, TrainState

__all__ = ["Checkpoints", "Restored", "fingerprint"]

logger = logging.getLogger(__name__)

_MULTIPLIER = 2654435761


class Restored(NamedTuple):
    """A state, the mapping that was saved with it, and the newer steps that were refused."""

    state: TrainState
    meta: Mapping[str, Any]
    refused: Mapping[int, str]


@jax.jit
def fingerprint(tree: PyTree) -> UInt32[Array, "leaves"]:
    """A checksum a leaf, in integers modulo 2^32, so that no sharding changes it.

    Every word is weighted by an odd number that depends on its place: a changed word always
    changes the sum.
    """
    return jnp.stack([_checksum(leaf) for leaf in jax.tree.leaves(tree)])


def _checksum(leaf: Array) -> Array:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    if leaf.dtype == jnp.bool_:
        leaf = leaf.astype(jnp.uint8)
    word = {1: jnp.uint8, 2: jnp.uint16}.get(leaf.dtype.itemsize, jnp.uint32)
    words = jax.lax.bitcast_convert_type(leaf, word).astype(jnp.uint32)
    place = jnp.zeros(words.shape, jnp.uint32)
    for axis in range(words.ndim):
        index = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        place = place * jnp.uint32(_MULTIPLIER) + index
    return jnp.sum(words * (2 * place + 1), dtype=jnp.uint32)


class Checkpoints:
    """The checkpoints of one run, in one folder; use it in a `with` block.

    Args:
        directory: made where it is missing.
        keep: how many of the newest to keep.
    """

    def __init__(self, directory: str | Path, *, keep: int = 3):
        self.directory = Path(directory).absolute()
        self._refused: Mapping[int, str] = {}
        options = ocp.CheckpointManagerOptions(
            preservation_policy=ocp.checkpoint_managers.LatestN(keep),
            cleanup_tmp_directories=True,
        )
        self._manager = ocp.CheckpointManager(
            self.directory, options=options, item_names=("state", "meta")
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def steps(self) -> list[int]:
        """The steps at hand, oldest first."""
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState, meta: Mapping[str, Any] | None = None) -> None:
        """Save a state under its step and return while it is being written.

        Steps that `restore` refused and that stand in the way are renamed `refused-...`.

        Args:
            state: may be donated to the next step at once.
            meta: anything that JSON holds.

        Raises:
            RuntimeError: where the folder holds a newer step.
        """
        step = int(state.step)
        self._set_aside([refused for refused in self._refused if refused >= step])
        newest = max(self.steps(), default=-1)
        if step in self.steps():
            return
        if step < newest:
            raise RuntimeError(
                f"step {step} was not saved: {self.directory} holds the newer step {newest}; move "
                "the newer steps away or use a new folder"
            )
        sums = [int(v) for v in np.asarray(fingerprint(state))]
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            meta=ocp.args.JsonSave({"fingerprint": sums, "meta": dict(meta or {})}),
        )
        self._manager.save(step, args=args, force=True)

    def restore(self, like: TrainState) -> Restored | None:
        """The newest whole checkpoint, or None where the folder has none at all.

        Args:
            like: a state, or `jax.ShapeDtypeStruct`s with shardings: shapes, dtypes and layout.

        Raises:
            ValueError: where there are checkpoints and none is whole; it says why for each.
        """
        abstract = jax.tree.map(_abstract, like)
        refused: dict[int, str] = {}
        for step in reversed(self.steps()):
            try:
                state, meta = self._read(step, abstract)
            except Exception as error:
                refused[step] = str(error).strip().split("\n")[0][:200]
                logger.warning("checkpoint %s refused: %s", step, refused[step])
                continue
            self._refused = refused
            return Restored(state, meta, refused)
        if refused:
            reasons = "; ".join(f"step {step}: {why}" for step, why in refused.items())
            raise ValueError(f"no checkpoint in {self.directory} is whole ({reasons})")
        return None

    def _set_aside(self, steps: list[int]) -> None:
        """Rename the folders of refused steps, so that the run may pass them again."""
        for step in steps:
            names = (self.directory / f"refused-{step}-{i}" for i in itertools.count())
            (self.directory / str(step)).rename(next(n for n in names if not n.exists()))
        if steps:
            self._refused = {k: why for k, why in self._refused.items() if k not in steps}
            self._manager.reload()

    def _read(self, step: int, abstract: TrainState) -> tuple[TrainState, Mapping[str, Any]]:
        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract), meta=ocp.args.JsonRestore()
        )
        read: Any = self._manager.restore(step, args=args)
        stored = np.asarray(read.meta["fingerprint"], np.uint32)
        if not np.array_equal(np.asarray(fingerprint(read.state)), stored):
            raise ValueError("its arrays do not match their checksums")
        return read.state, read.meta["meta"]

    def wait(self) -> None:
        """Until what is being written is whole on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Finish writing and let go of the folder."""
        self._manager.close()


def _abstract(leaf: Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None))

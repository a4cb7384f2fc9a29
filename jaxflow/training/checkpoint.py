"""Checkpoints: asynchronous, checked, and restored from the newest that is whole.

Orbax writes; a checksum of every array, computed where the array lies, is stored beside them and
compared after reading, since a flipped bit would otherwise pass unseen. The position in the data
is the step itself, so the state is all there is to save. What is frozen never changes, so it is
written once, in `frozen/CHECKSUM` beside the steps.
"""

import dataclasses
import itertools
import json
import logging
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import reduce
from operator import getitem
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint._src.metadata import array_metadata_store

from jaxflow.training import processes
from jaxflow.training.fingerprint import check_sums, with_sums
from jaxflow.types import Params, PyTree, TrainState

__all__ = ["Checkpoints", "Read", "Restored", "read_params"]

logger = logging.getLogger(__name__)

FROZEN = "frozen"
SHARE = 2**20  # bytes of an array that one of several devices that hold it all writes at least
_DISK = re.compile("no space left|disk quota|file too large|permission denied|read-only", re.I)


class Restored(NamedTuple):
    """A state, the mapping that was saved with it, and the newer steps that were refused."""

    state: TrainState
    meta: Mapping[str, Any]
    refused: Mapping[int, str]


class Read(NamedTuple):
    """Parameters and the step they are of."""

    params: Params
    step: int


class Checkpoints:
    """The checkpoints of one run, in one folder; use it in a `with` block.

    Args:
        directory: made where it is missing; a local folder or a `gs://` path.
        keep: how many of the newest to keep.
        keep_every: keep those at multiples of so many steps as well; 0 for none.
        best: a metric, of which the checkpoint with the lowest value is kept as well; "" for none.

    Raises:
        ValueError: for a `keep` that would keep none, a negative `keep_every`, or a directory whose
            name holds one of `*?[`, which Orbax takes for a pattern when it writes.
    """

    def __init__(
        self, directory: str | PathLike[str], *, keep: int = 3, keep_every: int = 0, best: str = ""
    ):
        if keep < 1 or keep_every < 0:
            raise ValueError(
                f"keep must be at least 1 and keep_every at least 0; got {keep} and {keep_every}"
            )
        self.directory = _folder(directory)
        self._refused: Mapping[int, str] = {}
        self._best = best
        options = ocp.CheckpointManagerOptions(
            preservation_policy=_kept(keep, keep_every, best),
            best_fn=_lowest(best) if best else None,
            cleanup_tmp_directories=True,
        )
        handlers = {"state": _handler(), "meta": ocp.JsonCheckpointHandler()}
        self._manager = _Manager(
            self.directory, options=options, item_names=tuple(handlers), item_handlers=handlers
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def steps(self) -> list[int]:
        """The steps at hand, oldest first."""
        return sorted(self._manager.all_steps())

    def save(
        self,
        state: TrainState,
        meta: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float | None] | None = None,
    ) -> None:
        """Save a state under its step and return while it is being written.

        Steps that `restore` refused and that stand in the way are renamed `refused-...`.

        Args:
            state: may be donated to the next step at once.
            meta: anything that JSON holds.
            metrics: by which the best is known; None is a value that is not.

        Raises:
            RuntimeError: where the folder holds a newer step.
            ValueError: where the metrics lack the one that tells the best.
            OSError: where this or the last checkpoint could not be written.
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
        frozen, state = state.frozen, dataclasses.replace(state, frozen=None)
        record = with_sums(state, dict(meta or {}))
        with _said_as_os_error(self.directory):
            record["frozen"] = self._keep(frozen)
        args = ocp.args.Composite(state=_save(state), meta=ocp.args.JsonSave(record))
        known = self._known(metrics or {})
        with _said_as_os_error(self.directory):
            self._manager.save(step, args=args, metrics=known, force=True)

    def _keep(self, frozen: Params) -> dict[str, Any] | None:
        """Write what is frozen, unless it was before; returns where, with its checksums."""
        if not jax.tree.leaves(frozen):
            return None
        record = with_sums(frozen, {})
        name = f"{zlib.crc32(json.dumps(record['fingerprint'], sort_keys=True).encode()):08x}"
        folder = self.directory / FROZEN / name
        if not processes.agree(folder.exists()):
            with ocp.AsyncCheckpointer(_handler()) as writer:
                writer.save(folder, _save(frozen))
        return {"name": name, **record}

    def _known(self, metrics: Mapping[str, float | None]) -> dict[str, float] | None:
        """The metric that tells the best, where there is one."""
        if not self._best or not metrics:
            return None
        if self._best not in metrics:
            raise ValueError(
                f"the best checkpoint is to be told by {self._best!r}, but the metrics are "
                f"{', '.join(metrics)}"
            )
        value = metrics[self._best]
        return None if value is None else {self._best: value}

    def restore(self, like: TrainState) -> Restored | None:
        """The newest whole checkpoint, or None where the folder has none at all.

        Args:
            like: a state, or `jax.ShapeDtypeStruct`s with shardings: shapes, dtypes and layout.

        Raises:
            ValueError: where there are checkpoints and none is whole; it says why for each.
            jax.errors.JaxRuntimeError: where a device or another process is at fault.
        """
        abstract = jax.tree.map(_abstract, like)
        refused: dict[int, str] = {}
        for step in reversed(self.steps()):
            try:
                state, meta = self._checked(step, abstract)
            except jax.errors.JaxRuntimeError:
                raise
            except Exception as error:
                refused[step] = _one_line(error)
                logger.warning("checkpoint %s refused: %s", step, refused[step])
                continue
            self._refused = refused
            return Restored(state, meta, refused)
        if refused:
            reasons = "; ".join(f"step {step}: {why}" for step, why in refused.items())
            raise ValueError(f"no checkpoint in {self.directory} is whole ({reasons})")
        return None

    def forget_after(self, step: int) -> None:
        """Set the checkpoints of later steps aside, since the run takes another course."""
        self._set_aside([later for later in self.steps() if later > step])

    def _set_aside(self, steps: list[int]) -> None:
        """Rename the folders of refused steps, so that the run may pass them again."""
        for step in steps if processes.is_first() else []:
            names = (self.directory / f"refused-{step}-{i}" for i in itertools.count())
            (self.directory / str(step)).rename(next(n for n in names if not n.exists()))
        if steps:
            processes.together("jaxflow set aside")
            self._refused = {k: why for k, why in self._refused.items() if k not in steps}
            self._manager.reload()

    def _checked(self, step: int, abstract: TrainState) -> tuple[TrainState, Mapping[str, Any]]:
        """Read, then compare: all processes go on to the comparison, or none does."""
        read, why = None, ""
        try:
            read = _read_whole(self.directory, step, abstract)
        except jax.errors.JaxRuntimeError:
            raise
        except Exception as error:
            why = _one_line(error)
        if not processes.agree(not why) or read is None:
            raise ValueError(why or "another process could not read it")
        state, record = read
        check_sums(dataclasses.replace(state, frozen=None), record)
        if record["frozen"] is not None:
            check_sums(state.frozen, record["frozen"])
        return state, record["meta"]

    def wait(self) -> None:
        """Until what is being written is whole on disk.

        Raises:
            OSError: where it could not be written.
        """
        with _said_as_os_error(self.directory):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Finish writing and let go of the folder."""
        with _said_as_os_error(self.directory):
            self._manager.close()


def read_params(
    directory: str | PathLike[str], *, average: str | None = "ema", step: int | None = None
) -> Read:
    """The parameters of a run, from its checkpoints alone: no config, optimiser or network needed.

    Args:
        directory: that of `Checkpoints`, the `checkpoints` folder of a run.
        average: the name of one of their averages; None for the parameters themselves.
        step: of which checkpoint; the newest that is whole where None.

    Returns:
        The parameters, a tree of dictionaries of arrays on this process's first device as Flax
        takes it, and the step they are of.

    Raises:
        FileNotFoundError: where there is no such checkpoint.
        ValueError: where none is whole; it says why for each.
    """
    folder = _folder(directory)
    found = [int(p.name) for p in folder.iterdir() if p.name.isdecimal()] if folder.exists() else []
    steps = sorted(found, reverse=True) if step is None else [s for s in found if s == step]
    if not steps:
        raise FileNotFoundError(f"{folder} holds no checkpoint{'' if step is None else f' {step}'}")
    place = ("params",) if average is None else ("averages", average)
    refused = []
    for each in steps:
        try:
            return Read(_read_item(folder / str(each), place), each)
        except Exception as error:
            refused.append(f"step {each}: {_one_line(error)}")
    raise ValueError(f"no checkpoint in {folder} is whole ({'; '.join(refused)})")


def _read_whole(
    folder: epath.Path, step: int, abstract: TrainState
) -> tuple[TrainState, Mapping[str, Any]]:
    """A state and its record, unchecked.

    By Orbax's handler and not its manager, which meets the other processes after a good read and
    not after a bad one: one of them would wait for ever.
    """
    record = _record(folder / str(step))
    changing = _restored(folder / str(step) / "state", dataclasses.replace(abstract, frozen=None))
    if record["frozen"] is None:
        return changing, record
    frozen = _restored(folder / FROZEN / record["frozen"]["name"], abstract.frozen)
    return dataclasses.replace(changing, frozen=frozen), record


def _restored(folder: epath.Path, abstract: Any) -> Any:
    handler = ocp.StandardCheckpointHandler()
    return handler.restore(folder, args=ocp.args.StandardRestore(abstract))


def _record(folder: epath.Path) -> Mapping[str, Any]:
    return json.loads((folder / "meta" / "metadata").read_text())


def _read_item(folder: epath.Path, at: tuple[str, ...]) -> Params:
    """The part of a state at a path."""
    handler = ocp.PyTreeCheckpointHandler()
    place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    described: Any = handler.metadata(folder / "state")
    tree = described.tree
    for name in at:
        if name not in tree:
            raise ValueError(f"it holds {', '.join(sorted(tree))}, and no {name!r}")
        tree = tree[name]
    like: Any = jax.tree.map(lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype, sharding=place), tree)
    for name in reversed(at):
        like = {name: like}
    partial: Any = ocp.args.PyTreeRestore
    arguments = partial(
        item=like,
        restore_args=ocp.checkpoint_utils.construct_restore_args(like),
        partial_restore=True,
    )
    read: Any = handler.restore(folder / "state", args=arguments)
    check_sums(read, _record(folder))
    return reduce(getitem, at, read)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _handler() -> ocp.PyTreeCheckpointHandler:
    """Writes an array that lies on several devices in shares only where a share is worth its cost.

    To cut a share is a program of its own a device, and every save waits for all of them.
    """
    arrays = ocp.type_handlers.ArrayHandler(
        min_slice_bytes_for_replica_parallel=SHARE,
        array_metadata_store=array_metadata_store.Store(),  # else keys are read as plain integers
    )
    known = ocp.type_handlers.create_type_handler_registry(
        (np.number, ocp.type_handlers.ScalarHandler()),
        (np.ndarray, ocp.type_handlers.NumpyHandler()),
        (jax.Array, arrays),
    )
    return ocp.PyTreeCheckpointHandler(type_handler_registry=known)


def _save(tree: PyTree) -> Any:
    arguments: Any = ocp.args.PyTreeSave
    return arguments(tree)


class _Manager(ocp.CheckpointManager):
    """Orbax's, which asks whether the run was told to stop by the step that it writes.

    It does so from a thread of its own, after later steps have asked, and JAX takes the latest
    answer for where this process is: a moment to stop at that has passed is never reached.
    """

    def reached_preemption(self, step: int) -> bool:
        return False


def _folder(directory: str | PathLike[str]) -> epath.Path:
    remote = "://" in str(directory)
    folder = str(directory if remote else Path(directory).expanduser().absolute())
    if set("*?[") & set(folder):
        raise ValueError(f"{folder} cannot hold checkpoints: choose a name without *, ? and [")
    return epath.Path(folder)


def _kept(keep: int, keep_every: int, best: str) -> Any:
    policies: Any = ocp.checkpoint_managers
    kept: list[Any] = [policies.LatestN(keep)]
    if keep_every:
        kept.append(policies.EveryNSteps(keep_every))
    if best:
        kept.append(
            policies.BestN(get_metric_fn=_lowest(best), n=1, keep_checkpoints_without_metrics=False)
        )
    return policies.AnyPreservationPolicy(kept)


def _lowest(name: str) -> Callable[[Any], float]:
    return lambda metrics: -float(metrics[name])


@contextmanager
def _said_as_os_error(folder: epath.Path) -> Iterator[None]:
    """What went wrong with a disk, from whichever library, as one kind of error."""
    try:
        yield
    except Exception as error:
        known = _DISK.search(str(error))
        if known is None and not isinstance(error, OSError):
            raise
        reason = known.group() if known else _one_line(error)
        when = " once there is room and leave to write" if known else ""
        raise OSError(
            f"a checkpoint could not be written to {folder} ({reason}); the last whole one stands, "
            f"and the same command goes on from it{when}"
        ) from error


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None))

"""Batches of a source by Grain, where the batch of a step depends on the step alone."""

import logging
import os
import signal
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from jaxflow.data.datasets import Dataset
from jaxflow.data.transforms import Transform
from jaxflow.types import Batch

__all__ = ["Batches", "pipeline"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Example:
    """One example of a source as one row of a batch."""

    transforms: tuple[Transform, ...]
    cond: tuple[str, ...] | None

    def __call__(self, example: Mapping[str, Any], rng: np.random.Generator) -> Batch:
        data = "x1" if "x1" in example else "image"
        names = example.keys() - {data, "x0"} if self.cond is None else self.cond
        values = {name: np.asarray(example[name]) for name in names}
        x1 = np.asarray(example[data])
        for transform in self.transforms:
            x1 = transform(x1, rng)
        row = {"x1": _data(x1), "cond": {k: _number(v) for k, v in values.items() if _counts(v)}}
        return row | {"x0": _data(np.asarray(example["x0"]))} if "x0" in example else row


class _Readable:
    """A source whose unreadable examples are replaced by the next, up to so many of them."""

    def __init__(self, source: Dataset, at_most: int):
        self._source = source
        self._at_most = at_most
        self.unreadable: set[int] = set()

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: Any) -> Mapping[str, Any]:
        for place in range(int(index), int(index) + self._at_most + 1):
            place %= len(self)
            try:
                return self._source[place]
            except Exception as error:
                self._count(place, error)
        raise ValueError(f"{self._at_most + 1} examples in a row, from {index}, cannot be read")

    def _count(self, place: int, error: Exception) -> None:
        self.unreadable.add(place)
        logger.warning("example %s cannot be read: %s", place, error)
        if len(self.unreadable) > self._at_most:
            raise ValueError(
                f"{len(self.unreadable)} examples cannot be read, the last of them {place} "
                f"({type(error).__name__}: {error}), where unreadable_at_most={self._at_most}: "
                "mend the data, or allow for more"
            ) from error


class _Closed:
    def __next__(self) -> Batch:
        raise ValueError("these batches were closed: restore(step) opens them again")

    def close(self) -> None:
        pass


class Batches:
    """An iterator over batches that knows its position; made by `pipeline`.

    `step` is the next step to be read, and all there is to save: `restore(step)` goes there at
    once, from any number of processes.
    """

    def __init__(self, batches: Any, source: _Readable, workers: int, start: int):
        self._batches = batches
        self._source = source
        self._workers = workers
        self._iterator: Any = _Closed()
        self.restore(start)

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> Batch:
        """The next batch.

        Raises:
            ChildProcessError: where a process that reads was ended from outside.
            ValueError: for more unreadable examples than allowed.
        """
        try:
            batch = next(self._iterator)
        except RuntimeError as error:
            if "Worker process was terminated" not in str(error):
                raise
            raise ChildProcessError(
                f"a process that reads data was ended ({str(error).splitlines()[0]}), perhaps for "
                "want of memory: fewer workers need less"
            ) from error
        self.step += 1
        return batch

    @property
    def unreadable(self) -> int:
        """How many examples were left out so far, but for those that worker processes met."""
        return len(self._source.unreadable)

    def restore(self, step: int) -> None:
        """Continue with the batch of `step`."""
        if step < 0:
            raise ValueError(f"step = {step}: steps count from zero")
        self._iterator.close()
        self._iterator = iter(_read(self._batches[step:], self._workers))
        self.step = step

    def close(self) -> None:
        """Stop the threads and processes that read ahead."""
        self._iterator.close()
        self._iterator = _Closed()


def pipeline(
    source: Dataset,
    *,
    batch_size: int,
    seed: int,
    transforms: Sequence[Transform] = (),
    cond: Sequence[str] | None = None,
    start: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 0,
    shuffle: bool = True,
    repeat: bool = True,
    unreadable_at_most: int = 0,
) -> Batches:
    """Batches `{"x1": [b, *event], "cond": {...}}` of a source, read ahead by threads.

    Position `k batch_size + i` of the epochs laid end to end, each reshuffled, is row `i` of step
    `k`. Process `p` of `n` reads rows `p b .. (p + 1) b - 1` with `b = batch_size / n`, so its
    batches, laid side by side, are the same for any `n`; the randomness of transforms belongs to
    the position as well.

    Args:
        source: examples with the data under `"x1"` or `"image"`. Floats become float32 and
            integers int32; bytes of data stay, for `transforms.scale` to turn into floats. An
            `"x0"` goes along untransformed.
        batch_size: examples a step, over all processes.
        seed: of the shuffle and the transforms, below 2**32.
        transforms: applied to each example of `x1`.
        cond: entries to hand on as conditions; by default all that are numbers.
        start: the step to begin with.
        process_index: which process this is.
        process_count: of how many.
        workers: processes that read and transform, where threads are not enough.
        shuffle: whether to shuffle; without, examples come in their order.
        repeat: whether to go on after an epoch; without, the last batch may be shorter.
        unreadable_at_most: how many examples may fail to be read, each replaced by the next in
            the source; one more is an error. (Each worker process counts its own.)

    Raises:
        ValueError: for sizes that do not fit together, an empty source, unknown entries; from
            `next`, for more unreadable examples than allowed.

    >>> from jaxflow.data.datasets import arrays
    >>> batches = pipeline(arrays(x1=np.arange(6.0)), batch_size=4, seed=0, shuffle=False)
    >>> next(batches)["x1"].tolist(), next(batches)["x1"].tolist()
    ([0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 0.0, 1.0])
    """
    import grain

    _check_processes(batch_size, process_index, process_count)
    readable = _Readable(source, unreadable_at_most)
    _check_source(readable, cond)
    if not repeat and process_count > 1 and len(source) % batch_size:
        raise ValueError(
            f"one pass over {len(source)} examples does not end on a batch of {batch_size}, so the "
            f"{process_count} processes would part ways: choose a batch_size that divides it"
        )
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed = {seed}: Grain takes seeds from 0 to 2**32 - 1")
    examples = grain.MapDataset.source(cast(Any, readable)).seed(seed)
    examples = examples.shuffle() if shuffle else examples
    examples = examples.repeat() if repeat else examples
    rows = examples.random_map(_Example(tuple(transforms), None if cond is None else tuple(cond)))
    batches = rows.batch(batch_size // process_count, drop_remainder=repeat)[
        process_index::process_count
    ]
    return Batches(batches, readable, workers, start)


def _read(batches: Any, workers: int) -> Any:
    """Threads that read ahead, in worker processes if there are any."""
    import grain

    ahead = grain.ReadOptions(num_threads=4, prefetch_buffer_size=8)
    if workers == 0:
        return batches.to_iter_dataset(ahead)
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=4)
    return batches.to_iter_dataset(ahead).mp_prefetch(options, worker_init_fn=_depend)


def _depend(worker: int, workers: int) -> None:
    """In a worker: leave Ctrl-C to the process that reads from it, and end when that does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    from multiprocessing import parent_process

    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(0)


def _counts(x: np.ndarray) -> bool:
    return x.dtype.kind in "biuf"


def _number(x: np.ndarray) -> np.ndarray:
    """Floats as float32, integers as int32, booleans as they are."""
    kinds = {"f": np.float32, "i": np.int32, "u": np.int32}
    return x.astype(kinds.get(x.dtype.kind, x.dtype), copy=False)


def _data(x: np.ndarray) -> np.ndarray:
    """As `_number`, but bytes stay: pixels that nobody scaled are to be noticed, not trained on."""
    return x if x.dtype == np.uint8 else _number(x)


def _check_processes(batch_size: int, process_index: int, process_count: int) -> None:
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index = {process_index} is not one of {process_count} processes")
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(
            f"batch_size = {batch_size} cannot be shared evenly by {process_count} processes: "
            "choose a multiple"
        )


def _check_source(source: _Readable, cond: Sequence[str] | None) -> None:
    if not len(source):
        raise ValueError("the source is empty: there is nothing to make batches of")
    names = source[0].keys()
    if not {"x1", "image"} & names:
        raise ValueError(f"examples have {sorted(names)}: the data goes under 'x1' or 'image'")
    unknown = set(cond or ()) - names
    if unknown:
        raise ValueError(
            f"examples have {sorted(names)}, so {sorted(unknown)} cannot be a condition"
        )

"""From data to steps: each call takes the next batches, from wherever they come."""

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.records import traceable
from jaxflow.training import processes
from jaxflow.training.ahead import ahead
from jaxflow.training.calendar import Calendar
from jaxflow.training.parallel import Program
from jaxflow.training.placement import prefetch
from jaxflow.training.trainer import draw_key
from jaxflow.types import Array, Batch, TrainState

__all__ = ["Feed", "batch_at", "completed", "feed", "rows", "share_of"]

logger = logging.getLogger(__name__)


class Feed(NamedTuple):
    """`advance(state)` takes `stride` steps; `close()` lets go of the data."""

    advance: Callable[[TrainState], tuple[TrainState, Mapping[str, Array]]]
    stride: int
    close: Callable[[], None]


def feed(program: Program, state: TrainState, data: Any, calendar: Calendar, *, most: int) -> Feed:
    """The data from the state's step on.

    Args:
        program: which takes the steps.
        state: which tells the first step, and the run's key.
        data: batches as a function of the step, `batch(step)`, which are made inside the program;
            an iterator with `restore(step)`, as `data.pipeline`; or any other iterable, whose
            first batches are passed over where the run goes on.
        calendar: of the run.
        most: steps a call at most, of data that is a function of the step.

    Raises:
        TypeError: for data of another kind.
    """
    start = int(state.step)
    pure = _is_pure(data)
    if pure and not program.on_host and program.mode != "pmap":
        stride = calendar.stride(start, most)
        stream = processes.distribute(traceable(data), program.layout.whole)
        return Feed(lambda s: program.steps(s, stream, stride), stride, lambda: None)
    host = _host(program, data, pure, start)
    placed = prefetch(completed(program, state, host), program.place)

    def advance(state: TrainState) -> tuple[TrainState, Mapping[str, Array]]:
        try:
            batch = next(placed)
        except StopIteration:
            raise ValueError(
                f"the data ended after {int(state.step)} of {calendar.steps} batches: let it repeat"
            ) from None
        return program.step(state, batch)

    return Feed(advance, 1, placed.close)


def completed(program: Program, state: TrainState, batches: Iterator[Any]) -> Iterator[Any]:
    """A host's batches from the state's step on, drawn ahead where the draw needs the host."""
    if not program.on_host:
        return batches
    key = jax.random.wrap_key_data(jnp.array(np.array(jax.random.key_data(state.key))))
    first = int(state.step)
    return ahead(program.trainer.draw, partial(draw_key, key), batches, first=first)


def _is_pure(data: Any) -> bool:
    """Whether a batch is a function of the step."""
    return hasattr(data, "batch") or (callable(data) and not isinstance(data, Iterable))


def _host(program: Program, data: Any, pure: bool, start: int) -> Iterator[Any]:
    if pure:
        stream, share = traceable(data), share_of(program)
        return (rows(batch_at(stream, step), share) for step in itertools.count(start))
    if hasattr(data, "restore"):
        data.restore(start)
        return iter(data)
    if isinstance(data, Mapping) or not isinstance(data, Iterable) or hasattr(data, "shape"):
        raise TypeError(
            "data is batch(step), an iterator of batches, or an object with batch(step); got "
            f"{type(data).__name__}: data.on_device({{'x1': array}}, batch_size=..., seed=0) makes "
            "one of arrays"
        )
    if start:
        logger.warning("passing over the %s batches of the steps taken before", start)
    return itertools.islice(iter(data), start, None)


def share_of(program: Program) -> tuple[int, int]:
    """What a process reads: a draw on the host pairs the whole batch, so there all of it."""
    return (0, 1) if program.on_host else program.layout.share


@jax.jit
def batch_at(stream: Any, step: Array | int) -> Batch:
    """The batch of a step, of data that is a function of it."""
    return getattr(stream, "batch", stream)(step)


def rows(batch: Batch, share: tuple[int, int]) -> Batch:
    """The `i`-th of `n` equal runs of rows, for `share = (i, n)`."""
    i, n = share
    return jax.tree.map(lambda a: a[i * (len(a) // n) : (i + 1) * (len(a) // n)], batch)

"""From the data of a config to steps: each call takes the next batches, from wherever they come."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments.run.clock import Clock
from experiments.run.positions import Positions, Shifted
from experiments.run.reporting import console
from experiments.setup import dataset
from experiments.setup.labels import check_labels
from jaxflow import data, training
from jaxflow.training import Calendar, Feed, Program, processes
from jaxflow.training.feed import batch_at, rows, share_of
from jaxflow.types import Array, Batch, TrainState

__all__ = ["Fed", "batch_of", "calendar", "feed"]

SCALE = 0.03, 30.0

Metrics = Mapping[str, Array]


class Fed(NamedTuple):
    """The feed of a run, and how many records were left out of it so far."""

    feed: Feed
    unreadable: Callable[[], int]


def calendar(config: ConfigDict) -> Calendar:
    """What is due when, as the config says."""
    return Calendar(
        steps=config.steps,
        log=config.log.every,
        save=config.checkpoint.every,
        look=config.log.pictures_every,
    )


def feed(
    config: ConfigDict, compiled: Program, state: TrainState, positions: Positions, clock: Clock
) -> Fed:
    """The data from the state's step on.

    Streams are drawn inside the program, several steps a call; host batches are placed ahead.
    """
    start = int(state.step)
    source = dataset.batches(config, positions.of(start), share_of(compiled))
    if hasattr(source, "batch") and not compiled.on_host and config.parallel.mode != "pmap":
        stride = calendar(config).stride(start, config.parallel.steps_per_call)
        if start == 0:
            _check_first(config, jax.device_get(batch_at(source, positions.of(0))))
        stream = processes.distribute(source, compiled.layout.whole)
        if positions.left_out:
            stream = Shifted(stream, positions)
        return Fed(
            Feed(lambda s: compiled.steps(s, stream, stride), stride, lambda: None), lambda: 0
        )
    host = _host_batches(source, positions, start, share_of(compiled))
    if start == 0:
        first = next(host)
        _check_first(config, first)
        host = itertools.chain([first], host)
    placed = training.prefetch(training.completed(compiled, state, host), compiled.place)

    def advance(state: TrainState) -> tuple[TrainState, Metrics]:
        with clock("data"):
            batch = next(placed)
        return compiled.step(state, batch)

    def close() -> None:
        placed.close()
        if hasattr(source, "close"):
            source.close()

    return Fed(Feed(advance, 1, close), lambda: getattr(source, "unreadable", 0))


def batch_of(
    config: ConfigDict, compiled: Program, state: TrainState, positions: Positions, step: int
) -> Batch:
    """The batch of one step, placed; complete where a part of the draw runs on the host."""
    source = dataset.batches(config, positions.of(step), share_of(compiled))
    host = _host_batches(source, positions, step, share_of(compiled))
    at = dataclasses.replace(state, step=np.array(step, np.int32))
    return compiled.place(next(training.completed(compiled, at, host)))


def _host_batches(
    source: Any, positions: Positions, start: int, share: tuple[int, int]
) -> Iterator[Any]:
    """This process's batches of the steps from `start`, without the positions left out.

    Of a stream its share is cut; a pipeline was made to read no more.
    """
    if hasattr(source, "batch"):
        step = start
        while True:
            yield rows(batch_at(source, positions.of(step)), share)
            step += 1
    step = start
    while True:
        if source.step != positions.of(step):
            source.restore(positions.of(step))
        yield next(source)
        step += 1


def _check_first(config: ConfigDict, batch: Batch) -> None:
    """Refuse a batch of wrong shapes, dtypes, labels or values; warn of data far from unit scale.

    Of a run's first batch alone: a run that goes on meets its batches as one never interrupted.

    Raises:
        ValueError: naming the entry and what is wrong with it.
    """
    data.check(batch)
    check_labels(config, batch.get("cond", {}))
    x1 = np.asarray(batch["x1"], np.float64)
    size = np.sqrt(np.mean(x1**2))
    if not SCALE[0] <= size <= SCALE[1] and jnp.issubdtype(batch["x1"].dtype, jnp.floating):
        console.print(
            f"warning: the first batch's x1 runs from {x1.min():.4g} to {x1.max():.4g}, root mean "
            f"square {size:.3g}, where noise has 1: scale the data (transforms.scale for pixels)"
        )

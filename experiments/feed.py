"""From the data of a config to steps: each call takes the next batches, from wherever they come."""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments import build
from experiments.clock import Clock
from experiments.positions import Positions, Shifted
from jaxflow import data, draws, training
from jaxflow.training import Program, processes
from jaxflow.types import Array, Batch, TrainState

__all__ = ["Feed", "batch_of", "feed"]

Metrics = Mapping[str, Array]


class Feed(NamedTuple):
    """`advance` takes `stride` steps in a call; `unreadable()` counts records left out so far."""

    advance: Callable[[TrainState], tuple[TrainState, Metrics]]
    stride: int
    close: Callable[[], None]
    unreadable: Callable[[], int]


def feed(
    config: ConfigDict, compiled: Program, state: TrainState, positions: Positions, clock: Clock
) -> Feed:
    """The data from the state's step on.

    Streams are drawn inside the program, several steps a call; host batches are placed ahead.
    """
    start = int(state.step)
    source = build.batches(config, positions.of(start), _share(compiled))
    if hasattr(source, "batch") and not compiled.drawn and config.parallel.mode != "pmap":
        stride = _stride(config, start)
        stream = processes.replicated(source, compiled.layout.whole)
        if positions.left_out:
            stream = Shifted(stream, positions)
        return Feed(lambda s: compiled.steps(s, stream, stride), stride, lambda: None, lambda: 0)
    host = _checked_first(config, _host_batches(source, positions, start))
    placed = data.prefetch(_completed(config, compiled, state, host, start), compiled.place)

    def advance(state: TrainState) -> tuple[TrainState, Metrics]:
        with clock("data"):
            batch = next(placed)
        return compiled.step(state, batch)

    def close() -> None:
        placed.close()
        if hasattr(source, "close"):
            source.close()

    return Feed(advance, 1, close, lambda: getattr(source, "unreadable", 0))


def batch_of(
    config: ConfigDict, compiled: Program, state: TrainState, positions: Positions, step: int
) -> Batch:
    """The batch of one step, placed; complete where a part of the draw runs on the host."""
    source = build.batches(config, positions.of(step), _share(compiled))
    host = _host_batches(source, positions, step)
    return compiled.place(next(_completed(config, compiled, state, host, step)))


def _share(compiled: Program) -> tuple[int, int]:
    """A draw on the host pairs the whole batch, so each process reads all of it."""
    return (0, 1) if compiled.drawn else compiled.layout.share


def _completed(
    config: ConfigDict, compiled: Program, state: TrainState, host: Iterator[Any], first: int
) -> Iterator[Any]:
    if not compiled.drawn:
        return host
    key = jax.random.wrap_key_data(np.array(jax.random.key_data(state.key)))
    return draws.ahead(build.draw(config), partial(training.draw_key, key), host, first=first)


def _stride(config: ConfigDict, start: int) -> int:
    """The most steps a call that meet every moment at which the host has something to do."""
    return math.gcd(
        config.parallel.steps_per_call,
        config.log.every,
        config.log.pictures_every,
        config.checkpoint.every,
        config.steps,
        start,
    )


def _host_batches(source: Any, positions: Positions, start: int) -> Iterator[Any]:
    """Batches of the steps from `start`; a stream is drawn, a pipeline jumps what is left out."""
    if hasattr(source, "batch"):
        draw = jax.jit(lambda source, place: source.batch(place))
        step = start
        while True:
            yield draw(source, positions.of(step))
            step += 1
    step = start
    while True:
        if source.step != positions.of(step):
            source.restore(positions.of(step))
        yield next(source)
        step += 1


def _checked_first(config: ConfigDict, batches: Iterator[Any]) -> Iterator[Any]:
    first = data.check(next(batches))
    build.check_labels(config, first.get("cond", {}))
    yield first
    yield from batches

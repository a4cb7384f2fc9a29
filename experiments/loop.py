"""The training loop: batches in, checkpoints, metrics and pictures out."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments import build
from experiments.generate import generator
from experiments.pictures import draw_loss, draw_samples
from experiments.reporting import Writers, console, training_bar
from jaxflow import data, draws, training
from jaxflow.training import Program
from jaxflow.training.checkpoint import Checkpoints
from jaxflow.types import Array, TrainState

__all__ = ["Trained", "initial_state", "program", "train"]

PICTURED = 100

Metrics = Mapping[str, Array]


class Trained(NamedTuple):
    """The end of a run: its state, the step it began at, its last metrics, and its seconds."""

    state: TrainState
    start: int
    metrics: Mapping[str, float]
    first_step_seconds: float
    seconds: float


def program(config: ConfigDict) -> Program:
    """The compiled run."""
    return training.program(build.trainer(config), mode=config.parallel.mode)


def initial_state(config: ConfigDict, compiled: Program) -> TrainState:
    """The state of step 0, a pure function of the seed."""
    params_key, run_key = jax.random.split(jax.random.key(config.seed))
    return compiled.init(build.parameters(config, params_key), run_key)


def train(config: ConfigDict, workdir: Path) -> Trained:
    """Train from the newest whole checkpoint in `workdir`, or from the start.

    Raises:
        ValueError: where data, network and config do not fit each other.
        ArithmeticError: where all steps between two lines of the log were not finite.
    """
    compiled = program(config)
    state = initial_state(config, compiled)
    with Checkpoints(workdir / "checkpoints", keep=config.checkpoint.keep) as checkpoints:
        restored = checkpoints.restore(state)
        if restored is not None:
            state = restored.state
            console.print(f"going on from step {int(state.step)} in {workdir}")
            for step, reason in restored.refused.items():
                console.print(f"checkpoint {step} was refused: {reason}")
        start = int(state.step)
        writers = Writers(workdir, config, start)
        try:
            return _run(config, workdir, compiled, state, checkpoints, writers)
        finally:
            writers.close()


def _run(
    config: ConfigDict,
    workdir: Path,
    compiled: Program,
    state: TrainState,
    checkpoints: Checkpoints,
    writers: Writers,
) -> Trained:
    start = int(state.step)
    advance, stride, close = _advancer(config, compiled, state)
    began = lap = time.perf_counter()
    first = 0.0
    pending: list[Metrics] = []
    last: dict[str, float] = {}
    draw_pictures = _pictures(config, workdir)
    with training_bar(config.steps, start) as update:
        try:
            for step in range(start + stride, config.steps + stride, stride):
                state, metrics = advance(state)
                pending.append(metrics)
                if first == 0.0:
                    jax.block_until_ready(state)
                    first = time.perf_counter() - began
                if step % config.log.every == 0 or step == config.steps:
                    last = _summary(pending, step)
                    now = time.perf_counter()
                    rate = len(pending) * stride / (now - lap)
                    pending, lap = [], now
                    writers.scalars(step, {**last, "steps_per_second": rate})
                    update(step, last["loss"], rate)
                if step % config.checkpoint.every == 0 or step == config.steps:
                    checkpoints.save(state)
                if step % config.log.pictures_every == 0 or step == config.steps:
                    draw_pictures(state, step)
                    draw_loss(workdir / "loss.png", writers.lines())
        except KeyboardInterrupt:
            if not any(leaf.is_deleted() for leaf in jax.tree.leaves(state)):
                checkpoints.save(state)
            raise
        finally:
            close()
    return Trained(state, start, last, first, time.perf_counter() - began)


def _advancer(
    config: ConfigDict, compiled: Program, state: TrainState
) -> tuple[Callable[[TrainState], tuple[TrainState, Metrics]], int, Callable[[], None]]:
    """One call of the program, the steps it takes, and what closes its data.

    Streams are drawn inside the program, several steps a call; host batches are placed ahead.
    """
    start = int(state.step)
    source = build.batches(config, start)
    if hasattr(source, "batch") and not compiled.drawn and config.parallel.mode != "pmap":
        stride = _stride(config, start)
        return lambda state: compiled.steps(state, source, stride), stride, lambda: None
    host = _checked_first(config, _host_batches(source, start))
    if compiled.drawn:
        draw = build.draw(config)
        key = jax.random.wrap_key_data(np.array(jax.random.key_data(state.key)))
        host = draws.ahead(draw, partial(training.draw_key, key), host, first=start)
    placed = data.prefetch(host, compiled.place)
    return lambda state: compiled.step(state, next(placed)), 1, placed.close


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


def _host_batches(source: Any, start: int) -> Iterator[Any]:
    if not hasattr(source, "batch"):
        yield from source
        return
    batch = jax.jit(lambda source, step: source.batch(step))
    step = start
    while True:
        yield batch(source, step)
        step += 1


def _checked_first(config: ConfigDict, batches: Iterator[Any]) -> Iterator[Any]:
    first = data.check(next(batches))
    build.check_labels(config, first.get("cond", {}))
    yield first
    yield from batches


def _summary(pending: list[Metrics], step: int) -> dict[str, float]:
    """The means since the last line; `skipped` is the count so far.

    Raises:
        ArithmeticError: where no step since the last line was finite.
    """
    fetched = jax.device_get(pending)
    series = {
        name: np.concatenate([np.atleast_1d(m[name]) for m in fetched]) for name in fetched[0]
    }
    finite = np.isfinite(series["loss"]) & np.isfinite(series["grad_norm"])
    if not finite.any():
        raise ArithmeticError(
            f"all {len(finite)} steps up to {step} had a loss or gradient that is not finite and "
            "were skipped; lower the learning rate or look at the data"
        )
    skipped = float(series.pop("skipped")[-1])
    return {name: float(values[finite].mean()) for name, values in series.items()} | {
        "skipped": skipped
    }


def _pictures(config: ConfigDict, workdir: Path) -> Callable[[TrainState, int], None]:
    """Draws samples of the average so far; compiled at its first call."""
    run: list[Any] = []

    def draw(state: TrainState, step: int) -> None:
        if not run:
            distribution = build.is_distribution(config)
            run.append(generator(config, 2_000 if distribution else PICTURED))
        samples = run[0](state.ema, config.seed)
        draw_samples(workdir / "samples" / f"step_{step:07d}.png", samples.x)

    return draw

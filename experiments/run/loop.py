"""The training loop: batches in, checkpoints, metrics and pictures out."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
from etils import epath
from ml_collections import ConfigDict

from experiments.run import starts
from experiments.run.clock import Clock
from experiments.run.duties import Duties
from experiments.run.feed import Fed, calendar, feed
from experiments.run.reporting import training_bar
from experiments.run.resume import Run, restored, rolled_back
from experiments.run.tracer import Steps, Tracer
from experiments.run.watchdog import Watchdog
from experiments.setup import build
from experiments.setup.operations import flops
from jaxflow import training
from jaxflow.training import NotFinite, Preemption, Program
from jaxflow.training.checkpoint import Checkpoints
from jaxflow.types import Array, TrainState

__all__ = ["Trained", "train"]


class Trained(NamedTuple):
    """The end of a run: its state, the step it began at, its last metrics, and its seconds."""

    state: TrainState
    start: int
    metrics: Mapping[str, float | None]
    seconds: Mapping[str, float]


def train(config: ConfigDict, folder: epath.Path, profile: Steps | None = None) -> Trained:
    """Train from the newest whole checkpoint in `folder`, or from the start.

    Args:
        config: of the run.
        folder: of the run, as `workdir.create` made it.
        profile: first and last step of a trace to write.

    Raises:
        ValueError: where data, network and config do not fit each other, or the run was started
            too often without getting on.
        ArithmeticError: where too many steps in a row were not finite, with a diagnosis.
        OSError: where a file could not be written.
        Preempted: after SIGTERM or Ctrl-C, saved.
        KeyboardInterrupt: after a second Ctrl-C, at once.
    """
    clock = Clock()
    with (
        Watchdog(config.health.stall_seconds) as watchdog,
        Preemption() as preemption,
        Checkpoints(
            folder / "checkpoints",
            keep=config.checkpoint.keep,
            keep_every=config.checkpoint.keep_every,
            best=config.checkpoint.best,
        ) as checkpoints,
    ):
        with clock("start"):
            compiled = build.program(config)
            run = restored(config, compiled, checkpoints)
            useful = _useful(config, compiled, run.state)
        start = int(run.state.step)
        tracer = Tracer(profile, folder, start=start, stop=config.steps)
        loop = _Loop(
            config, folder, compiled, checkpoints, clock, watchdog, preemption, tracer, useful
        )
        with starts.counted(folder, start):
            while True:
                try:
                    last = loop.go(run)
                    return Trained(run.state, start, last, clock.report())
                except NotFinite as error:
                    run = rolled_back(config, folder, compiled, checkpoints, run, error)


def _useful(config: ConfigDict, compiled: Program, state: TrainState) -> float | None:
    """The share of all devices' peak that a step a second makes use of, where the peak is known.

    (1)  model FLOP utilisation = operations of a step * steps a second / (peak * devices)
    """
    devices = compiled.layout.mesh.devices.ravel()
    peak = training.peak_flops(devices[0])
    operations = flops(config, state) if peak is not None else None
    return None if peak is None or operations is None else operations / (peak * len(devices))


@dataclass
class _Loop:
    config: ConfigDict
    folder: epath.Path
    compiled: Program
    checkpoints: Checkpoints
    clock: Clock
    watchdog: Watchdog
    preemption: Preemption
    tracer: Tracer
    useful: float | None

    def go(self, run: Run) -> Mapping[str, float | None]:
        """Take `run` to its last step; returns the last line of the log."""
        moments, start = calendar(self.config), int(run.state.step)
        with ExitStack() as ends:
            with self.clock("start"):
                fed = feed(self.config, self.compiled, run.state, run.positions, self.clock)
            ends.callback(fed.feed.close)
            ends.callback(self.tracer.close)
            update = ends.enter_context(training_bar(moments.steps, start))
            duties = ends.enter_context(closing(self._duties(run, fed, start, update)))
            if start and moments.at(start).look and not duties.drawn(start):
                duties.look(start, run.state)
            stepping = fed.feed._replace(advance=self._guarded(fed, start))
            training.walk(stepping, run.state, moments, duties, self.preemption)
            return duties.last

    def _duties(self, run: Run, fed: Fed, start: int, update: Callable[..., None]) -> Duties:
        return Duties(
            self.config,
            self.folder,
            self.compiled,
            self.checkpoints,
            self.clock,
            self.useful,
            run,
            fed,
            start,
            update,
        )

    def _guarded(self, fed: Fed, start: int) -> Callable[[TrainState], Any]:
        """One call; nothing may cross between host and device in it but what was placed."""
        step, stride = start, fed.feed.stride

        def advance(state: TrainState) -> tuple[TrainState, Mapping[str, Array]]:
            nonlocal step
            step += stride
            self.watchdog.beat()
            self.tracer.before(step)
            if step == start + stride:
                with self.clock("compile"):
                    state, metrics = fed.feed.advance(state)
                    jax.block_until_ready(state)
            else:
                with jax.transfer_guard("disallow"):
                    state, metrics = fed.feed.advance(state)
            self.tracer.after(step, state)
            return state, metrics

        return advance

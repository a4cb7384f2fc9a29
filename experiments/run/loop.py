"""The training loop: batches in, checkpoints, metrics and pictures out."""

from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import NamedTuple

import jax
from etils import epath
from ml_collections import ConfigDict

from experiments.run import starts
from experiments.run.clock import Clock
from experiments.run.due import calendar
from experiments.run.duties import Duties
from experiments.run.exits import Preempted
from experiments.run.feed import Feed, feed
from experiments.run.health import NotFinite
from experiments.run.reporting import training_bar
from experiments.run.resume import Run, restored, rolled_back
from experiments.run.tracer import Steps, Tracer
from experiments.run.watchdog import Watchdog
from experiments.setup import build
from jaxflow import training
from jaxflow.training import Preemption, Program
from jaxflow.training.checkpoint import Checkpoints
from jaxflow.types import TrainState

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
    operations = build.flops(config, state) if peak is not None else None
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
            ends.callback(fed.close)
            ends.callback(self.tracer.close)
            duties = ends.enter_context(closing(self._duties(fed, start)))
            update = ends.enter_context(training_bar(moments.steps, start))
            if start and moments.at(start).draw and not duties.drawn(start):
                duties.draw(run, start)
            for step in range(start + fed.stride, moments.steps + fed.stride, fed.stride):
                self._advance(run, fed, step, first=step == start + fed.stride)
                if moments.at(step).log:
                    duties.log(run, step)
                    update(step, duties.last["loss"], duties.last["steps_per_second"])
                due = moments.at(step, told=self.preemption.reached())
                if due.save:
                    duties.save(run)
                if due.stop:
                    self.checkpoints.wait()
                    raise Preempted(step, interrupted=self.preemption.interrupted)
                if due.draw:
                    duties.draw(run, step)
                self.watchdog.beat()
            duties.saved()
            return duties.last

    def _duties(self, fed: Feed, start: int) -> Duties:
        return Duties(
            self.config,
            self.folder,
            self.compiled,
            self.checkpoints,
            self.clock,
            self.useful,
            fed,
            start,
        )

    def _advance(self, run: Run, fed: Feed, step: int, *, first: bool) -> None:
        """One call; nothing may cross between host and device in it but what was placed."""
        self.tracer.before(step)
        if first:
            with self.clock("compile"):
                run.state, metrics = fed.advance(run.state)
                jax.block_until_ready(run.state)
        else:
            with jax.transfer_guard("disallow"):
                run.state, metrics = fed.advance(run.state)
        run.window.add(metrics)
        self.tracer.after(step, run.state)

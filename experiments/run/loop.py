"""The training loop: batches in, checkpoints, metrics and pictures out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import optax
from etils import epath
from ml_collections import ConfigDict

from experiments.output.generate import generator
from experiments.output.pictures import draw_loss, draw_samples
from experiments.run import starts, workdir
from experiments.run.clock import Clock, Rate
from experiments.run.exits import Preempted
from experiments.run.feed import Feed, feed
from experiments.run.health import NotFinite, Window, diagnose
from experiments.run.positions import Positions
from experiments.run.reporting import Writers, console, training_bar
from experiments.run.tracer import Steps, Tracer
from experiments.run.watchdog import Watchdog
from experiments.setup import build
from jaxflow import training
from jaxflow.training import Preemption, Program, processes
from jaxflow.training.checkpoint import Checkpoints
from jaxflow.types import TrainState

__all__ = ["Trained", "initial_state", "program", "train"]

PICTURED = 100

Draw = Callable[[TrainState, int], None]


class Trained(NamedTuple):
    """The end of a run: its state, the step it began at, its last metrics, and its seconds."""

    state: TrainState
    start: int
    metrics: Mapping[str, float | None]
    seconds: Mapping[str, float]


@dataclass
class Run:
    """What a run is at a moment: its state, and all else that a checkpoint keeps of it."""

    state: TrainState
    window: Window
    positions: Positions = field(default_factory=Positions)
    rollbacks: int = 0

    @property
    def meta(self) -> dict[str, Any]:
        """For the checkpoint, beside the state."""
        return {
            "window": {name: list(values) for name, values in self.window.rows().items()},
            "bad": self.window.bad,
            "left_out": [list(r) for r in self.positions.left_out],
            "rollbacks": self.rollbacks,
        }


def program(config: ConfigDict) -> Program:
    """The compiled run."""
    return training.program(
        build.trainer(config), mode=config.parallel.mode, over=build.layout(config)
    )


def initial_state(config: ConfigDict, compiled: Program) -> TrainState:
    """The state of step 0, a pure function of the seed."""
    params_key, run_key = jax.random.split(jax.random.key(config.seed))
    return compiled.init(build.parameters(config, params_key), run_key)


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
            compiled = program(config)
            run = _restored(config, compiled, checkpoints)
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
                    run = _rolled_back(config, folder, compiled, checkpoints, run, error)


def _useful(config: ConfigDict, compiled: Program, state: TrainState) -> float | None:
    """The share of all devices' peak that a step a second makes use of, where the peak is known.

    (1)  model FLOP utilisation = operations of a step * steps a second / (peak * devices)
    """
    devices = compiled.layout.mesh.devices.ravel()
    peak = training.peak_flops(devices[0])
    operations = build.flops(config, state) if peak is not None else None
    return None if peak is None or operations is None else operations / (peak * len(devices))


def _restored(config: ConfigDict, compiled: Program, checkpoints: Checkpoints) -> Run:
    shapes = jax.eval_shape(lambda: initial_state(config, compiled))
    restored = checkpoints.restore(compiled.layout.like(shapes))
    if restored is None:
        return Run(initial_state(config, compiled), Window(config.health.abort_after))
    console.print(f"going on from step {int(restored.state.step)} in {checkpoints.directory}")
    for step, reason in restored.refused.items():
        console.print(f"checkpoint {step} was refused: {reason}")
    meta = restored.meta
    return Run(
        restored.state,
        Window(config.health.abort_after, dict(meta["window"]), meta["bad"]),
        Positions(tuple((a, b) for a, b in meta["left_out"])),
        meta["rollbacks"],
    )


def _rolled_back(
    config: ConfigDict,
    folder: epath.Path,
    compiled: Program,
    checkpoints: Checkpoints,
    run: Run,
    error: NotFinite,
) -> Run:
    """The run as its last checkpoint has it, without the data that it failed on.

    Raises:
        ArithmeticError: with the diagnosis, where it may not roll back (any more).
    """
    diagnosis = diagnose(config, compiled, run.state, run.positions, error)
    if processes.is_first():
        workdir.write_json(folder / "diagnosis.json", diagnosis.found)
    told = f"{error}; {diagnosis.sentence} ({folder / 'diagnosis.json'} has more)"
    if run.rollbacks >= config.health.rollbacks:
        raise ArithmeticError(
            f"{told}; look at the data, lower the learning rate, or set config.health.rollbacks "
            f"above {run.rollbacks} to leave that data out"
        ) from error
    saved = checkpoints.steps()
    if saved and saved[0] >= error.first and error.first > config.checkpoint.every:
        raise ArithmeticError(
            f"{told}; the checkpoints from before, which to go back to, were not kept: keep more"
        ) from error
    console.print(f"{told}; going back to the last checkpoint, without that data")
    checkpoints.wait()
    checkpoints.forget_after(error.first - 1)
    again = _restored(config, compiled, checkpoints)
    again.positions = run.positions.without(error.first - 1, error.last)
    again.rollbacks = run.rollbacks + 1
    return again


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
        config, start = self.config, int(run.state.step)
        writers = Writers(self.folder, config, start)
        with self.clock("start"):
            fed = feed(config, self.compiled, run.state, run.positions, self.clock)
        draw = _pictures(config, self.compiled, self.folder)
        pace = Rate(self.clock, start + fed.stride)
        last: Mapping[str, float | None] = {}
        try:
            if start and self._pictured(start) and not self._has_picture(start):
                self._draw(draw, run, start, writers)
            with training_bar(config.steps, start) as update:
                for step in range(start + fed.stride, config.steps + fed.stride, fed.stride):
                    self.tracer.before(step)
                    self._advance(run, fed, first=step == start + fed.stride)
                    self.tracer.after(step, run.state)
                    ends = step == config.steps
                    if step % config.log.every == 0 or ends:
                        last = self._log(run, fed, step, writers, pace)
                        update(step, last["loss"], last["steps_per_second"])
                    told = self.preemption.reached()
                    if step % config.checkpoint.every == 0 or ends or told:
                        with self.clock("checkpoint"):
                            self.checkpoints.save(run.state, run.meta, last)
                    if told and not ends:
                        self.checkpoints.wait()
                        raise Preempted(step, interrupted=self.preemption.interrupted)
                    if self._pictured(step):
                        self._draw(draw, run, step, writers)
                    self.watchdog.beat()
            with self.clock("checkpoint"):
                self.checkpoints.wait()
        finally:
            self.tracer.close()
            fed.close()
            writers.close()
        return last or writers.last(start)

    def _pictured(self, step: int) -> bool:
        return step % self.config.log.pictures_every == 0 or step == self.config.steps

    def _has_picture(self, step: int) -> bool:
        """Of a run that stopped after it saved, and before it drew, it is still to be drawn."""
        files = picture_of(self.folder, step), self.folder / "loss.png"
        return processes.agree(all(file.exists() for file in files))

    def _draw(self, draw: Draw, run: Run, step: int, writers: Writers) -> None:
        with self.clock("pictures"):
            draw(run.state, step)
            if processes.is_first():
                draw_loss(self.folder / "loss.png", writers.lines())

    def _advance(self, run: Run, fed: Feed, *, first: bool) -> None:
        """One call; nothing may cross between host and device in it but what was placed."""
        if first:
            with self.clock("compile"):
                run.state, metrics = fed.advance(run.state)
                jax.block_until_ready(run.state)
        else:
            with jax.transfer_guard("disallow"):
                run.state, metrics = fed.advance(run.state)
        run.window.add(metrics)

    def _log(
        self, run: Run, fed: Feed, step: int, writers: Writers, pace: Rate
    ) -> dict[str, float | None]:
        line = run.window.summary(step)
        rate = line["steps_per_second"] = pace.at(step)
        if self.useful is not None:
            line["mfu"] = None if rate is None else rate * self.useful
        spikes = optax.tree.get(run.state.opt_state, "spikes", default=None)
        if spikes is not None:
            line["spikes"] = float(spikes)
        if fed.unreadable():
            line["unreadable"] = float(fed.unreadable())
        seconds = {f"seconds/{name}": value for name, value in self.clock.report().items()}
        writers.scalars(step, {**line, **seconds})
        best = self.config.checkpoint.best
        if best and best not in line:
            raise ValueError(f"config.checkpoint.best is {best!r}; known are {', '.join(line)}")
        return line


def picture_of(folder: epath.Path, step: int) -> epath.Path:
    """Where the picture of a step lies."""
    return folder / "samples" / f"step_{step:07d}.png"


def _pictures(config: ConfigDict, compiled: Program, folder: epath.Path) -> Draw:
    """Draws samples of the average so far; compiled at its first call."""
    made: list[Any] = []

    def draw(state: TrainState, step: int) -> None:
        params = processes.local(state.ema, compiled.layout.whole)
        if not processes.is_first():
            return
        num = 2_000 if build.is_distribution(config) else PICTURED
        if not made:
            made.append(generator(config, num))
        samples = made[0](params, config.seed, num)
        draw_samples(picture_of(folder, step), samples.x)

    return draw

"""The doing of what is due at a step: a line of the log, a checkpoint, a picture."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import optax
from etils import epath
from ml_collections import ConfigDict

from experiments.output.generate import Generator, generator
from experiments.output.maps import NAMES, monitor
from experiments.output.pictures import draw_loss, draw_panels, draw_samples
from experiments.output.texts import draw_text, is_tokens, texts_of
from experiments.run.clock import Clock, Rate
from experiments.run.feed import Fed
from experiments.run.reporting import Writers
from experiments.run.resume import Run
from experiments.setup import dataset
from experiments.setup.learns import learns_map
from jaxflow.training import Program, processes
from jaxflow.training.checkpoint import Checkpoints
from jaxflow.types import Array, TrainState

__all__ = ["Duties", "pictured"]

PICTURED = 100


class Duties:
    """What a run has to do besides its steps, from `start` on.

    Args:
        config: of the run.
        folder: of the run.
        compiled: its program.
        checkpoints: where it saves.
        clock: which is told what the seconds go to.
        useful: the share of all devices' peak that a step a second makes use of, where known.
        run: what it is at each moment, kept up to date.
        fed: its data.
        start: the step that it goes on from.
        update: `(step, loss, steps_per_second)`, told of every line.
    """

    def __init__(
        self,
        config: ConfigDict,
        folder: epath.Path,
        compiled: Program,
        checkpoints: Checkpoints,
        clock: Clock,
        useful: float | None,
        run: Run,
        fed: Fed,
        start: int,
        update: Callable[..., None],
    ):
        self._config = config
        self._folder = folder
        self._compiled = compiled
        self._checkpoints = checkpoints
        self._clock = clock
        self._useful = useful
        self._run = run
        self._start = start
        self._update = update
        self._unreadable = fed.unreadable
        self._writers = Writers(folder, config, start)
        self._last: Mapping[str, float | None] = {}
        self._pace = Rate(clock, start + fed.feed.stride)
        self._generator: Generator | None = None
        with clock("start"):
            self._monitor = monitor(config, self._shown) if learns_map(config) else None

    @property
    def last(self) -> Mapping[str, float | None]:
        """The last line of the log; before the first one, that of `start`."""
        return self._last or self._writers.last(self._start)

    def taken(self, step: int, state: TrainState, metrics: Mapping[str, Array]) -> None:
        """Keep the state and the metrics of a call."""
        self._run.state = state
        self._run.window.add(metrics)

    def log(self, step: int, state: TrainState) -> None:
        """Write the means of the steps since the last line.

        Raises:
            NotFinite: where too many in a row were not finite.
            ValueError: where the config's metric for the best checkpoint is none of them.
        """
        line = self._run.window.summary(step)
        rate = line["steps_per_second"] = self._pace.at(step)
        if self._useful is not None:
            line["mfu"] = None if rate is None else rate * self._useful
        spikes = optax.tree.get(state.opt_state, "spikes", default=None)
        if spikes is not None:
            line["spikes"] = float(spikes)
        if self._unreadable():
            line["unreadable"] = float(self._unreadable())
        line |= self._measured(step, state)
        seconds = {f"seconds/{name}": value for name, value in self._clock.report().items()}
        self._writers.scalars(step, {**line, **seconds})
        self._last = line if self._monitor is None else {**dict.fromkeys(NAMES), **line}
        best = self._config.checkpoint.best
        if best and best not in self._last:
            known = ", ".join(self._last)
            raise ValueError(f"config.checkpoint.best is {best!r}; known are {known}")
        self._update(step, line["loss"], rate)

    def save(self, step: int, state: TrainState) -> None:
        """Begin to write a checkpoint."""
        with self._clock("checkpoint"):
            self._checkpoints.save(state, self._run.meta, self._last)

    def saved(self) -> None:
        """Wait until the last checkpoint is written."""
        with self._clock("checkpoint"):
            self._checkpoints.wait()

    def look(self, step: int, state: TrainState) -> None:
        """Draw samples of the average so far, and the loss."""
        with self._clock("pictures"):
            params = processes.local(state.ema, self._compiled.layout.whole)
            if processes.is_first():
                self._draw_samples(params, step)
                draw_loss(self._folder / "loss.png", self._writers.lines())

    def drawn(self, step: int) -> bool:
        """Whether a step was drawn; it was not where a run stopped between saving and drawing."""
        files = self._picture(step), self._folder / "loss.png"
        return processes.agree(all(file.exists() for file in files))

    def close(self) -> None:
        """End the files of the log."""
        self._writers.close()

    def _measured(self, step: int, state: TrainState) -> dict[str, float | None]:
        """What is known of a flow map, on a line that `pictured` names."""
        if self._monitor is None or not pictured(self._config, step):
            return {}
        with self._clock("pictures"):
            params = processes.local(state.ema, self._compiled.layout.whole)
            found = self._monitor.measured(params) if processes.is_first() else {}
            mine = np.asarray([[found.get(name, np.nan) for name in NAMES]], np.float32)
            values = processes.gathered(mine)[0]
        return {
            name: float(value) if np.isfinite(value) else None
            for name, value in zip(NAMES, values, strict=True)
        }

    @property
    def _shown(self) -> int:
        return 2_000 if dataset.is_distribution(self._config) else PICTURED

    def _draw_samples(self, params: Any, step: int) -> None:
        num = self._shown
        if self._monitor is not None:
            draw_panels(self._picture(step), self._monitor.panels(params, num))
            return
        if self._generator is None:
            self._generator = generator(self._config, num)
        samples = self._generator(params, self._config.seed, num)
        if is_tokens(samples.x):
            draw_text(self._picture(step), texts_of(self._config, samples.x))
        else:
            draw_samples(self._picture(step), samples.x)

    def _picture(self, step: int) -> epath.Path:
        return self._folder / "samples" / f"step_{step:07d}.png"


def pictured(config: ConfigDict, step: int) -> bool:
    """Whether the line of a step is the first at a picture, or after it."""
    every, before = config.log.pictures_every, (step - 1) // config.log.every * config.log.every
    return step == config.steps or step // every > before // every

"""A trace of some steps, for `tensorboard` or `xprof` to show."""

import jax
from etils import epath

from experiments.run.reporting import console
from jaxflow.types import TrainState

__all__ = ["Steps", "Tracer"]

Steps = tuple[int, int]


class Tracer:
    """Writes a trace of the steps `first` to `last` into `profile/`.

    Raises:
        ValueError: where the steps from `start` to `stop` do not hold the last of them.
    """

    def __init__(self, steps: Steps | None, folder: epath.Path, *, start: int, stop: int):
        if steps and not start < steps[1] <= stop:
            raise ValueError(
                f"--profile_steps={steps[0]}:{steps[1]} must end within the steps to be taken, "
                f"{start + 1} to {stop}"
            )
        self._steps = steps
        self._folder = folder / "profile"
        self._on = False

    def before(self, step: int) -> None:
        """Start, where the call that ends with `step` holds the first or comes after it."""
        if self._steps and not self._on and step >= self._steps[0]:
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # it ends the process where threads come and go
            jax.profiler.start_trace(str(self._folder), profiler_options=options)
            self._on = True

    def close(self) -> None:
        """Write what there is of a trace that was not ended."""
        if self._on:
            jax.profiler.stop_trace()
            self._on, self._steps = False, None

    def after(self, step: int, state: TrainState) -> None:
        """Stop, where `step` was the last."""
        if self._steps and self._on and step >= self._steps[1]:
            jax.block_until_ready(state)
            self.close()
            console.print(f"the trace is in {self._folder}")

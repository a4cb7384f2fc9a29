"""The training loop: steps, and what is due after them."""

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from os import PathLike
from typing import Any, Protocol, runtime_checkable

from jaxflow.training.calendar import Calendar
from jaxflow.training.feed import Feed, feed
from jaxflow.training.parallel import Program
from jaxflow.training.preemption import Preempted, Preemption
from jaxflow.training.window import Window
from jaxflow.types import Array, TrainState

__all__ = ["Duties", "fit", "walk"]

ABORT_AFTER = 20

Metrics = Mapping[str, Array]
Line = Mapping[str, float | None]


@runtime_checkable
class Duties(Protocol):
    """What a run has to do besides its steps."""

    def taken(self, step: int, state: TrainState, metrics: Metrics) -> None:
        """After every call, with its metrics, on the device."""
        ...

    def log(self, step: int, state: TrainState) -> None:
        """Tell of the steps since the last line."""
        ...

    def save(self, step: int, state: TrainState) -> None:
        """Begin to write a checkpoint."""
        ...

    def saved(self) -> None:
        """Wait until the last checkpoint is written."""
        ...

    def look(self, step: int, state: TrainState) -> None:
        """Validate, or draw samples."""
        ...


def walk(
    fed: Feed, state: TrainState, calendar: Calendar, duties: Duties, preemption: Preemption
) -> TrainState:
    """Take a state to the last step of a calendar, with what is due on the way.

    Raises:
        Preempted: where the run was told to stop; it has saved.
    """
    start = int(state.step)
    for step in range(start + fed.stride, calendar.steps + fed.stride, fed.stride):
        state, metrics = fed.advance(state)
        duties.taken(step, state, metrics)
        if calendar.at(step).log:
            duties.log(step, state)
        due = calendar.at(step, told=preemption.reached())
        if due.save:
            duties.save(step, state)
        if due.stop:
            duties.saved()
            raise Preempted(step, interrupted=preemption.interrupted)
        if due.look:
            duties.look(step, state)
    duties.saved()
    return state


def fit(
    program: Program,
    state: TrainState,
    data: Any,
    steps: int,
    *,
    log: Callable[[int, Line], None] | None = None,
    log_every: int = 100,
    checkpoints: Any = None,
    save_every: int = 1000,
    validate: Callable[[TrainState], Line] | None = None,
    validate_every: int = 1000,
    steps_per_call: int = 100,
) -> TrainState:
    """Train to step `steps`, and go on where a run in the same folder stopped, to the same bits.

    Args:
        program: of `training.program`.
        state: to begin with, `program.init(params, key)`; it is given up to the steps, and gives
            way to the newest whole checkpoint where there is one.
        data: batches as a function of the step (`data.on_device`, `data.stream`, any object with
            `batch(step)`, or a function), an iterator with `restore(step)` (`data.pipeline`), or
            any other iterable of batches.
        steps: in all, those of earlier runs included.
        log: `(step, metrics)`, called with the means over the finite steps since the last line,
            `skipped` in all and `steps_per_second`; and with what `validate` returns.
        log_every: steps between two lines.
        checkpoints: a folder, or `training.checkpoint.Checkpoints` of other settings; none are
            kept where None.
        save_every: steps between two checkpoints; the last state is saved too.
        validate: a mapping of numbers, such as a loss on held-out data.
        validate_every: steps between two validations; the last state is validated too.
        steps_per_call: at most, of data that is a function of the step.

    Returns:
        The state at step `steps`.

    Raises:
        Preempted: after SIGTERM or Ctrl-C, saved; the same call goes on.
        ArithmeticError: where 20 steps in a row had a loss or gradient that is not finite.
        OSError: where a checkpoint could not be written.
        TypeError, ValueError: for data or numbers that do not fit.

    >>> import jax, optax
    >>> import jax.numpy as jnp
    >>> from jaxflow import training
    >>> loss = lambda params, key, batch, held: (jnp.mean((params - batch["x1"]) ** 2), None)
    >>> trainer = training.trainer(loss, optax.sgd(0.1), draw=lambda key, batch: batch)
    >>> program = training.program(trainer, layout=training.layout(devices=jax.devices()[:1]))
    >>> state = program.init(jnp.zeros(1), jax.random.key(0))
    >>> state = fit(program, state, lambda step: {"x1": jnp.ones((4, 1))}, 100)
    >>> round(float(state.params[0]), 3)
    1.0
    """
    least = {"steps": steps, "log_every": log_every, "save_every": save_every}
    least |= {"validate_every": validate_every, "steps_per_call": steps_per_call}
    wrong = [name for name, value in least.items() if not value >= 1]
    if wrong:
        raise ValueError(f"{wrong[0]} must be at least 1; it is {least[wrong[0]]}")
    with ExitStack() as ends:
        kept = _kept(checkpoints, ends)
        window, state = _restored(program, state, kept)
        if int(state.step) >= steps:
            return state
        looks = validate_every if validate is not None else steps
        calendar = Calendar(steps, log_every, save_every if kept is not None else steps, looks)
        fed = feed(program, state, data, calendar, most=steps_per_call)
        ends.callback(fed.close)
        duties = _Duties(window, kept, log, validate, int(state.step))
        return walk(fed, state, calendar, duties, ends.enter_context(Preemption()))


def _kept(checkpoints: Any, ends: ExitStack) -> Any:
    if checkpoints is None or not isinstance(checkpoints, str | PathLike):
        return checkpoints
    from jaxflow.training.checkpoint import Checkpoints  # Orbax takes a second to import

    return ends.enter_context(Checkpoints(checkpoints))


def _restored(program: Program, state: TrainState, kept: Any) -> tuple[Window, TrainState]:
    found = None if kept is None else kept.restore(program.layout.like(state))
    if found is None:
        return Window(ABORT_AFTER), state
    return Window(ABORT_AFTER, dict(found.meta["window"]), found.meta["bad"]), found.state


class _Duties:
    """Those of `fit`."""

    def __init__(self, window: Window, kept: Any, log: Any, validate: Any, start: int):
        self._window, self._kept, self._log, self._validate = window, kept, log, validate
        self._since, self._step = time.perf_counter(), start
        self._last: dict[str, float | None] = {}

    def taken(self, step: int, state: TrainState, metrics: Metrics) -> None:
        self._window.add(metrics)

    def log(self, step: int, state: TrainState) -> None:
        line, now = self._window.summary(step), time.perf_counter()
        self._last |= line
        rate = (step - self._step) / (now - self._since)
        self._since, self._step = now, step
        if self._log is not None:
            self._log(step, {**line, "steps_per_second": rate})

    def save(self, step: int, state: TrainState) -> None:
        if self._kept is not None:
            window = {name: list(values) for name, values in self._window.rows().items()}
            self._kept.save(state, {"window": window, "bad": self._window.bad}, self._last)

    def saved(self) -> None:
        if self._kept is not None:
            self._kept.wait()

    def look(self, step: int, state: TrainState) -> None:
        if self._validate is None:
            return
        found = {name: float(value) for name, value in self._validate(state).items()}
        self._last |= found
        if self._log is not None:
            self._log(step, found)

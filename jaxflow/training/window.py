"""The metrics of a run between two lines of its log, and whether they are finite."""

from collections.abc import Mapping

import jax
import numpy as np
from jax.typing import ArrayLike

__all__ = ["NotFinite", "Window"]

Rows = dict[str, list[float]]


class NotFinite(ArithmeticError):
    """Too many steps in a row, `first` to `last`, had a loss or gradient that is not finite."""

    def __init__(self, first: int, last: int, metrics: Mapping[str, float]):
        super().__init__(
            f"{last - first + 1} steps in a row, {first} to {last}, had a loss or gradient that is "
            "not finite, and were skipped"
        )
        self.first = first
        self.last = last
        self.metrics = metrics


class Window:
    """The metrics of the steps since the last line of the log.

    They stay on the device until they are asked for. `rows()` is what a checkpoint keeps of them,
    so that the line that follows is the same for a run that was stopped in between.
    """

    def __init__(self, abort_after: int, rows: Rows | None = None, bad: int = 0):
        self._abort_after = abort_after
        self._rows: Rows = rows or {}
        self._pending: list[Mapping[str, ArrayLike]] = []
        self._bad = bad

    def add(self, metrics: Mapping[str, ArrayLike]) -> None:
        """One call's metrics: a step's, or those of several, `[steps]`."""
        self._pending.append(metrics)

    def rows(self) -> Rows:
        """What was added so far, fetched, a number a step."""
        fetched = jax.device_get(self._pending)
        self._pending = []
        for metrics in fetched:
            for name, values in metrics.items():
                numbers = [float(v) for v in np.atleast_1d(values)]
                self._rows.setdefault(name, []).extend(numbers)
        return self._rows

    @property
    def bad(self) -> int:
        """How many steps in a row were not finite when the last line was written."""
        return self._bad

    def summary(self, step: int) -> dict[str, float | None]:
        """The means of the finite steps up to `step`, and the count of those skipped so far.

        Raises:
            NotFinite: where too many in a row were not.
        """
        rows = {name: np.asarray(values) for name, values in self.rows().items()}
        self._rows = {}
        finite = np.isfinite(rows["loss"]) & np.isfinite(rows["grad_norm"])
        self._count(finite, step, rows)
        skipped = float(rows.pop("skipped")[-1])
        if not finite.any():
            return {**dict.fromkeys(rows, None), "skipped": skipped}
        means = {name: float(v[finite].mean()) for name, v in rows.items()}
        return {**means, "skipped": skipped}

    def _count(self, finite: np.ndarray, step: int, rows: Mapping[str, np.ndarray]) -> None:
        """Raise for the first run of bad steps that is too long, this window's start included."""
        first_of_window = step - len(finite) + 1
        for i, fine in enumerate(finite):
            self._bad = 0 if fine else self._bad + 1
            ended = i + 1 == len(finite) or finite[i + 1]
            if self._bad >= self._abort_after and ended:
                last = first_of_window + i
                metrics = {name: float(values[i]) for name, values in rows.items()}
                raise NotFinite(last - self._bad + 1, last, metrics)

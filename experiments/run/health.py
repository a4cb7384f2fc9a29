"""Whether a run is well: what its metrics say, and what was found where they say it is not."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from experiments.run.feed import batch_of
from experiments.run.positions import Positions
from experiments.setup import build
from jaxflow import training
from jaxflow.training import Program
from jaxflow.types import Array, Batch, Held, Params, TrainState

__all__ = ["NotFinite", "Window", "diagnose"]

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
        self._pending: list[Mapping[str, Array]] = []
        self._bad = bad

    def add(self, metrics: Mapping[str, Array]) -> None:
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
        return {name: float(v[finite].mean()) for name, v in rows.items()} | {"skipped": skipped}

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


class Diagnosis(NamedTuple):
    """What is known of a bad step, for `diagnosis.json`, and one sentence of it."""

    found: dict[str, Any]
    sentence: str


def diagnose(
    config: ConfigDict, compiled: Program, state: TrainState, positions: Positions, error: NotFinite
) -> Diagnosis:
    """Look at the last bad step: its batch, its loss by terms, the gradient of each parameter.

    The state must be the one that the step met, as it is where all steps since were skipped.
    """
    step = error.last - 1
    batch = batch_of(config, compiled, state, positions, step)
    arrays = {name: _range(a) for name, a in _named(batch).items()}
    loss, terms, norms = _gradient_norms(config, compiled, state, batch, step)
    bad_data = [name for name, a in arrays.items() if a["not_finite"]]
    bad_gradients = [name for name, norm in norms.items() if not np.isfinite(norm)]
    found = {
        "steps": [error.first, error.last],
        "positions_in_the_data": [
            int(positions.of(error.first - 1)),
            int(positions.of(error.last - 1)),
        ],
        "metrics_of_the_last": error.metrics,
        "batch_of_the_last": arrays,
        "its_loss": loss,
        "its_loss_terms": terms,
        "its_gradient_norms": norms,
        "skipped_in_all": int(state.skipped),
    }
    data = f"holds values that are not finite in {bad_data[0]}" if bad_data else "is finite"
    gradients = (
        f"of {len(norms)} parameters {len(bad_gradients)} have a gradient that is not finite, "
        f"first {bad_gradients[0]}"
        if bad_gradients
        else "its gradient, taken again, is finite"
    )
    return Diagnosis(
        found, f"the batch of step {error.last} {data}; its loss is {loss}; {gradients}"
    )


def _gradient_norms(
    config: ConfigDict, compiled: Program, state: TrainState, batch: Batch, step: int
) -> tuple[float, dict[str, float], dict[str, float]]:
    loss, draw = build.loss(config), build.draw(config)
    key = training.draw_key(state.key, step)

    @jax.jit
    def look(params: Params, key: Any, batch: Batch) -> Any:
        drawn = batch if compiled.drawn else draw(key, batch)
        held = Held(jnp.asarray(step), state.ema, state.frozen)
        (value, aux), gradient = jax.value_and_grad(loss, has_aux=True)(params, key, drawn, held)
        scalars = {name: a for name, a in aux.items() if jnp.ndim(a) == 0}
        return value, scalars, jax.tree.map(optax.tree.norm, gradient)

    value, terms, norms = jax.device_get(look(state.params, key, batch))
    return (
        float(value),
        {name: float(a) for name, a in terms.items()},
        {name: float(a) for name, a in _named(norms).items()},
    )


def _range(a: Array) -> dict[str, Any]:
    """Its shape and values, as far as they are finite."""
    finite, smallest, largest = jax.device_get(_extremes(a))
    return {
        "shape": list(a.shape),
        "not_finite": a.size - int(finite),
        "smallest": float(smallest) if finite else None,
        "largest": float(largest) if finite else None,
    }


@jax.jit
def _extremes(a: Array) -> tuple[Array, Array, Array]:
    finite = jnp.isfinite(a)
    a = a.astype(jnp.float32)
    smallest, largest = jnp.where(finite, a, jnp.inf).min(), jnp.where(finite, a, -jnp.inf).max()
    return finite.sum(), smallest, largest


def _named(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): a for path, a in leaves}

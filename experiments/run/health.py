"""What was found where a run's metrics say that it is not well."""

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
from jaxflow.training import NotFinite, Program
from jaxflow.types import Array, Batch, Held, Params, TrainState

__all__ = ["diagnose"]


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
    loss, draw = compiled.trainer.loss, build.draw(config)
    key = training.draw_key(state.key, step)

    @jax.jit
    def look(params: Params, key: Any, batch: Batch) -> Any:
        held = Held(jnp.asarray(step), state.averages, state.frozen)
        drawn = batch if compiled.on_host else draw(key, batch, held)
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

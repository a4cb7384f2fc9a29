"""Whether a flow map is learned: its residuals, and its samples in few steps.

(1) residuals of the map against its own flow, of `jaxflow.sampling.residuals`, at points that stay
    the same: `x_t` of held-out data, with `t <= r` two uniform times and `s` uniform between them

(2) the sliced Wasserstein distance of samples in 1, 2 and 4 equal steps from held-out data

A loss whose target moves with the network need not fall while these do.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments.output.buckets import drawn_of, undropped
from experiments.output.generate import generator
from experiments.setup import build, dataset
from experiments.setup.learns import is_of_one_step, learns_velocity, restarts
from jaxflow import draws, metrics, sampling, times
from jaxflow.paths.ends import interval_of
from jaxflow.sampling import Residual
from jaxflow.types import Batch, FlowMap, Key, Params

__all__ = ["DISTANCES", "NAMES", "RESIDUALS", "Monitor", "monitor"]

MEASURED = (1, 2, 4)
SHOWN = (1, 2, 4, 8)
POINTS = 256
SAMPLES = 2_000


def _named(steps: int) -> str:
    return f"{steps} step{'s' if steps > 1 else ''}"


RESIDUALS: Mapping[str, Callable[[FlowMap, Batch], Residual]] = {
    "map/semigroup": lambda of, at: sampling.semigroup_residual(
        of, at["t"], at["s"], at["r"], at["x"], cond=at["cond"]
    ),
    "map/lagrangian": lambda of, at: sampling.lagrangian_residual(
        of, at["t"], at["r"], at["x"], cond=at["cond"]
    ),
}
DISTANCES = tuple(f"sliced_wasserstein/{_named(n).replace(' ', '_')}" for n in MEASURED)
NAMES = (*RESIDUALS, *DISTANCES)


class Monitor(NamedTuple):
    """Looks at a flow map, compiled at the first look.

    `measured(params)` are (1) and (2) by `NAMES`, as far as the loss teaches them, and
    `panels(params, num)` samples from the same noise and conditions by their number of steps.
    """

    measured: Callable[[Params], dict[str, float]]
    panels: Callable[[Params, int], dict[str, np.ndarray]]


def monitor(config: ConfigDict, num: int) -> Monitor:
    """Of a run that learns a flow map.

    Args:
        config: of the run.
        num: how many samples are shown at most.

    Raises:
        ValueError: where the data has no split to hold samples against.
    """
    held = _held(config)
    points = list(_points(config, held)) if learns_velocity(config) else []
    most = max(num, len(held["x1"]))
    shown = SHOWN[:1] if is_of_one_step(config) else SHOWN
    ways = {n: _in_steps(config, n) for n in shown}
    generators = {n: generator(way, most) for n, way in ways.items()}

    def samples(params: Params, steps: int, num: int) -> np.ndarray:
        return generators[steps](params, config.seed, num).x

    def measured(params: Params) -> dict[str, float]:
        found = _residuals(build.flow(ways[1], params), points) if points else {}
        x1, key = held["x1"], jax.random.key(config.seed)
        for steps, name in zip(MEASURED, DISTANCES, strict=True):
            if steps not in shown:
                continue
            x = samples(params, steps, len(x1))
            found[name] = float(metrics.sliced_wasserstein(key, x, x1))
        return found

    def panels(params: Params, num: int) -> dict[str, np.ndarray]:
        return {_named(n): samples(params, n, num) for n in shown}

    return Monitor(measured, panels)


def _held(config: ConfigDict) -> dict[str, np.ndarray]:
    """Rows that training never saw."""
    if dataset.is_distribution(config):
        return {"x1": dataset.fresh(config, SAMPLES, config.seed + 5)}
    return dataset.examples(config, config.evaluation.split, SAMPLES)


def _points(config: ConfigDict, held: Mapping[str, np.ndarray]) -> Iterator[Batch]:
    """Batches of `x` at times `t`, with `s` and `r`, under the conditions of their data."""
    path, key = build.path(config), jax.random.key(config.seed + 6)
    between = draws.spans(times.uniform(), interval_of(path), equal=0.0)

    @jax.jit
    def on_path(key: Key, drawn: Batch) -> Batch:
        at = between(key, drawn)
        x = path(at["t"], drawn["x0"], drawn["x1"], drawn.get("z")).x
        return {"t": at["t"], "s": at["s"], "r": at["r"], "x": x, "cond": drawn["cond"]}

    for i, drawn in enumerate(drawn_of(undropped(config), dict(held), POINTS)):
        yield on_path(jax.random.fold_in(key, i), drawn)


def _in_steps(config: ConfigDict, steps: int) -> ConfigDict:
    """Samples by the map itself, in equal steps."""
    changed = config.copy_and_resolve_references()
    low, high = interval_of(build.path(config))
    grid = {"name": "uniform", "kwargs": {"n": steps, "start": low, "stop": high}}
    noise = {"noise": 1.0} if restarts(config) else {}
    with changed.unlocked():
        changed.sampler = {
            "name": "flow_map",
            "kwargs": {"grid": grid, "precision": "network", **noise},
            "guidance": 1.0,
            "batch_size": config.sampler.batch_size,
        }
    return changed


def _residuals(flow_map: FlowMap, points: list[Batch]) -> dict[str, float]:
    """(1), of all points together; a network without forward mode has one of the two."""
    found = {}
    for name, residual in RESIDUALS.items():
        try:
            parts = [residual(flow_map, at) for at in points]
        except TypeError as error:
            if "forward-mode" not in str(error):
                raise
            found[name] = math.nan
            continue
        whole: Residual = jax.tree.map(lambda *a: jnp.concatenate(a), *parts)
        found[name] = float(whole.relative)
    return found

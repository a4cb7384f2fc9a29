"""Calls and error of adaptive solves by what the network computes in, of a trained run.

python -m benchmarks.precision --workdir=runs/digits [--num=64]

Errors are root mean squares over samples (over values in nats for likelihoods), against a solve in
float64 at a tolerance of 1e-8.
"""

import argparse
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from experiments.output.generate import average, conditions
from experiments.setup import build, dataset
from jaxflow import sampling
from jaxflow.types import Params, Velocity

TOLERANCES = (1e-2, 1e-3, 1e-4, 1e-5)
# The dtype that the network was made with, and the precision of the solve.
COMPUTED = {
    "float32": ("float32", "float32"),
    "bfloat16": ("bfloat16", "network"),
    "default": ("bfloat16", "float32"),
}

Solve = Callable[..., tuple[jax.Array, jax.Array]]


def velocity_in(config: ConfigDict, params: Params, dtype: str) -> Velocity:
    """The trained velocity, of a network that computes in `dtype`."""
    cast = config.copy_and_resolve_references()
    with cast.unlocked():
        cast.network.kwargs.dtype = dtype
    return build.learned(cast, params)


def sample(velocity: Velocity, x: Any, cond: Any, **how: Any) -> tuple[jax.Array, jax.Array]:
    """Samples from `x`, and their calls."""
    solved = sampling.adaptive(velocity, x, cond=cond, **how)
    return solved.x, solved.nfe


def log_prob(velocity: Velocity, x: Any, cond: Any, **how: Any) -> tuple[jax.Array, jax.Array]:
    """Log-likelihoods of `x`, and the calls."""
    solved = sampling.log_prob(velocity, x, cond=cond, **how)
    return solved.value, solved.nfe


def rows(
    solve: Solve, config: ConfigDict, params: Params, x: np.ndarray, cond: Any
) -> list[tuple[str, ...]]:
    """`(tolerance, calls and error for each of COMPUTED)`."""
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), params)
        velocity = velocity_in(config, wide, "float64")
        exact = np.asarray(solve(velocity, jnp.asarray(x), cond, rtol=1e-8, atol=1e-8)[0])
    found = []
    for tolerance in TOLERANCES:
        row = [f"{tolerance:.0e}"]
        for dtype, precision in COMPUTED.values():
            how = {"rtol": tolerance, "atol": tolerance, "precision": precision}
            velocity = velocity_in(config, params, dtype)
            got, nfe = solve(velocity, jnp.asarray(x, jnp.float32), cond, **how)
            error = np.sqrt(np.mean(np.square(np.asarray(got, np.float64) - exact)))
            row += [f"{float(nfe.mean()):.0f}", f"{error:.1e}"]
        found.append(tuple(row))
    return found


def main() -> None:
    """Solve, and print a table for samples and one for likelihoods."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--num", type=int, default=64)
    given = parser.parse_args()
    folder = epath.Path(given.workdir)
    config = ConfigDict(json.loads((folder / "config.json").read_text()))
    params = average(folder).params
    x = np.random.default_rng(0).normal(
        size=(given.num, *dataset.example_batch(config)["x1"].shape[1:])
    )
    cond = conditions(config, given.num)
    held = dataset.examples(config, config.evaluation.split)
    of_data = {name: held[name][: given.num] for name in config.data.cond}
    for title, solve, start, beside in [
        ("samples", sample, x, cond),
        ("log_prob", log_prob, held["x1"][: given.num].astype(np.float64), of_data),
    ]:
        shown = Table(title=f"{title}, calls and error, {jax.devices()[0].device_kind}")
        shown.add_column("tolerance")
        for name in COMPUTED:
            shown.add_column(name, justify="right")
            shown.add_column("error", justify="right")
        for row in rows(solve, config, params, start, beside):
            shown.add_row(*row)
        Console().print(shown)


if __name__ == "__main__":
    main()

"""What is told of a sampler: its error against a solve to 1e-10 in float64, and its calls."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import reference
from benchmarks.task import Task


def noise(n: int) -> jax.Array:
    """Where all samplers start, `[n, 2]`."""
    return jnp.asarray(reference.noise(n))


def sampled(
    solve: Callable[[Any, jax.Array], Any], state: Any, weights: str, n: int, parameters: int
) -> Task:
    """A task of a compiled `solve(state, x0) -> (x, calls)`; `calls` is None where not told."""
    x0 = noise(n)

    def run(k: int) -> None:
        for _ in range(k):
            jax.block_until_ready(solve(state, x0))

    def later() -> dict[str, Any]:
        x, calls = solve(state, x0)
        found = {} if calls is None else {"calls": float(jnp.mean(calls))}
        return {**reference.facts(np.asarray(x), weights), **found}

    return Task(run, {"parameters": parameters}, later=later)

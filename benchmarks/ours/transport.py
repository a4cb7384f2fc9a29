"""Exact optimal transport of one batch, eight Gaussians to two moons."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import linear_sum_assignment

from benchmarks.ours.two_dimensional import COUPLINGS, pairs
from benchmarks.task import Task


def couple(n: int, coupling: str) -> Task:
    """Re-pair a batch of `n`."""
    solve = COUPLINGS[coupling]
    if coupling == "compiled":
        solve = jax.jit(solve)
    x0, x1 = points(n)
    key = jax.random.key(0)
    y0, y1, _ = solve(key, x0, x1, {})
    cost = float(jnp.mean(jnp.sum((y1 - y0) ** 2, axis=1)))
    facts = {"n": n, "cost": cost, "cost over exact": cost / exact_cost(x0, x1)}

    def run(k: int) -> None:
        for _ in range(k):
            jax.block_until_ready(solve(key, x0, x1, {}))

    return Task(run, facts)


def points(n: int) -> tuple[jax.Array, jax.Array]:
    """Source and data of one batch."""
    batch = pairs(n).batch(jnp.asarray(0))
    return batch["x0"], batch["x1"]


def exact_cost(x0: jax.Array, x1: jax.Array) -> float:
    """The mean squared distance of the cheapest pairs, by scipy."""
    a, b = np.asarray(x0, np.float64), np.asarray(x1, np.float64)
    cost = np.sum((a[:, None] - b[None]) ** 2, axis=-1)
    return float(np.mean(cost[linear_sum_assignment(cost)]))

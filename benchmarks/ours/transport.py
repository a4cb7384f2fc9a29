"""Exact optimal transport of one batch, eight Gaussians to two moons."""

import jax
import jax.numpy as jnp

from benchmarks.ours.two_dimensional import COUPLINGS, pairs
from benchmarks.task import Task


def couple(n: int, coupling: str) -> Task:
    """Re-pair a batch of `n`."""
    solve = COUPLINGS[coupling]
    if coupling == "compiled":
        solve = jax.jit(solve)
    batch = pairs(n).batch(jnp.asarray(0))
    key = jax.random.key(0)
    x0, x1, _ = solve(key, batch["x0"], batch["x1"], {})
    facts = {"n": n, "cost": float(jnp.mean(jnp.sum((x1 - x0) ** 2, axis=1)))}

    def run(k: int) -> None:
        for _ in range(k):
            jax.block_until_ready(solve(key, batch["x0"], batch["x1"], {}))

    return Task(run, facts)

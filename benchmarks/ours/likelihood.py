"""Log-likelihoods of two moons under the perceptron of the tutorial."""

import diffrax
import jax
import jax.numpy as jnp

from benchmarks import moons
from benchmarks.ours.sampling import trained_velocity
from benchmarks.task import Task
from jaxflow import sampling

SOLVERS = {
    "default": {},
    "dopri5": {"solver": diffrax.Dopri5(), "per_sample": False, "norm": "rms"},
}


def log_prob(solver: str, weights: str, n: int = 1_000) -> Task:
    """Of `n` points of the data, in nats."""
    velocity, params = trained_velocity(weights)
    x1 = jnp.asarray(moons.draw(jax.random.key(1), n))
    solve = jax.jit(lambda v, x: sampling.log_prob(v, x, **SOLVERS[solver]))
    found = solve(velocity, x1)
    facts = {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "mean nfe": float(jnp.mean(found.nfe)),
        "mean nats": float(jnp.mean(found.value)),
    }

    def run(k: int) -> None:
        for _ in range(k):
            jax.block_until_ready(solve(velocity, x1).value)

    return Task(run, facts)

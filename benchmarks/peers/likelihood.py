"""Log-likelihoods by flow_matching's ODESolver, with the weights and points of our side."""

import jax
import numpy as np
import torch
from flow_matching.solver import ODESolver
from torch.distributions import Independent, Normal

from benchmarks import moons
from benchmarks.peers.sampling import Counted, Perceptron
from benchmarks.task import Task


def log_prob(weights: str, n: int = 1_000) -> Task:
    """Of `n` points, in nats, with the exact divergence."""
    model = Counted(Perceptron(weights))
    solver = ODESolver(velocity_model=model)
    x1 = torch.from_numpy(np.array(moons.draw(jax.random.key(1), n)))
    noise = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)

    def solve() -> torch.Tensor:
        return solver.compute_likelihood(
            x_1=x1,
            log_p0=noise.log_prob,
            method="dopri5",
            step_size=None,
            atol=1e-5,
            rtol=1e-5,
            exact_divergence=True,
        )[1].detach()

    value = solve()
    facts = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "mean nfe": model.calls,
        "mean nats": float(value.mean()),
    }

    def run(k: int) -> None:
        for _ in range(k):
            solve()

    return Task(run, facts)

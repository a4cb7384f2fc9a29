"""Exact optimal transport of one batch by torchcfm's sampler of plans."""

import numpy as np
import torch
from torchcfm.optimal_transport import OTPlanSampler

from benchmarks.peers.two_dimensional import eight_gaussians, moons
from benchmarks.task import Task


def couple(n: int) -> Task:
    """Re-pair a batch of `n`."""
    torch.manual_seed(0)
    x0, x1 = eight_gaussians(n), moons(n)
    sampler = OTPlanSampler(method="exact")
    cost = np.sum(sampler.get_map(x0, x1) * (torch.cdist(x0, x1) ** 2).numpy())

    def run(k: int) -> None:
        for _ in range(k):
            sampler.sample_plan(x0, x1)

    return Task(run, {"n": n, "cost": float(cost)})

"""The tutorial of torchcfm: eight Gaussians to two moons, by a perceptron of width 64."""

import numpy as np
import torch
from torchcfm import conditional_flow_matching as cfm
from torchcfm.models import MLP

from benchmarks.task import Task

MATCHERS = {
    "independent": cfm.ConditionalFlowMatcher,
    "exact": cfm.ExactOptimalTransportConditionalFlowMatcher,
}


def training(coupling: str, samplers: str, batch: int = 256) -> Task:
    """Training steps, data included.

    `samplers` are those of the "tutorial", which loop over a batch of Gaussians in Python, or
    "vectorised" ones of the same distributions.
    """
    start, end = _samplers(samplers)
    model = MLP(dim=2, time_varying=True)
    optimizer = torch.optim.Adam(model.parameters())
    matcher = MATCHERS[coupling](sigma=0.0)

    def run(k: int) -> None:
        for _ in range(k):
            optimizer.zero_grad()
            t, x, u = matcher.sample_location_and_conditional_flow(start(batch), end(batch))
            v = model(torch.cat([x, t[:, None]], dim=-1))
            torch.mean((v - u) ** 2).backward()
            optimizer.step()

    return Task(run, {"parameters": sum(p.numel() for p in model.parameters()), "batch": batch})


def _samplers(name: str):
    if name == "vectorised":
        return eight_gaussians, moons
    from torchcfm.utils import sample_8gaussians, sample_moons

    return sample_8gaussians, sample_moons


def eight_gaussians(n: int) -> torch.Tensor:
    """Eight Gaussians of variance `sqrt(0.1)` on a circle of radius 5."""
    angle = torch.randint(8, (n,)) * (torch.pi / 4)
    centre = 5.0 * torch.stack([torch.cos(angle), torch.sin(angle)], dim=1)
    return centre + 0.1**0.25 * torch.randn(n, 2)


def moons(n: int) -> torch.Tensor:
    """Two half circles `3 p - 1`, with noise along the diagonal."""
    angle = np.pi * torch.rand(n)
    circle = torch.stack([torch.cos(angle), torch.sin(angle)], dim=1)
    other = torch.tensor([1.0, 0.5]) - circle
    point = torch.where(torch.arange(n)[:, None] < n // 2, circle, other)
    return 3 * (point + 0.2 * torch.rand(n, 1)) - 1

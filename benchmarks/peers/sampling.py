"""Samples of two moons from noise by flow_matching's ODESolver, with the weights of our side."""

import numpy as np
import torch
from flow_matching.solver import ODESolver
from flow_matching.utils import ModelWrapper

from benchmarks.task import Task

STEPS = {"euler": 50, "midpoint": 20, "dopri5": None}


class Perceptron(torch.nn.Module):
    """Three hidden layers of width 64, on `x` and `t` side by side."""

    def __init__(self, weights: str):
        super().__init__()
        saved = np.load(weights)
        layers = [_layer(saved[f"kernel_{i}"], saved[f"bias_{i}"]) for i in range(len(saved) // 2)]
        activated = [module for layer in layers[:-1] for module in (layer, torch.nn.SELU())]
        self.net = torch.nn.Sequential(*activated, layers[-1])

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.net(torch.cat([x, t.expand(len(x), 1)], dim=1))


class Counted(ModelWrapper):
    """A model that knows how often it was called."""

    calls = 0

    def forward(self, x: torch.Tensor, t: torch.Tensor, **extras) -> torch.Tensor:
        self.calls += 1
        return self.model(x, t)


def _layer(kernel: np.ndarray, bias: np.ndarray) -> torch.nn.Linear:
    layer = torch.nn.Linear(*kernel.shape)
    layer.weight.data = torch.from_numpy(kernel.T.copy())
    layer.bias.data = torch.from_numpy(bias)
    return layer


def sample(method: str, weights: str, n: int = 10_000) -> Task:
    """`n` samples; the file of weights is what our side wrote."""
    model = Counted(Perceptron(weights))
    solver = ODESolver(velocity_model=model)
    x0 = torch.from_numpy(np.random.default_rng(0).standard_normal((n, 2))).float()
    step_size = None if STEPS[method] is None else 1 / STEPS[method]

    def solve() -> torch.Tensor:
        return solver.sample(x_init=x0, method=method, step_size=step_size, atol=1e-5, rtol=1e-5)

    x = solve()
    facts = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "mean nfe": model.calls,
        "mean |x|": float(x.abs().mean()),
    }

    def run(k: int) -> None:
        for _ in range(k):
            solve()

    return Task(run, facts)

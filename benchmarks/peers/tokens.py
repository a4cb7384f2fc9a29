"""Tokens from masks by flow_matching's discrete Euler solver, with the weights of our side.

Its mask is a token of the vocabulary that the posterior never draws. It draws known tokens anew, so
that the posterior at each of them must be the token itself, which ours is told by the path. A step
`h` leaves a mask with the probability `exp(-h / (1 - t))` that its rate at `t` has, ours with the
exact `1 - h / (1 - t)`; all that is left is drawn at the last.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from flow_matching.path import MixtureDiscreteProbPath
from flow_matching.path.scheduler import CondOTScheduler
from flow_matching.solver import MixtureDiscreteEulerSolver
from torch.nn import functional

from benchmarks.peers.sampling import Counted
from benchmarks.task import Task

SURE = 1e4
ENOUGH = 2**15


class Tagger(torch.nn.Module):
    """Logits of the vocabulary and the mask, the mask's minus infinity."""

    def __init__(self, shared: dict[str, np.ndarray]):
        super().__init__()
        padded = np.pad(shared["head_kernel"], ((0, 0), (0, 1)))
        self.embed = torch.nn.Embedding.from_pretrained(torch.from_numpy(shared["embed"]))
        self.hidden = _layer(shared["hidden_kernel"], shared["hidden_bias"])
        self.head = _layer(padded, np.append(shared["head_bias"], np.float32(-np.inf)))

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        e = self.embed(x)
        near = (e.roll(1, dims=1) + e + e.roll(-1, dims=1)) / 3
        return self.head(torch.relu(self.hidden(near)))


class Posterior(Counted):
    """Probabilities of each token; one that is known stays."""

    def forward(self, x: torch.Tensor, t: torch.Tensor, **extras: Any) -> torch.Tensor:
        logits = super().forward(x, t)
        sure = torch.full_like(x[..., None], SURE, dtype=logits.dtype)
        return torch.softmax(logits.scatter_add_(-1, x[..., None], sure), dim=-1)


def _layer(kernel: np.ndarray, bias: np.ndarray) -> torch.nn.Linear:
    layer = torch.nn.Linear(*kernel.shape)
    layer.weight.data = torch.from_numpy(kernel.T.copy())
    layer.bias.data = torch.from_numpy(bias)
    return layer


def sample(weights: str, shape: Sequence[int], vocabulary: int, steps: int, counted: int) -> Task:
    """Sequences `shape`, `[batch, length]`; the file is what our side wrote.

    Tells what `benchmarks.ours.tokens.sampled` does.
    """
    shared = dict(np.load(weights))
    groups, law = shared["groups"], shared["law"]
    tagger = Tagger(shared).requires_grad_(False)
    model = Posterior(tagger)
    path = MixtureDiscreteProbPath(scheduler=CondOTScheduler())
    solver = MixtureDiscreteEulerSolver(model=model, path=path, vocabulary_size=vocabulary + 1)
    x0 = torch.full(tuple(shape), vocabulary)

    def draw(steps: int) -> torch.Tensor:
        return solver.sample(x0, step_size=None, time_grid=torch.linspace(0, 1, steps + 1))

    def drawn(steps: int) -> np.ndarray:
        torch.manual_seed(0)
        draws = max(1, counted // x0.numel())
        return groups[torch.cat([draw(steps) for _ in range(draws)]).numpy()]

    def run(k: int) -> None:
        for _ in range(k):
            draw(steps)

    def later() -> dict[str, Any]:
        error = np.abs(_shares(drawn(1), len(law)) - law)
        model.calls = 0
        draw(steps)
        found: dict[str, Any] = {"largest error": float(error.max()), "calls": model.calls}
        if counted >= ENOUGH:
            found |= {"points": _figures(drawn(steps), len(law))}
        return found

    probe, answer = torch.from_numpy(shared["probe"]), torch.from_numpy(shared["answer"])
    logits = tagger(probe, torch.zeros(len(probe))).double()
    facts = {
        "parameters": sum(p.numel() for p in tagger.parameters()) - tagger.head.in_features - 1,
        "loss": float(functional.cross_entropy(logits.flatten(0, 1), answer.flatten())),
    }
    return Task(run, facts, later=later)


def _shares(found: np.ndarray, n: int) -> np.ndarray:
    """Of each of `n` groups among those found."""
    return np.bincount(found.ravel(), minlength=n) / found.size


def _figures(found: np.ndarray, n: int) -> list[float]:
    alike = np.mean(found[:, 1:] == found[:, :-1])
    return [*_shares(found, n).tolist(), float(alike)]

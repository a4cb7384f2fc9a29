"""Flows and bridges by torchcfm on given batches, as its notebooks train and sample them.

python -m benchmarks.peers.bridges PROBLEM.npz WAYS.npz SEED SIGMA STEPS RATE INTERVALS

It has no learning rate's schedule, pairs within intervals, nor Euler and Maruyama's method of its
own; those of `benchmarks.bridges` are written out here.
"""

import sys
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torchcfm import conditional_flow_matching as cfm
from torchcfm.models import MLP
from torchdiffeq import odeint

Field = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def network(problem: Mapping[str, np.ndarray], part: str) -> MLP:
    """The tutorial's perceptron, at the given parameters."""
    model = MLP(dim=problem["x0"].shape[-1], time_varying=True)
    linear = [layer for layer in model.net if isinstance(layer, torch.nn.Linear)]
    for i, layer in enumerate(linear):
        layer.weight.data = torch.from_numpy(problem[f"{part}_{i}_kernel"].T.copy())
        layer.bias.data = torch.from_numpy(problem[f"{part}_{i}_bias"].copy())
    return model


def field(model: MLP, intervals: int) -> Field:
    """`(time of the whole way, x) -> output`."""
    return lambda time, x: model(torch.cat([x, time.expand(len(x), 1) / intervals], dim=1))


def paired(matcher, x0, x1, start, intervals: int, noise: bool):
    """What `sample_location_and_conditional_flow` gives within each interval, side by side."""
    parts = []
    for k in range(intervals):
        rows = start == k
        found = matcher.sample_location_and_conditional_flow(x0[rows], x1[rows], return_noise=noise)
        t, x, u, *rest = found
        parts.append((k + t, t, x, u, *rest))
    return [torch.cat(columns) for columns in zip(*parts, strict=True)]


def fit(matcher, models, batches, intervals: int, rate: float, score: bool) -> None:
    """One step of Adam a batch."""
    parameters = [p for model in models for p in model.parameters()]
    optimizer = torch.optim.Adam(parameters, rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches[0]))
    fields = [field(model, intervals) for model in models]
    for x0, x1, start in zip(*batches, strict=True):
        optimizer.zero_grad()
        found = paired(matcher, x0, x1, start, intervals, score)
        time, t, x, u = found[:4]
        loss = torch.mean((fields[0](time[:, None], x) - u) ** 2)
        if score:
            weight = matcher.compute_lambda(t)[:, None]
            loss = loss + torch.mean((weight * fields[1](time[:, None], x) + found[4]) ** 2)
        loss.backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def flow(v: Field, ends: torch.Tensor, steps: int) -> np.ndarray:
    """Ways from every distribution by the ODE, as torchdyn's tutorial solver, dopri5."""
    ways = []
    for k, x in enumerate(ends[:-1]):
        times = torch.linspace(k, k + 1, steps + 1)
        ways.append(odeint(v, x, times, method="dopri5", rtol=1e-5, atol=1e-5))
    return torch.stack(ways).numpy()


@torch.no_grad()
def process(v: Field, s: Field, ends: torch.Tensor, sigma: float, steps: int) -> np.ndarray:
    """The same by Euler and Maruyama; the score's network is `sigma^2 / 2` times the score."""
    ways, h = [], 1 / steps
    for k, x in enumerate(ends[:-1]):
        way = [x]
        for i in range(steps):
            time = torch.tensor(k + i / steps)
            is_last = i + 1 == steps
            drift = v(time, x) if is_last else v(time, x) + s(time, x)
            x = x + h * drift + (0.0 if is_last else sigma * h**0.5 * torch.randn_like(x))
            way.append(x)
        ways.append(torch.stack(way))
    return torch.stack(ways).numpy()


def main() -> None:
    """Train every row, and write its ways."""
    given, made = sys.argv[1:3]
    seed, steps, intervals = int(sys.argv[3]), int(sys.argv[5]), int(sys.argv[7])
    sigma, rate = float(sys.argv[4]), float(sys.argv[6])
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (torchcfm's sampler of plans draws from it)
    with np.load(given) as file:
        problem = dict(file)
    batches = [torch.from_numpy(problem[name]) for name in ("x0", "x1", "start")]
    ends, ways = torch.from_numpy(problem["ends"]), {}
    for name, kind in (
        ("I-CFM", cfm.ConditionalFlowMatcher),
        ("OT-CFM", cfm.ExactOptimalTransportConditionalFlowMatcher),
    ):
        model = network(problem, "flow")
        fit(kind(sigma=0.0), [model], batches, intervals, rate, score=False)
        ways[name] = flow(field(model, intervals), ends, steps)
    models = [network(problem, part) for part in ("flow", "score")]
    matcher = cfm.SchrodingerBridgeConditionalFlowMatcher(sigma=sigma, ot_method="exact")
    fit(matcher, models, batches, intervals, rate, score=True)
    fields = [field(model, intervals) for model in models]
    ways["[SF]2M, flow"] = flow(fields[0], ends, steps)
    ways["[SF]2M, process"] = process(*fields, ends, sigma, steps)
    np.savez(made, **ways)


if __name__ == "__main__":
    main()

"""Flows and bridges beside torchcfm: how near they end, and at what energy.

    python -m benchmarks.bridges moons [--steps=3000] [--seeds=3] [--peer PYTHON]
    python -m benchmarks.bridges cells --source=krumsiek11.txt [--peer PYTHON]

`moons` goes from eight Gaussians to two moons, as torchcfm's tutorial; `cells` follows simulated
cells from each of eight times to the next. Every row trains perceptrons of width 64 on one list of
batches of 256, by Adam with one schedule; `--peer` is a Python that has torchcfm (`make bench`
makes one), which then trains from the same parameters on the same list. Ours samples by the average
of its parameters, as `trainer` keeps one.

W2 is the exact distance of the samples from those of the data, a mean over times: that of two
samples of the data is its floor. The energy is that of the flow's ways, `sum |dx|^2 / dt` a sample,
and NPE its distance from the cost of exact transport between the samples of the data, over that
cost (Tong et al., 2024, arXiv:2302.00482).
"""

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

from benchmarks import marginals
from benchmarks.couplings import wasserstein
from benchmarks.marginals import Problem
from benchmarks.report import spread
from jaxflow import couplings, draws, losses, networks, paths, sampling, velocities
from jaxflow.records import record
from jaxflow.training import program, trainer
from jaxflow.types import Array, Batch, Coupling, Key, Loss, Network, Params

STEPS, WIDTH, RATE = 100, 64, 2e-3
GRID = sampling.grids.uniform(STEPS)
PERCEPTRON = networks.linen(networks.ConcatMLP(width=WIDTH, depth=3))
FLOWS = ("I-CFM", "OT-CFM", "[SF]2M, flow")
PROCESS = "[SF]2M, process"

Ways = dict[str, np.ndarray]  # [K, STEPS + 1, samples, dim] a row


class Found(NamedTuple):
    """The figures of one row."""

    distance: float
    energy: float


@record
class Timed:
    """A network that is told the time of the whole way, from the interval and the time in it."""

    network: Network
    intervals: int

    def __call__(
        self, params: Params, t: Array, x: Array, *, key: Key | None = None, start: Array
    ) -> Array:
        return self.network(params, (start + t) / self.intervals, x, key=key)


@record
class Listed:
    """Batches of a list, in their order."""

    x0: Array
    x1: Array
    start: Array

    def batch(self, step: Array) -> Batch:
        """The one of this step."""
        return {"x0": self.x0[step], "x1": self.x1[step], "cond": {"start": self.start[step]}}


def trained(problem: Problem, loss: Loss, path: Any, coupling: Coupling, params: Params) -> Any:
    """The average of the parameters, after one step a batch."""
    draw = draws.standard(path, coupling=coupling)
    steps = len(problem.x0)
    rate = optax.cosine_decay_schedule(RATE, steps)
    run = program(trainer(loss, optax.adam(rate), draw=draw, ema_decay=0.995))
    stream = Listed(*map(jnp.asarray, (problem.x0, problem.x1, problem.start)))
    state, _ = run.steps(run.init(params, jax.random.key(1)), stream, steps)
    return state.ema


def followed(problem: Problem, velocity: Any, options: Callable[[int], Any]) -> np.ndarray:
    """The ways of every distribution's samples to the next one."""
    ways = []
    for k, x in enumerate(problem.ends[:-1]):
        cond = {"start": jnp.full(len(x), k)}
        found = sampling.fixed_step(
            velocity, jnp.asarray(x), GRID, save=True, cond=cond, **options(k)
        )
        ways.append(found.xs)
    return np.stack(ways)


def process(problem: Problem, velocity: Any, score: Any, sigma: float) -> np.ndarray:
    """The same by the bridge's own SDE, whose last step adds no noise."""

    def options(k: int) -> Any:
        n = len(problem.ends[k])
        method = sampling.euler_maruyama(
            lambda t: jnp.where(t < 1 - 1.5 / STEPS, sigma, 0.0),
            score=lambda t, x: score(t, x, start=jnp.full(n, k)),
        )
        return {"method": method, "keys": jax.random.split(jax.random.key(k), n)}

    return followed(problem, velocity, options)


def initial(problem: Problem, seed: int) -> dict[str, Params]:
    """Where both sides start."""
    example = jnp.zeros(1), jnp.zeros((1, problem.dim))
    keys = jax.random.split(jax.random.key(seed), 2)
    return {
        part: PERCEPTRON.init(key, *example)
        for part, key in zip(("flow", "score"), keys, strict=True)
    }


def ours(problem: Problem, seed: int, sigma: float) -> Ways:
    """Every row by jaxflow."""
    network, params = Timed(PERCEPTRON, problem.intervals), initial(problem, seed)
    transport = couplings.conditional_optimal_transport()
    line, ways = paths.linear(), {}
    for name, coupling in zip(FLOWS[:2], (couplings.independent(), transport), strict=True):
        loss = losses.flow_matching(network, line)
        learned = trained(problem, loss, line, coupling, params["flow"])
        ways[name] = followed(
            problem, velocities.from_network(network, learned, path=line), lambda _: {}
        )
    path = paths.bridge(sigma)
    loss = losses.flow_and_score(network, network, path)
    learned = trained(problem, loss, path, transport, params)
    velocity = velocities.from_network(network, learned["flow"], path=path)
    score = velocities.score_from_network(network, learned["score"], path)
    ways[FLOWS[2]] = followed(problem, velocity, lambda _: {})
    ways[PROCESS] = process(problem, velocity, score, sigma)
    return ways


def theirs(problem: Problem, seed: int, sigma: float, python: str) -> Ways:
    """Every row by torchcfm, under a Python that has it.

    Raises:
        subprocess.CalledProcessError: where it fails; what it says is on stderr.
    """
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder, "problem.npz"), Path(folder, "ways.npz")
        layers = {
            f"{part}_{i}_{name}": array
            for part, params in initial(problem, seed).items()
            for i in range(len(params))
            for name, array in params[f"Dense_{i}"].items()
        }
        np.savez(given, **problem._asdict(), **layers)
        arguments = [given, made, seed, sigma, STEPS, RATE, problem.intervals]
        command = [python, "-m", "benchmarks.peers.bridges", *map(str, arguments)]
        subprocess.run(command, check=True, env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"})
        with np.load(made) as ways:
            return dict(ways)


def transport_cost(problem: Problem) -> float:
    """Of carrying the samples of every distribution to those of the next."""
    return sum(wasserstein(x, y) ** 2 for x, y in itertools.pairwise(problem.ends))


def figures(problem: Problem, ways: np.ndarray) -> Found:
    """Of one row."""
    pairs = zip(ways[:, -1], problem.ends[1:], strict=True)
    distances = [wasserstein(x, y) for x, y in pairs]
    moves = np.sum(np.diff(ways.astype(float), axis=1) ** 2, axis=-1)
    energy = float(moves.mean(axis=2).sum() * STEPS)
    return Found(float(np.mean(distances)), energy)


def draw_figure(every: Ways, file: Path) -> None:
    """The ways of 300 samples a row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 * len(every), 3.2))
    for axes, (name, ways) in zip(figure.subplots(1, len(every)), every.items(), strict=True):
        some = ways[0, :, :300]
        axes.plot(some[..., 0], some[..., 1], color="0.75", linewidth=0.3, zorder=0)
        axes.scatter(*some[0, :, :2].T, s=3, color="black")
        axes.scatter(*some[-1, :, :2].T, s=3, color="tab:blue")
        axes.set(title=name, xticks=[], yticks=[], aspect="equal")
    figure.savefig(file, dpi=110, bbox_inches="tight")


def table(problems: Sequence[Problem], sides: dict[str, Sequence[Ways]]) -> Table:
    """Means and standard errors over seeds, beside the cost of exact transport."""
    costs = [transport_cost(problem) for problem in problems]
    made = Table("", "", "W2 to the data", "energy", "NPE")
    made.add_row("exact transport", "", "", spread(costs), "")
    for name in (*FLOWS, PROCESS):
        for side, ways in sides.items():
            rows = [figures(*pair) for pair in zip(problems, (w[name] for w in ways), strict=True)]
            away = [abs(row.energy - cost) / cost for row, cost in zip(rows, costs, strict=True)]
            finite = [spread([row.energy for row in rows]), spread(away)]
            cells = ["", ""] if name == PROCESS else finite  # the energy of a process is infinite
            made.add_row(name, side, spread([row.distance for row in rows]), *cells)
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Train, print the table, and draw."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.bridges",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("problem", choices=("moons", "cells"))
    parser.add_argument("--source", type=Path, metavar="FILE", help="krumsiek11.txt, for cells")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sigma", type=float, help="diffusion of the bridge: 1 of moons, or 0.1")
    parser.add_argument("--peer", metavar="PYTHON", help="one that has torchcfm")
    parser.add_argument("--figure", type=Path, metavar="FILE.png")
    options = parser.parse_args(argv)
    is_cells = options.problem == "cells"
    if is_cells != (options.source is not None):
        parser.error("cells read --source=krumsiek11.txt, and moons none")
    if is_cells and not options.source.is_file():
        parser.error(f"--source={options.source} is no file: krumsiek11.txt comes with scanpy")
    sigma = options.sigma if options.sigma is not None else (0.1 if is_cells else 1.0)
    problems = [
        marginals.cells(options.source, seed, options.steps)
        if is_cells
        else marginals.moons(seed, options.steps)
        for seed in range(options.seeds)
    ]
    seeds = list(enumerate(problems))
    sides = {"jaxflow": [ours(problem, seed, sigma) for seed, problem in seeds]}
    if options.peer:
        sides["torchcfm"] = [theirs(p, seed, sigma, options.peer) for seed, p in seeds]
    Console(width=100).print(table(problems, sides))
    if options.figure:
        draw_figure(sides["jaxflow"][0], options.figure)


if __name__ == "__main__":
    sys.exit(main())

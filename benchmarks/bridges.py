"""Flows and bridges from eight Gaussians to two moons: how near they end, and at what energy.

python -m benchmarks.bridges [--steps=3000] [--seeds=2] [--sigma=1] [--figure FILE.png]

Every row trains perceptrons of width 64 on the pairs of torchcfm's tutorial, in batches of 256. W2
is the exact distance of 2,048 samples from as many of the data: that of two samples of the data is
its floor. The energy is that of the flow's ways, `sum |dx|^2 / dt` a sample, and NPE its distance
from the cost of exact transport of 2,048 samples of both ends, over that cost (Tong et al., 2024,
arXiv:2302.00482).
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial
from rich.console import Console
from rich.table import Table

from benchmarks.ours.two_dimensional import pairs, perceptron
from jaxflow import couplings, draws, losses, paths, sampling, velocities
from jaxflow.training import program, trainer
from jaxflow.types import Array, Coupling, Key, Loss, Method, Params, Velocity

BATCH, SAMPLES, STEPS = 256, 2048, 100
GRID = sampling.grids.uniform(STEPS)
Score = Callable[..., Array]


class Found(NamedTuple):
    """Ways from the source, `[times, samples, 2]`, and their figures."""

    xs: np.ndarray
    distance: float
    energy: float | None


def euler_maruyama(score: Score, diffusion: float) -> Method:
    """`dX = (v + g^2 / 2 score) dt + g dW`; the last step, whose noise nothing undoes, has none."""

    def step(
        score: Score, v: Velocity, t: Array, s: Array, x: Array, memory: Any, keys: Any
    ) -> tuple[Array, Any]:
        h = (s - t)[:, None]
        noise = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:]))(keys)
        size = jnp.where(s < 1 - 1e-4, diffusion * jnp.sqrt(s - t), 0.0)[:, None]
        drift = v(t, x) + diffusion**2 / 2 * score(t, x)
        return x + h * drift + size * noise, memory

    return Method(Partial(lambda v, t, x: ()), Partial(step, score), calls=1, order=1)


def trained(loss: Loss, path: Any, coupling: Coupling, params: Params, key: Key, steps: int) -> Any:
    """Parameters after so many steps of Adam, averaged over the last ones."""
    draw = draws.standard(path, coupling=coupling)
    rate = optax.cosine_decay_schedule(2e-3, steps)
    run = program(trainer(loss, optax.adam(rate), draw=draw, ema_decay=0.995))
    state, _ = run.steps(run.init(params, key), pairs(BATCH), steps)
    return state.ema


def ends(seed: int, n: int = SAMPLES) -> tuple[np.ndarray, np.ndarray]:
    """Samples of both ends that no run trains on."""
    batch = pairs(n).batch(jnp.int32(1_000_000 + seed))
    return np.asarray(batch["x0"]), np.asarray(batch["x1"])


def transport_cost(x0: np.ndarray, x1: np.ndarray) -> float:
    """The exact cost of pairing two samples, the square of W2."""
    coupling = couplings.optimal_transport(on_host=True)
    x0, x1, _ = coupling(jax.random.key(0), x0, x1, {})
    return float(np.mean(np.sum((np.asarray(x1) - np.asarray(x0)) ** 2, axis=1)))


def flow_of(velocity: Velocity, seed: int) -> Found:
    """By the probability flow."""
    x0, x1 = ends(seed)
    solution = sampling.fixed_step(velocity, jnp.asarray(x0), GRID, save=True)
    xs = np.asarray(solution.xs)
    energy = float(np.sum(np.diff(xs, axis=0) ** 2, axis=2).mean(1).sum() * STEPS)
    return Found(xs, transport_cost(xs[-1], x1) ** 0.5, energy)


def process_of(velocity: Velocity, score: Score, sigma: float, seed: int) -> Found:
    """By the stochastic flow, whose energy is infinite."""
    x0, x1 = ends(seed)
    keys = jax.random.split(jax.random.key(seed), len(x0))
    method = euler_maruyama(score, sigma)
    solution = sampling.fixed_step(
        velocity, jnp.asarray(x0), GRID, method=method, keys=keys, save=True
    )
    xs = np.asarray(solution.xs)
    return Found(xs, transport_cost(xs[-1], x1) ** 0.5, None)


def runs(seed: int, steps: int, sigma: float) -> dict[str, Found]:
    """Every row of the table for one seed."""
    network, _ = perceptron()
    keys = jax.random.split(jax.random.key(seed), 3)
    example = jnp.zeros(1), jnp.zeros((1, 2))
    params = {
        name: network.init(key, *example)
        for name, key in zip(("flow", "score"), keys, strict=False)
    }
    found, line = {}, paths.linear()
    for name, coupling in (
        ("I-CFM", couplings.independent()),
        ("OT-CFM", couplings.optimal_transport()),
    ):
        loss = losses.flow_matching(network, line)
        learned = trained(loss, line, coupling, params["flow"], keys[2], steps)
        found[name] = flow_of(velocities.from_network(network, learned, path=line), seed)
    path = paths.bridge(sigma)
    loss = losses.flow_and_score(network, network, path)
    learned = trained(loss, path, couplings.optimal_transport(), params, keys[2], steps)
    velocity = velocities.from_network(network, learned["flow"], path=path)
    score = velocities.score_from_network(network, learned["score"], path)
    found["[SF]2M, flow"] = flow_of(velocity, seed)
    found["[SF]2M, process"] = process_of(velocity, score, sigma, seed)
    return found


def draw_figure(found: dict[str, Found], file: Path) -> None:
    """The ways of 300 samples a row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 * len(found), 3.2))
    for axes, (name, row) in zip(figure.subplots(1, len(found)), found.items(), strict=True):
        some = row.xs[:, :300]
        axes.plot(some[..., 0], some[..., 1], color="0.75", linewidth=0.3, zorder=0)
        axes.scatter(*some[0].T, s=3, color="black")
        axes.scatter(*some[-1].T, s=3, color="tab:blue")
        axes.set(title=name, xticks=[], yticks=[], aspect="equal")
    figure.savefig(file, dpi=110, bbox_inches="tight")


def table(every: Sequence[dict[str, Found]]) -> Table:
    """Means and standard deviations over seeds, beside the floor and the cost of transport."""
    truth = [(ends(seed), ends(100 + seed)) for seed in range(len(every))]
    floor = [transport_cost(one[1], other[1]) ** 0.5 for one, other in truth]
    costs = [transport_cost(*one) for one, _ in truth]
    made = Table("", "W2 to the data", "energy", "NPE")
    made.add_row("data beside data", spread(floor), "", "")
    made.add_row("exact transport", "", spread(costs), "")
    for name in every[0]:
        rows = [found[name] for found in every]
        energies = [row.energy for row in rows if row.energy is not None]
        away = [abs(e - c) / c for e, c in zip(energies, costs, strict=False)]
        cells = [spread(values) for values in (energies, away)] if energies else ["", ""]
        made.add_row(name, spread([row.distance for row in rows]), *cells)
    return made


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    return f"{np.mean(values):.3g} ± {np.std(values):.2g}"


def main(argv: Sequence[str] | None = None) -> None:
    """Train, print the table, and draw."""
    parser = argparse.ArgumentParser("python -m benchmarks.bridges")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--sigma", type=float, default=1.0, help="diffusion of the bridge")
    parser.add_argument("--figure", type=Path, metavar="FILE.png")
    options = parser.parse_args(argv)
    every = [runs(seed, options.steps, options.sigma) for seed in range(options.seeds)]
    Console().print(table(every))
    if options.figure:
        draw_figure(every[0], options.figure)


if __name__ == "__main__":
    main()

"""What couplings cost a batch, what their pairs cost, and what they do to conditional sampling.

    python -m benchmarks.couplings costs [--rounds=7]
    python -m benchmarks.couplings conditions [--steps=6000]
    python -m benchmarks.couplings pipelined [--rounds=7]

`costs` alternates the couplings with POT's exact solver on one batch; data are ten Gaussians.
`conditions` trains one perceptron a coupling on the two moons, told which moon, from eight
Gaussians and from N(0, I), and samples it from the source as it is. `pipelined` times training
steps whose exact transport is solved on the host: between the steps, and on threads ahead of them.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

from jaxflow import couplings, draws, losses, networks, paths, sampling, sources, training
from jaxflow import velocities as velocities_
from jaxflow.couplings.assignment import assign_on_host
from jaxflow.data import toy
from jaxflow.records import record
from jaxflow.types import Array, Batch, Coupling, Key, Params

SIZES = tuple((n, d) for n in (128, 512) for d in (2, 64, 3072))
COUPLINGS: dict[str, Coupling] = {
    "independent()": couplings.independent(),
    "optimal_transport()": couplings.optimal_transport(),
    "optimal_transport(on_host=True)": couplings.optimal_transport(on_host=True),
    "sinkhorn(0.05)": couplings.sinkhorn(0.05),
    "sinkhorn(0.005)": couplings.sinkhorn(0.005),
}
CONDITIONAL: dict[str, Coupling] = {
    "independent()": couplings.independent(),
    "optimal_transport()": couplings.optimal_transport(),
    "conditional_optimal_transport()": couplings.conditional_optimal_transport(),
}
ROWS = 2_000


def pairs(n: int, d: int) -> tuple[Array, Array]:
    """Noise, and ten Gaussians of standard deviation 1/2 about centres from N(0, I)."""
    keys = jax.random.split(jax.random.key(0), 4)
    centres = jax.random.normal(keys[0], (10, d))
    x1 = centres[jax.random.randint(keys[1], (n,), 0, 10)] + jax.random.normal(keys[2], (n, d)) / 2
    return jax.random.normal(keys[3], (n, d)), x1


def pot(x0: np.ndarray, x1: np.ndarray) -> np.ndarray:
    """POT's exact plan, with its distances."""
    import ot

    share = np.full(len(x0), 1 / len(x0))
    return ot.emd(share, share, ot.dist(x0, x1))


def seconds(run: Callable[..., Any], *args: Any) -> float:
    """Of one call, to its end."""
    begin = time.perf_counter()
    jax.block_until_ready(run(*args))
    return time.perf_counter() - begin


def runs_of(x0: Array, x1: Array) -> dict[str, Callable[[Key], Any]]:
    """What is timed on one batch, by key."""
    host = [np.asarray(x) for x in (x0, x1)]
    runs: dict[str, Callable[[Key], Any]] = {"POT's ot.dist and ot.emd": lambda _: pot(*host)}
    for name, coupling in COUPLINGS.items():
        call: Callable[..., Any] = coupling.__call__
        call = call if getattr(coupling, "on_host", False) else jax.jit(call)
        runs[name] = lambda key, call=call: call(key, x0, x1, {})[0]
    return runs


def costs(rounds: int) -> Table:
    """Milliseconds a batch and the cost of the pairs, above the exact one."""
    shown = Table(title=f"{jax.devices()[0].device_kind}, {rounds} rounds")
    for column in ("batch", "dimension", "coupling", "ms, least", "median", "cost above exact"):
        shown.add_column(column, justify="left" if column == "coupling" else "right")
    for n, d in SIZES:
        x0, x1 = pairs(n, d)
        runs = runs_of(x0, x1)
        keys = jax.random.split(jax.random.key(1), rounds + 1)
        series = {name: [] for name in runs}
        for key in keys:
            for name, run in runs.items():
                series[name].append(seconds(run, key))
        exact = _cost(runs["optimal_transport(on_host=True)"](keys[0]), x1)
        for name, (_, *spent) in series.items():
            paired = _mean_cost(runs[name], x1, keys) if name in COUPLINGS else exact
            above = f"{100 * (paired / exact - 1):.1f} %"
            least, median = (f"{1e3 * f(spent):.1f}" for f in (min, statistics.median))
            shown.add_row(str(n), str(d), name, least, median, above)
        shown.add_section()
    return shown


def _cost(x0: Array, x1: Array) -> float:
    return float(np.sum((np.asarray(x0, float) - np.asarray(x1, float)) ** 2))


def _mean_cost(run: Callable[[Key], Array], x1: Array, keys: Key) -> float:
    return statistics.mean(_cost(run(key), x1) for key in keys)


@record
class Moons:
    """Two moons and which one, as a stream."""

    seed: int

    def batch(self, step: Any) -> Batch:
        """One of 256."""
        return moons(jax.random.fold_in(jax.random.key(self.seed), step), 256)


def moons(key: Key, n: int) -> Batch:
    """Points as `toy.moons()` has them, with the moon of each."""
    which, where, blur = jax.random.split(key, 3)
    angle = jax.random.uniform(where, (n,), maxval=jnp.pi)
    upper = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
    label = jax.random.bernoulli(which, shape=(n,)).astype(int)
    point = jnp.where(label[:, None] == 0, upper, jnp.array([1, 0.5]) - upper)
    noise = 0.05 * jax.random.normal(blur, (n, 2))
    return {"x1": 1.5 * (point + noise - jnp.array([0.5, 0.25])), "cond": {"label": label}}


def eight(keys: Array, event_shape: Any) -> Array:
    """The source of eight Gaussians."""
    return toy.eight_gaussians(2.0).sample(keys)


class Distances(NamedTuple):
    """Of samples from those of the data, by class."""

    few: list[float]
    many: list[float]


def trained(source: Any, coupling: Coupling, steps: int) -> Distances:
    """The 2-Wasserstein distances of each moon, by 2 and by 50 steps of a solver."""
    path = paths.linear()
    network = networks.linen(networks.ConcatMLP(width=128, depth=4))
    rate = optax.cosine_decay_schedule(2e-3, steps)
    run = training.trainer(
        losses.flow_matching(network, path),
        optax.adam(rate),
        draw=draws.standard(path, source=source, coupling=coupling),
        ema_decay=0.999,
    )
    compiled = training.program(run, layout=training.layout(devices=jax.devices()[:1]))
    example = Moons(0).batch(0)
    params = network.init(
        jax.random.key(0), jnp.zeros(256), example["x1"], label=example["cond"]["label"]
    )
    state = compiled.init(params, jax.random.key(1))
    state, _ = compiled.steps(state, Moons(0), steps)
    return Distances(*(_distances(network, state.ema, source, n) for n in (2, 50)))


def _distances(network: Any, params: Params, source: Any, n: int) -> list[float]:
    velocity = velocities_.from_network(network, params, path=paths.linear())
    found = []
    for k in (0, 1):
        keys = jax.random.split(jax.random.key(10 + k), ROWS)
        x0 = sources.as_source(source).sample(keys, (2,))
        label = {"label": jnp.full(ROWS, k)}
        method = sampling.euler() if n == 2 else sampling.heun()
        grid = sampling.grids.uniform(n)
        x = sampling.fixed_step(velocity, x0, grid, method=method, cond=label).x
        found.append(wasserstein(x, of_class(k, 20)))
    return found


def of_class(k: int, seed: int) -> Array:
    """Points of one moon."""
    batch = moons(jax.random.key(seed), 3 * ROWS)
    return batch["x1"][batch["cond"]["label"] == k][:ROWS]


def wasserstein(x: Array, y: Array) -> float:
    """The exact 2-Wasserstein distance of two samples of one size."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    cost = ((x[:, None] - y[None]) ** 2).sum(-1)
    return float(np.sqrt(cost[np.arange(len(x)), assign_on_host(cost)].mean()))


def conditions(steps: int) -> Table:
    """The distances, beside those of two samples of the data."""
    shown = Table(title=f"2-Wasserstein distance of each moon, {steps} steps of training")
    for column in ("source", "coupling", "2 Euler steps", "50 Heun steps"):
        shown.add_column(column, justify="right" if "steps" in column else "left")
    for name, source in {"eight Gaussians": eight, "N(0, I)": sources.normal()}.items():
        for label, coupling in CONDITIONAL.items():
            found = trained(source, coupling, steps)
            shown.add_row(name, label, *(", ".join(f"{w:.3f}" for w in each) for each in found))
        shown.add_section()
    floor = ", ".join(f"{wasserstein(of_class(k, 20), of_class(k, 21)):.3f}" for k in (0, 1))
    shown.add_row("", "two samples of the data", "", floor)
    return shown


def step_seconds(network: Any, batch: Batch, rounds: int, steps: int) -> dict[str, list[float]]:
    """Of a step by independent pairs, and by exact transport between and ahead of the steps."""
    path, key = paths.linear(), jax.random.key(0)
    params = network.init(key, jnp.zeros(len(batch["x1"])), batch["x1"])
    ways = {
        "independent": draws.standard(path),
        "between": draws.standard(path, coupling=couplings.optimal_transport(on_host=True)),
        "ahead": draws.standard(path, coupling=couplings.optimal_transport(on_host=True)),
    }
    runs = {}
    for way, draw in ways.items():
        loss = losses.flow_matching(network, path)
        run = training.program(
            training.trainer(loss, optax.adam(1e-3), draw=draw),
            layout=training.layout(devices=jax.devices()[:1]),
        )
        keys = partial(training.draw_key, key)
        if way == "ahead":
            batches = training.ahead(draw, keys, itertools.repeat(batch))
        elif way == "between":
            batches = (draw(keys(step), batch) for step in itertools.count())
        else:
            batches = itertools.repeat(batch)
        runs[way] = run, run.init(params, key), batches
    spent = {way: [] for way in runs}
    for _ in range(rounds + 1):
        for way, (run, state, batches) in runs.items():
            begin = time.perf_counter()
            for completed in itertools.islice(batches, steps):
                state, _ = run.step(state, completed)
            jax.block_until_ready(state)
            spent[way].append((time.perf_counter() - begin) / steps)
            runs[way] = run, state, batches
    return {way: series[1:] for way, series in spent.items()}


def pipelined(rounds: int) -> Table:
    """Milliseconds of a step, and what transport adds to it, in medians over rounds."""
    shown = Table(title=f"{jax.devices()[0].device_kind}, {rounds} rounds")
    for column in ("step", "independent", "between steps", "ahead of them", "added, ahead/between"):
        shown.add_column(column, justify="left" if column == "step" else "right")
    x0 = jax.random.normal(jax.random.key(0), (256, 2))
    flat = {"x0": eight(jax.random.split(jax.random.key(1), 256), (2,)), "x1": x0}
    images = {"x1": jax.random.normal(jax.random.key(2), (64, 28, 28, 1))}
    unet = networks.UNet(channels=32, multipliers=(1, 2), blocks=1, attention=())
    rows = {
        "perceptron of width 64, 256 points": (networks.ConcatMLP(width=64, depth=3), flat, 300),
        "U-Net of 32 channels, 64 of 28 x 28": (unet, images, 4),
    }
    for name, (module, batch, steps) in rows.items():
        spent = step_seconds(networks.linen(module), batch, rounds, steps)
        plain, between, ahead = (1e3 * statistics.median(series) for series in spent.values())
        added = ahead - plain, between - plain
        share = f"{added[0]:.2f} / {added[1]:.2f} = {added[0] / added[1]:.2f}"
        shown.add_row(name, *(f"{ms:.2f}" for ms in (plain, between, ahead)), share)
    return shown


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("costs", "conditions", "pipelined"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=6_000)
    given = parser.parse_args()
    console = Console(width=120)
    tables = {
        "costs": lambda: costs(given.rounds),
        "conditions": lambda: conditions(given.steps),
        "pipelined": lambda: pipelined(given.rounds),
    }
    console.print(tables[given.what]())


if __name__ == "__main__":
    main()

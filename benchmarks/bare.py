"""A second bare call of each sampler beside its jitted form, in alternation.

python -m benchmarks.bare [--points=512] [--rounds=20]
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from jaxflow import networks, sampling, velocities

RUNS: dict[str, Callable[..., Any]] = {
    "fixed_step, Heun 20": lambda v, x: sampling.fixed_step(v, x, sampling.grids.uniform(20)),
    "adaptive, own steps": lambda v, x: sampling.adaptive(v, x, rtol=1e-3, atol=1e-3),
    "adaptive, a shared step": lambda v, x: sampling.adaptive(
        v, x, rtol=1e-3, atol=1e-3, per_sample=False
    ),
    "log_prob": lambda v, x: sampling.log_prob(v, x, rtol=1e-3, atol=1e-3),
    "flow_map, 4 steps": lambda v, x: sampling.flow_map(
        velocities.flow_map(v.network, v.params), x, sampling.grids.uniform(4)
    ),
}


def seconds(run: Callable[..., Any], *args: Any) -> float:
    """Of one call, to its end."""
    begin = time.perf_counter()
    jax.block_until_ready(run(*args))
    return time.perf_counter() - begin


def main() -> None:
    """Time, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=20)
    given = parser.parse_args()
    network = networks.linen(networks.ConcatMLP(width=64, depth=3))
    x = jax.random.normal(jax.random.key(0), (given.points, 2))
    t = jnp.zeros(given.points)
    params = network.init(jax.random.key(1), t, x, r=t)
    shown = Table(title=f"{given.points} points, {jax.devices()[0].device_kind}")
    for column in ("sampler", "first bare call", "bare", "jitted", "bare / jitted"):
        shown.add_column(column, justify="left" if column == "sampler" else "right")
    for name, run in RUNS.items():
        jitted = jax.jit(run)
        first = seconds(run, velocities.from_network(network, params), x)
        seconds(jitted, velocities.from_network(network, params), x)
        pairs = []
        for i in range(given.rounds):
            moved = jax.tree.map(lambda a, i=i: a * (1 + 0.01 * i), params)
            velocity = velocities.from_network(network, moved)
            pairs.append([seconds(f, velocity, x) for f in (run, jitted)])
        bare, fast = (statistics.median(side) for side in zip(*pairs, strict=True))
        ratio = statistics.median(a / b for a, b in pairs)
        shown.add_row(name, *(f"{s * 1e3:.2f} ms" for s in (first, bare, fast)), f"{ratio:.2f}")
    Console().print(shown)


if __name__ == "__main__":
    main()

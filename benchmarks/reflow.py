"""Rounds of reflow on two moons: how straight each flow is, and what few steps cost it.

    python -m benchmarks.reflow --workdir=runs/reflow [--rounds=3] [--num=50000] [--steps=N]
        [--samples=2000] [--seeds=3]

The flow is that of `configs/two_moons.py`. Each round trains a flow from fresh parameters, with as
many steps, on `num` fresh pairs of the flow before it, drawn by the config's adaptive sampler as
`experiments.pairs` draws them. After the last round a student learns from pairs of that flow at the
source alone (`times.constant(0)`), for one step. Each stands in a folder of its own, whose steps
and pairs are not made again. Figures are means over seeds of the noise, with their standard errors:

- straightness, the mean of (3) of `jaxflow.sampling.diagnostics`, 0 for straight ways;
- missed: how far, in the root mean square, one step of Euler's method from the noise
  ends from where the flow itself carries it;
- sliced Wasserstein distances from fresh data, by 1, 2, 4 and 50 steps of Euler's method.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from benchmarks.few_step import PLAIN, config_of, judge_of, sampled, trained
from benchmarks.report import spread
from configs import two_moons
from experiments.run.pairs import make_pairs
from experiments.setup import build
from jaxflow import sampling
from jaxflow.types import Params

COUNTS = (1, 2, 4, 50)


def flow_config(pairs: Path | None, steps: int | None) -> ConfigDict:
    """The config of a flow, on data or on the pairs of the flow before."""
    config = two_moons.get_config()
    config.steps = steps or config.steps
    config.log.pictures_every = config.steps
    config.pairs = "" if pairs is None else str(pairs)
    return config


def chain(
    folder: Path, rounds: int, num: int, steps: int | None
) -> Iterator[tuple[str, ConfigDict, Params]]:
    """The flow, that of every round, and the student of the last: name, config and parameters."""
    pairs: Path | None = None
    for i in range(rounds + 1):
        config, place = flow_config(pairs, steps), folder / f"flow_{i}"
        yield (f"round {i}" if i else PLAIN), config, trained(config, place)
        pairs = folder / f"pairs_{i + 1}"
        make_pairs(config, epath.Path(place), epath.Path(pairs), num=num, seed=i)
    student = flow_config(pairs, steps)
    student.times = {"name": "constant", "kwargs": {"time": 0.0}}
    yield "one-step student", student, trained(student, folder / "student")


def ways(
    config: ConfigDict, params: Params, samples: int, seeds: int
) -> tuple[list[float], list[float]]:
    """The straightness of each seed's ways, and by how much one step misses their ends."""
    velocity = build.velocity(config, params)
    straight, missed = [], []
    for seed in range(seeds):
        x0 = jax.random.normal(jax.random.key(seed), (samples, 2))
        cost = sampling.path_cost(velocity, x0)
        step = sampling.fixed_step(velocity, x0, [0.0, 1.0], method=sampling.euler())
        straight.append(float(cost.straightness.mean()))
        missed.append(float(jnp.sqrt(jnp.square(step.x - cost.x).sum(-1).mean())))
    return straight, missed


def rows(folder: Path, rounds: int, num: int, steps: int | None, samples: int, seeds: int) -> Table:
    """The table, a row a flow."""
    shown = Table(title=f"two moons, {num} pairs a round, {samples} samples, {seeds} seeds")
    for column in ("", "straightness", "missed", *map(str, COUNTS)):
        shown.add_column(column)
    judge = judge_of(two_moons.get_config(), samples)
    euler = config_of("two_moons", PLAIN, None, folder)
    for name, config, params in chain(folder, rounds, num, steps):
        is_flow = config.times.name != "constant"
        told = ways(config, params, samples, seeds) if is_flow else ()
        cells = [spread(each) for each in told] or ["", ""]
        for count in COUNTS if is_flow else COUNTS[:1]:
            made = sampled(euler, params, count, samples, seeds)
            cells.append(spread([value for x in made for value in judge(x).values()]))
        shown.add_row(name, *cells)
    return shown


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is not trained, and print the table."""
    parser: Any = argparse.ArgumentParser(
        "python -m benchmarks.reflow",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--num", type=int, default=50_000, help="pairs a round")
    parser.add_argument("--steps", type=int, help="of training; the config's where left out")
    parser.add_argument("--samples", type=int, default=2_000)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args(argv)
    made = rows(given.workdir, given.rounds, given.num, given.steps, given.samples, given.seeds)
    Console(width=130).print(made)


if __name__ == "__main__":
    sys.exit(main())

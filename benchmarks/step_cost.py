"""What a training step of every few-step method costs beside the plain one, around a DiT.

    python -m benchmarks.step_cost [--methods mean_flow,lagrangian] [--rounds=10]
        [--width=192] [--depth=6] [--batch=64]

Images of 8 x 8 digits in 64 patches, whole steps with draw, optimiser and average, as
`experiments.train` compiles them; all methods in alternation in one process, each from the same
parameters and the same data. A teacher is the plain flow's network. `time` is the median of the
ratios to the plain step of the same round, `operations` the compiler's count over the plain one's;
under distribution matching the generator moves in one of five steps, all of which are counted.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from configs import digits
from configs.few_step.methods import METHODS, TAUGHT, few_step
from experiments.setup import build, dataset
from experiments.setup.learns import parts_of
from experiments.setup.optimizers import optimizer
from jaxflow import training
from jaxflow.types import Network

PLAIN = "plain flow"
STEPS = 5  # a call, so that every turn of a generator is among them


def config_of(method: str, width: int, depth: int, batch: int) -> ConfigDict:
    """The config of a row."""
    config = digits.get_config()
    config.batch_size = batch
    config.network = {
        "name": "dit",
        "kwargs": {
            "patch": 1,
            "width": width,
            "depth": depth,
            "heads": max(width // 64, 1),
            "num_classes": 10,
        },
    }
    return config if method == PLAIN else few_step(config, method)


class Steps:
    """The steps of one method, and what they cost."""

    def __init__(self, method: str, config: ConfigDict, teacher: Network, frozen: Any):
        taught = method in TAUGHT
        loss = build.loss(config, teacher if taught else None)
        own = optimizer(config, turn=getattr(loss, "turn", 1))
        trainer = training.trainer(loss, own, draw=build.draw(config))
        self._run = training.program(trainer)
        params = build.parameters(config, jax.random.key(0))
        parts = parts_of(config)
        self._state = self._run.init(params, jax.random.key(1), frozen if taught else None)
        self._batch = dataset.example_batch(config, config.batch_size)
        drawn = jax.eval_shape(
            trainer.draw, jax.random.key(0), self._batch, training.held_by(self._state)
        )
        self.operations = training.flops(trainer.step, self._state, drawn)
        self.parameters = sum(
            a.size for a in jax.tree.leaves(params[parts[0]] if parts else params)
        )
        self()

    def __call__(self) -> float:
        """Seconds of `STEPS` steps, to their end."""
        begin = time.perf_counter()
        for _ in range(STEPS):
            self._state, metrics = self._run.step(self._state, self._batch)
        jax.block_until_ready((self._state, metrics))
        return time.perf_counter() - begin


def main(argv: Sequence[str] | None = None) -> None:
    """Time, and print the ratios."""
    parser: Any = argparse.ArgumentParser(
        "python -m benchmarks.step_cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--batch", type=int, default=64)
    given = parser.parse_args(argv)
    methods = [name for name in given.methods.split(",") if name]
    unknown = [name for name in methods if name not in METHODS]
    if unknown:
        parser.error(f"no method {unknown[0]!r}; known are {', '.join(METHODS)}")
    sizes = given.width, given.depth, given.batch
    plain = config_of(PLAIN, *sizes)
    frozen = build.parameters(plain, jax.random.key(2))
    runs = {
        name: Steps(name, config_of(name, *sizes), build.network(plain), frozen)
        for name in (PLAIN, *methods)
    }
    seconds = [{name: run() for name, run in runs.items()} for _ in range(given.rounds)]
    count = runs[PLAIN].parameters
    shown = Table(
        title=f"{count:,} parameters, batch {given.batch}, {jax.devices()[0].device_kind}"
    )
    for column in ("", "ms a step", "time", "quartiles", "operations"):
        shown.add_column(column, justify="right" if column else "left")
    for name, run in runs.items():
        ratios = [each[name] / each[PLAIN] for each in seconds]
        low, high = np.quantile(ratios, (0.25, 0.75))
        shown.add_row(
            name,
            f"{1000 * statistics.median(each[name] for each in seconds) / STEPS:.1f}",
            f"{statistics.median(ratios):.2f}",
            f"{low:.2f} to {high:.2f}",
            f"{run.operations / runs[PLAIN].operations:.2f}",
        )
    Console(width=110).print(shown)


if __name__ == "__main__":
    main()

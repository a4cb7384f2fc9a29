"""Every method of few steps on one network, one data set and one number of training steps.

    python -m benchmarks.few_step two_moons|digits|fashion_mnist --workdir=runs/few_step
        [--methods mean_flow,semigroup] [--steps=N] [--num=2000] [--seeds=3] [--loss power=1.0]

Each method is trained as `experiments.train` would by `configs.few_step.methods`, in a folder of
its own, whose steps are not trained again; the plain flow beside them is the data set's config, and
the teacher of those that distil one. Fashion-MNIST, by `python -m experiments.prepare
--dataset=fashion_mnist --source=DIR`, has a smaller network than its config, `SMALLER`.
Samples in 1, 2, 4 and 8 steps are those of the map, or of Euler's method on the plain flow, which
also takes 50 steps. Methods with a teacher learn from the plain flow and start as it, progressive
distillation in four rounds. Figures are means over seeds of the noise, with their standard errors:

- of points, the sliced Wasserstein distance from fresh data;
- of images, the Frechet distance from held-out images in the features of a network that tells the
  classes apart, trained on the training images, the sliced Wasserstein distance from them, and the
  mean distance to the nearest training image.

`operations` is the compiler's count of a training step, over the plain one's. WORKDIR/DATA.png
shows samples of every method in one step.
"""

import argparse
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from benchmarks.report import spread
from configs.few_step.methods import METHODS, TAUGHT, few_step
from experiments.output.generate import average, generator
from experiments.output.pictures import draw_panels
from experiments.run import loop, workdir
from experiments.setup import build, dataset
from experiments.setup.learns import is_of_one_step
from experiments.setup.operations import flops
from experiments.setup.states import abstract_state
from jaxflow import metrics
from jaxflow.types import Params

PLAIN, STEPS, MANY = "plain flow", (1, 2, 4, 8), 50
# In the place of a config's own, where twenty trainings of that would take two cores a day.
SMALLER: dict[str, dict[str, Any]] = {
    "fashion_mnist": {
        "network": {
            "name": "dit",
            "kwargs": {"patch": 4, "width": 64, "depth": 3, "heads": 2, "num_classes": 10},
        },
        "batch_size": 64,
        "steps": 1_500,
    }
}
ROUNDS = {"progressive": 4}
Judge = Callable[[np.ndarray], dict[str, float]]


def config_of(
    data: str,
    method: str,
    steps: int | None,
    folder: Path,
    kwargs: Mapping[str, float] = MappingProxyType({}),
) -> ConfigDict:
    """The config of a row; what is taught by the plain flow starts from it too."""
    config = importlib.import_module(f"configs.{data}").get_config()
    for name, value in SMALLER.get(data, {}).items():
        config[name] = value
    config.steps = steps or config.steps
    config.log.pictures_every = config.steps
    if method != PLAIN:
        config = few_step(config, method)
        config.loss.kwargs = {**config.loss.kwargs.to_dict(), **kwargs}
        config.teacher = config.start = str(place(folder, PLAIN)) if method in TAUGHT else ""
        return config
    config.sampler.name = "fixed_step"
    grid = {"name": "uniform", "kwargs": {"n": 1}}
    method_ = {"name": "euler", "kwargs": {}}
    config.sampler.kwargs = {"grid": grid, "method": method_, "precision": "network"}
    return config


def place(folder: Path, method: str) -> Path:
    """The folder of a row's run."""
    return folder / method.replace(" ", "_")


def trained(config: ConfigDict, folder: Path) -> Params:
    """The average of the parameters, once the folder's run is at its end."""
    run = epath.Path(folder)
    workdir.create(run, config)
    loop.train(config, run)
    return average(run).params


def taught_in_rounds(config: ConfigDict, folder: Path, rounds: int) -> Params:
    """Each round the student of the last, whose steps are twice as long as its teacher's."""
    for i in range(rounds):
        config = config.copy_and_resolve_references()
        params = trained(config, last := folder.with_name(f"{folder.name}_{i + 1}"))
        config.teacher = config.start = str(last)
    return params


def sampled(
    config: ConfigDict, params: Params, steps: int, num: int, seeds: int
) -> Iterator[np.ndarray]:
    """Samples in so many steps for each seed, with the levels that the data has."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.sampler.kwargs.grid.kwargs.n = steps
    run = generator(config, num)
    for seed in range(seeds):
        x = run.rows(params, seed, 0, num).x
        yield x if dataset.is_distribution(config) else dataset.snapped(config, x)


def judge_of(config: ConfigDict, num: int) -> Judge:
    """What is said of samples."""
    if dataset.is_distribution(config):
        truth = dataset.fresh(config, num, config.seed + 1)
        return lambda x: {
            "sliced Wasserstein": float(metrics.sliced_wasserstein(jax.random.key(0), x, truth))
        }
    train = dataset.examples(config, config.data.source.kwargs.split)
    held = dataset.examples(config, config.evaluation.split)["x1"]
    features = metrics.fit_features(train["x1"], train["label"])
    known, others = features(held), jnp.asarray(train["x1"])
    return lambda x: {
        "Frechet": float(metrics.frechet(features(x), known)),
        "sliced Wasserstein": float(metrics.sliced_wasserstein(jax.random.key(0), x, held)),
        "nearest": float(jnp.mean(metrics.nearest(jnp.asarray(x[:1000]), others).distance)),
    }


def operations(config: ConfigDict) -> float:
    """Of a training step."""
    state = abstract_state(config, build.trainer(config), dataset.example_batch(config))
    return float(flops(config, state) or np.nan)


class Row(NamedTuple):
    """What is known of a method: its figures by name and number of steps, and samples in one."""

    method: str
    operations: float
    told: dict[str, list[str]]
    samples: np.ndarray


def rows(
    data: str,
    folder: Path,
    methods: Sequence[str],
    steps: int | None,
    kwargs: Mapping[str, float],
    num: int,
    seeds: int,
) -> Iterator[Row]:
    """The rows, each once it is known."""
    judge: Judge | None = None
    for method in (PLAIN, *methods):
        config = config_of(data, method, steps, folder / data, kwargs)
        run = place(folder / data, method)
        rounds = ROUNDS.get(method, 0)
        params = taught_in_rounds(config, run, rounds) if rounds else trained(config, run)
        judge = judge or judge_of(config, num)
        counts = STEPS[:1] if is_of_one_step(config) else STEPS
        told: dict[str, list[str]] = {}
        first = np.empty(0)
        for count in (*counts, MANY) if method == PLAIN else counts:
            made = list(sampled(config, params, count, num, seeds))
            first = made[0] if count == 1 else first
            found = [judge(x) for x in made]
            for name in found[0]:
                told.setdefault(name, []).append(spread([each[name] for each in found]))
        yield Row(method, operations(config), told, first)


def table(title: str, found: Sequence[Row]) -> Table:
    """The rows as text, operations over those of the first."""
    shown = Table(title=title)
    for column in ("", "operations", "", *map(str, STEPS), str(MANY)):
        shown.add_column(column)
    for row in found:
        cost = f"{row.operations / found[0].operations:.2f}"
        for i, (name, cells) in enumerate(row.told.items()):
            shown.add_row("" if i else row.method, "" if i else cost, name, *cells)
    return shown


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is not trained, and print the table."""
    parser: Any = argparse.ArgumentParser(
        "python -m benchmarks.few_step",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("data", choices=("two_moons", "digits", "fashion_mnist"))
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--steps", type=int, help="of training; the config's where left out")
    parser.add_argument("--loss", default="", help="arguments of every loss, as power=1.0,...")
    parser.add_argument("--num", type=int, default=2_000)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args(argv)
    methods = [name for name in options.methods.split(",") if name]
    unknown = [name for name in methods if name not in METHODS]
    if unknown:
        parser.error(f"no method {unknown[0]!r}; known are {', '.join(METHODS)}")
    found: list[Row] = []
    title = f"{options.data}, {options.num} samples, {options.seeds} seeds"
    given = (pair.split("=") for pair in options.loss.split(",") if pair)
    kwargs = {name: float(value) for name, value in given}
    effort = options.steps, kwargs, options.num, options.seeds
    for row in rows(options.data, options.workdir, methods, *effort):
        found.append(row)
        Console(width=150).print(table(title, found))
    shown = {row.method: row.samples[: 2_000 if row.samples.ndim == 2 else 40] for row in found}
    draw_panels(epath.Path(options.workdir) / f"{options.data}.png", shown)


if __name__ == "__main__":
    sys.exit(main())

"""Quality against calls of the network, over solvers, grids and scales of guidance."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from experiments.output.generate import generator
from experiments.setup import dataset
from experiments.setup.components import component
from jaxflow import metrics
from jaxflow.types import Params, Path

__all__ = ["Point", "Setting", "cheapest", "measure", "quality_of", "settings"]

Quality = Callable[[np.ndarray], float]


class Setting(NamedTuple):
    """A sampler on a fixed grid, of `n` steps, and a scale of guidance."""

    method: str
    grid: str
    n: int
    guidance: float

    def of(self, config: ConfigDict) -> ConfigDict:
        """The config with this sampler."""
        changed = config.copy_and_resolve_references()
        with changed.unlocked():
            changed.sampler.name = "fixed_step"
            changed.sampler.kwargs = {
                "method": {"name": self.method, "kwargs": {}},
                "grid": {"name": self.grid, "kwargs": {"n": self.n}},
            }
            changed.sampler.guidance = self.guidance
        return changed

    @property
    def overrides(self) -> str:
        """What a command takes to sample so."""
        kwargs = (
            f"{{'method': {{'name': '{self.method}', 'kwargs': {{}}}}, "
            f"'grid': {{'name': '{self.grid}', 'kwargs': {{'n': {self.n}}}}}}}"
        )
        return (
            f"--config.sampler.name=fixed_step --config.sampler.guidance={self.guidance:g} "
            f'--config.sampler.kwargs="{kwargs}"'
        )


class Point(NamedTuple):
    """What a setting costs, in calls of the network a sample, and the quality of its samples.

    The mean over seeds of a distance to real data, and its standard error.
    """

    setting: Setting
    calls: float
    quality: float
    standard_error: float


def settings(
    path: Path,
    methods: Sequence[str],
    grids: Sequence[str],
    calls: Sequence[int],
    guidance: Sequence[float],
) -> Iterator[Setting]:
    """Every combination whose calls of the velocity are those that are asked for.

    Raises:
        ValueError: for an unknown method or grid.
    """
    for method, grid, scale in itertools.product(methods, grids, guidance):
        spec = {"name": method, "kwargs": {}}
        of_method = component("sampler.method", spec, table="method", path=path)
        component("sampler.grid", {"name": grid, "kwargs": {"n": 4}}, table="grid", path=path)
        for wanted in calls:
            if wanted % of_method.calls == 0:
                yield Setting(method, grid, wanted // of_method.calls, scale)


def quality_of(config: ConfigDict, num: int) -> tuple[str, Quality]:
    """The name of a distance of samples to real data, and the distance.

    Of data with labels the Fréchet distance to the held-out split in the features of a classifier
    of the training split, of other data that in pixels, of a distribution the sliced Wasserstein
    distance to fresh data.
    """
    if dataset.is_distribution(config):
        import jax

        truth = dataset.fresh(config, num, config.seed + 1)

        def sliced(x: np.ndarray) -> float:
            return float(metrics.sliced_wasserstein(jax.random.key(0), x, truth))

        return "sliced Wasserstein", sliced
    held = dataset.examples(config, config.evaluation.split)
    train = dataset.examples(config, config.data.source.kwargs.split)
    if "label" not in train:
        return "Frechet in pixels", lambda x: metrics.frechet(
            dataset.snapped(config, x), held["x1"]
        )
    features = metrics.fit_features(train["x1"], train["label"], seed=config.seed)
    real = features(held["x1"])
    return "Frechet in features", lambda x: metrics.frechet(
        features(dataset.snapped(config, x)), real
    )


def measure(
    config: ConfigDict,
    params: Params,
    setting: Setting,
    quality: Quality,
    *,
    num: int,
    seeds: Sequence[int],
) -> Point:
    """Samples of a setting, `num` for each seed, and what they are worth; infinite where one is
    not finite.
    """
    run = generator(setting.of(config), num)
    found: list[Any] = [run(params, seed, num) for seed in seeds]
    values = [
        quality(samples.x) if np.all(np.isfinite(samples.x)) else math.inf for samples in found
    ]
    calls = float(np.mean(found[0].nfe) * found[0].evaluations)
    spread = np.std(values, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Point(setting, calls, float(np.mean(values)), float(spread))


def cheapest(points: Sequence[Point], within: float) -> Point:
    """The fewest calls whose distance is at most `1 + within` times the least.

    Raises:
        ValueError: where every setting gave samples that are not finite.
    """
    least = min(point.quality for point in points)
    if not math.isfinite(least):
        raise ValueError("every setting gave samples that are not finite: look at the run's health")
    good = [point for point in points if point.quality <= (1 + within) * least]
    return min(good, key=lambda point: (point.calls, point.quality))

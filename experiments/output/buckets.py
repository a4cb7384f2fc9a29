r"""What a trained flow does at which time: its loss, its norm, and what its way costs.

(1) mean and standard error of the loss of the examples whose time lies in a bin

(2) $r(t) = \sqrt{E \| x(t) \|^2 / d}$, of samples on their way and of $x_t$ on the path of training

A flow that is learned without error has the marginals of its path (Lipman et al., 2023,
arXiv:2210.02747, theorem 1), so both of (2) are then the same at every time.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments.output.generate import generator
from experiments.setup import build, dataset
from jaxflow import data, paths, sampling, velocities
from jaxflow.draws.chain import on_host
from jaxflow.types import Batch, Loss, Params

__all__ = [
    "Bin",
    "Estimate",
    "Losses",
    "Norms",
    "Saturation",
    "drawn_of",
    "estimate",
    "in_bins",
    "losses_by_time",
    "norms_by_time",
    "saturation",
    "straightness",
    "undropped",
]

BINS = 10
STEPS = 20
SAMPLES = 256


class Estimate(NamedTuple):
    """A mean and its standard error."""

    mean: float
    standard_error: float


class Bin(NamedTuple):
    """The examples with `low <= t < high`, the last bin with its end."""

    low: float
    high: float
    count: int
    mean: float
    standard_error: float


class Losses(NamedTuple):
    """By bins of time: the loss of the network, that of a Gaussian model on the very same draws,
    and the difference; the latter two None where the source is no standard normal.
    """

    network: list[Bin]
    gaussian: list[Bin] | None
    excess: list[Bin] | None


class Norms(NamedTuple):
    """(2) at times `t`, of samples and of the path."""

    t: list[float]
    samples: list[Estimate]
    path: list[Estimate]


class Saturation(NamedTuple):
    """The share of pixels at the lowest or highest level."""

    samples: Estimate
    held: Estimate


def estimate(values: Any) -> Estimate:
    """The mean of independent values; no error is known of fewer than two."""
    values = np.asarray(values, np.float64)
    if len(values) < 2:
        return Estimate(float(values.mean()) if len(values) else math.nan, math.nan)
    return Estimate(float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values))))


def in_bins(t: Any, values: Any, bins: int = BINS) -> list[Bin]:
    """(1), over equal bins of [0, 1]."""
    t, values = np.asarray(t), np.asarray(values, np.float64)
    place = np.minimum((t * bins).astype(int), bins - 1)
    groups = [values[place == i] for i in range(bins)]
    return [
        Bin(i / bins, (i + 1) / bins, len(group), *estimate(group))
        for i, group in enumerate(groups)
    ]


def losses_by_time(config: ConfigDict, params: Params, num: int) -> Losses:
    """(1) of `num` draws of held-out data, or of pairs, at uniform times, of the velocity alone.

    Beside it that of the best velocity for independent Gaussian numbers of the data's means and
    variances: a network that is worse at a time has not learned even these there.
    """
    rows = _to_draw(config, num)
    evenly = config.copy_and_resolve_references()
    with evenly.unlocked():
        evenly.times = {"name": "uniform", "kwargs": {}}
    losses = [build.flow_loss(config), _of_gaussian(config, rows["x1"])]
    wanted = [_per_example(loss) for loss in losses if loss is not None]
    t, found = [], []
    for drawn in drawn_of(evenly, rows, num):
        t.append(np.asarray(drawn["t"]))
        found.append([np.asarray(of(params, drawn), np.float64) for of in wanted])
    times = np.concatenate(t)[:num]
    values = [np.concatenate(parts)[:num] for parts in zip(*found, strict=True)]
    network, *others = [in_bins(times, value) for value in values]
    if not others:
        return Losses(network, None, None)
    return Losses(network, others[0], in_bins(times, values[0] - values[1]))


def _per_example(loss: Loss) -> Callable[[Params, Batch], Any]:
    return jax.jit(lambda params, batch: loss(params, None, batch)[1]["per_example"])


def _of_gaussian(config: ConfigDict, x1: np.ndarray) -> Loss | None:
    """The same loss of a Gaussian model in the place of the network."""
    if config.source.name != "normal" or config.source.kwargs:
        return None
    path = build.path(config)
    prediction = config.loss.kwargs.to_dict().get("prediction", "velocity")
    moments = {"means": x1.mean(0)[None], "covariances": x1.var(0)[None]}
    exact = velocities.gaussian_mixture(path, weights=[1.0], **moments)

    def network(params: Params, t: Any, x: Any, *, key: Any = None, **cond: Any) -> Any:
        kinds = {"source": "velocity", "target": prediction}
        return velocities.convert(exact(t, x), t, x, path=path, **kinds)

    return build.flow_loss(config, network)


def norms_by_time(config: ConfigDict, params: Params, num: int) -> Norms:
    """(2) of samples of the run's velocity, 20 uniform steps of Heun's, and of the path between
    the same noise and the data whose conditions they have.
    """
    velocity, path = build.velocity(config, params), build.path(config)
    grid = sampling.grids.uniform(STEPS, *velocity.interval)

    @jax.jit
    def on_path(t: Any, drawn: Batch) -> Any:
        x1 = drawn["x1"]
        return _square(path(jnp.full(len(x1), t), drawn["x0"], x1, drawn.get("z")).x)

    walked, meant = [], []
    for drawn in drawn_of(undropped(config), _to_draw(config, num), num):
        x0 = paths.start(path, drawn["x0"])
        solved = sampling.fixed_step(velocity, x0, grid, cond=drawn["cond"], save=True)
        walked.append(np.asarray(jax.vmap(_square)(solved.xs)))
        meant.append(np.stack([np.asarray(on_path(t, drawn)) for t in grid]))
    of = [_roots(np.concatenate(parts, axis=1)[:, :num]) for parts in (walked, meant)]
    return Norms([float(t) for t in grid], *of)


def _roots(squares: np.ndarray) -> list[Estimate]:
    """Roots of means over samples, an error by its derivative."""
    means = [estimate(row) for row in squares]
    roots = [math.sqrt(m.mean) for m in means]
    return [
        Estimate(r, m.standard_error / (2 * r) if r else 0.0)
        for r, m in zip(roots, means, strict=True)
    ]


def straightness(config: ConfigDict, params: Params, num: int) -> dict[str, list[Estimate]]:
    """What the ways of samples cost, and what they would cost straight: `name: [its, straight]`."""
    velocity = build.velocity(config, params)
    low, high = velocity.interval
    costs = [
        sampling.path_cost(velocity, paths.start(velocity.path, drawn["x0"]), cond=drawn["cond"])
        for drawn in drawn_of(undropped(config), _to_draw(config, num), num)
    ]
    names = ("energy", "straightness", "detour", "distance")
    own = {n: np.concatenate([np.asarray(getattr(c, n)) for c in costs])[:num] for n in names}
    nothing = np.zeros(num)
    straight = {
        "energy": own["distance"] ** 2 / (high - low),
        "straightness": nothing,
        "detour": nothing + 1,
    }
    return {name: [estimate(own[name]), estimate(value)] for name, value in straight.items()}


def saturation(config: ConfigDict, params: Params, num: int) -> Saturation | None:
    """Of samples as the run draws them and of held-out data; None where the data has no levels."""
    cells = None if dataset.is_distribution(config) else dataset.cells(config)
    if cells is None:
        return None

    def share(x: np.ndarray) -> Estimate:
        level = cells.pixels(x).reshape(len(x), -1)
        return estimate(((level == 0) | (level == cells.levels - 1)).mean(1))

    samples = generator(config, num)(params, config.seed, num)
    return Saturation(share(samples.x), share(_held(config, num)["x1"]))


def undropped(config: ConfigDict) -> ConfigDict:
    """Its draw leaves conditions as a sampler has them: none dropped, no coins among them."""
    changed = config.copy_and_resolve_references()
    with changed.unlocked():
        changed.drop.rate = changed.self_condition.rate = 0.0
    return changed


def _held(config: ConfigDict, num: int) -> dict[str, np.ndarray]:
    """At most `num` rows that training never saw, in a random order."""
    if dataset.is_distribution(config):
        return {"x1": dataset.fresh(config, num, config.seed + 4)}
    return _some(dataset.examples(config, config.evaluation.split), num, config.seed)


def _to_draw(config: ConfigDict, num: int) -> dict[str, np.ndarray]:
    """Rows for the draw: held out, but of a run on pairs some of those, for there are no others."""
    if config.pairs:
        return _some(data.pairs(config.pairs).columns, num, config.seed)
    return _held(config, num)


def _some(rows: Mapping[str, np.ndarray], num: int, seed: int) -> dict[str, np.ndarray]:
    order = np.random.default_rng(seed).permutation(len(rows["x1"]))[:num]
    return {name: value[order] for name, value in rows.items()}


def drawn_of(config: ConfigDict, rows: dict[str, np.ndarray], num: int) -> Iterator[Batch]:
    """Batches that the draw has completed, `num` examples and some more to fill the last; rows
    are taken again, with other noise, where they are fewer.
    """
    draw, key = build.flow_draw(config), jax.random.key(config.seed)
    run = draw if on_host(draw) else jax.jit(lambda key, batch: draw(key, batch))
    size = min(num, config.batch_size, config.sampler.batch_size)
    for i, first in enumerate(range(0, num, size)):
        index = np.arange(first, first + size) % len(rows["x1"])
        cond = {name: jnp.asarray(rows[name][index]) for name in config.data.cond}
        given = {k: jnp.asarray(rows[k][index]) for k in ("x0", "x1") if k in rows}
        yield run(jax.random.fold_in(key, i), {**given, "cond": cond})


def _square(x: Any) -> Any:
    """The mean square of each sample."""
    return jnp.square(x.astype(jnp.float32)).reshape(len(x), -1).mean(1)

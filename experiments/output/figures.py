"""Figures of a trained run: samples beside held-out data and two baselines, and likelihoods.

What a model must be measured against: a Gaussian fitted to each class, and copies of the training
set. Generated pixels are rounded to the levels that the data has, as an image file would.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments.output.generate import Samples
from experiments.setup import build, dataset
from experiments.setup.components import component
from experiments.setup.learns import learns_velocity
from jaxflow import metrics, sampling
from jaxflow.types import Params

__all__ = ["LIKELIHOODS_IN", "Row", "compare", "likelihood"]

AT_MOST = 5_000
LIKELIHOODS_IN = "float32"

Row = dict[str, float]


def compare(config: ConfigDict, samples: Samples) -> dict[str, Row]:
    """A row of figures for the samples, and one for each thing to hold beside them."""
    return (_with_distribution if dataset.is_distribution(config) else _with_held_out)(
        config, samples
    )


def _with_distribution(config: ConfigDict, samples: Samples) -> dict[str, Row]:
    """Samples and fresh data, each against fresh data."""
    n = len(samples.x)
    truth, others = (dataset.fresh(config, n, config.seed + 1 + i) for i in range(2))
    return {"samples": _distances(samples.x, truth), "fresh data": _distances(others, truth)}


def _with_held_out(config: ConfigDict, samples: Samples) -> dict[str, Row]:
    """Samples and baselines, each against the held-out split."""
    splits = config.data.source.kwargs.split, config.evaluation.split
    train, held = (_in_pixels(config, dataset.examples(config, split)) for split in splits)
    rng = np.random.default_rng(config.seed)
    n = len(samples.x)
    contenders = {"samples": (dataset.snapped(config, samples.x), samples.cond.get("label"))}
    if "label" in train:
        wanted = np.arange(n) % (int(train["label"].max()) + 1)
        gaussians = dataset.snapped(config, _class_gaussians(train, wanted, rng))
        contenders["Gaussian of each class"] = (gaussians, wanted)
    copies = rng.permutation(len(train["x1"]))[:n]
    contenders["copies of training data"] = (
        train["x1"][copies],
        train["label"][copies] if "label" in train else None,
    )
    contenders["held-out data"] = (held["x1"], held.get("label"))
    recognise = _recogniser(train)
    return {
        name: _against_held_out(x, label, train, held, recognise)
        for name, (x, label) in contenders.items()
    }


def _in_pixels(config: ConfigDict, found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {**found, "x1": dataset.as_pixels(config, found["x1"])}


def _against_held_out(
    x: np.ndarray,
    label: np.ndarray | None,
    train: Mapping[str, np.ndarray],
    held: Mapping[str, np.ndarray],
    recognise: Callable[[np.ndarray, np.ndarray], float] | None,
) -> Row:
    row: Row = {}
    if recognise is not None and label is not None:
        row["recognised"] = recognise(x, label)
    row["Frechet in pixels"] = 0.0
    if x is not held["x1"]:
        row["Frechet in pixels"] = metrics.frechet(x, held["x1"])
        test = metrics.classifier_two_sample(jax.random.key(0), x[:AT_MOST], held["x1"][:AT_MOST])
        row["two-sample accuracy"] = test.accuracy
    near = metrics.nearest(jnp.asarray(x[:AT_MOST]), jnp.asarray(train["x1"]))
    row["nearest training example"] = float(jnp.mean(near.distance))
    return row


def _distances(x: np.ndarray, truth: np.ndarray) -> Row:
    test = metrics.classifier_two_sample(jax.random.key(0), x[:AT_MOST], truth[:AT_MOST])
    return {
        "sliced Wasserstein": float(metrics.sliced_wasserstein(jax.random.key(0), x, truth)),
        "MMD squared": float(metrics.mmd_squared(jnp.asarray(x), jnp.asarray(truth))),
        "energy distance": float(metrics.energy_distance(jnp.asarray(x), jnp.asarray(truth))),
        "two-sample accuracy": test.accuracy,
    }


def _recogniser(
    train: Mapping[str, np.ndarray],
) -> Callable[[np.ndarray, np.ndarray], float] | None:
    if "label" not in train:
        return None
    predict = metrics.fit_classifier(train["x1"][:AT_MOST], train["label"][:AT_MOST])
    return lambda x, label: metrics.class_accuracy(predict, x, label).value


def _class_gaussians(
    train: Mapping[str, np.ndarray], wanted: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Samples of a Gaussian fitted to the training data of each class, clipped to [-1, 1]."""
    flat = train["x1"].reshape(len(train["x1"]), -1).astype(np.float64)
    x = np.empty((len(wanted), flat.shape[1]), np.float32)
    for label in np.unique(wanted):
        rows, places = flat[train["label"] == label], np.flatnonzero(wanted == label)
        centred = rows - rows.mean(0)
        noise = rng.standard_normal((len(places), len(rows))) / np.sqrt(len(rows) - 1)
        x[places] = rows.mean(0) + noise @ centred
    return np.clip(x, -1, 1).reshape(len(wanted), *train["x1"].shape[1:])


def likelihood(config: ConfigDict, params: Params) -> Row:
    """Log-likelihood of held-out data under the unguided flow, where the config asks for any.

    Pixels of whole levels are spread evenly over their cells, several times where the config says
    so, and the bits per dimension are an upper bound on those of the levels themselves. A loss that
    teaches no velocity gives none.
    """
    n = config.evaluation.likelihoods
    if n == 0 or not learns_velocity(config):
        return {}
    cells = None if dataset.is_distribution(config) else dataset.cells(config)
    if dataset.is_distribution(config):
        held = {"x1": dataset.fresh(config, n, config.seed + 3)}
    else:
        held = dataset.examples(config, config.evaluation.split)
        held = {name: value[:n] for name, value in held.items()}
    x1, copies = held["x1"], [held["x1"]]
    if cells is not None:
        random = np.random.default_rng(config.seed)
        draws = config.evaluation.dequantisations
        copies = [cells.spread(cells.pixels(x1), random) for _ in range(draws)]
    cond = {name: held[name] for name in config.data.cond}
    each = [_log_prob(config, params, x, cond) for x in copies]
    value = np.asarray(metrics.importance_weighted(np.stack(each)))
    found = {
        "log_prob": float(value.mean()),
        "log_prob_standard_error": float(value.std() / np.sqrt(len(value))),
    }
    if cells is not None:
        bits = metrics.bits_per_dim(value, x1.shape[1:], level_width=cells.width)
        found["bits_per_dim"] = float(np.mean(bits))
    return found


def _log_prob(
    config: ConfigDict, params: Params, x1: np.ndarray, cond: Mapping[str, np.ndarray]
) -> np.ndarray:
    source = component("source", config.source)
    velocity = build.learned(config, params)
    solved = sampling.log_prob(
        velocity, x1, source=source, cond=cond, rtol=1e-4, atol=1e-4, precision=LIKELIHOODS_IN
    )
    return np.asarray(solved.value)

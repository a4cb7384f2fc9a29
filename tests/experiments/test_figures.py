"""Figures of whole levels: held-out data keeps its levels, and a known density its bits."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments.output import figures
from experiments.output.generate import Samples
from experiments.setup import build
from jaxflow import data, metrics, sampling

LEVELS = 17
N = 40


class Known(NamedTuple):
    value: jax.Array


@pytest.fixture(params=["scale", "dequantise"])
def pixels(request: pytest.FixtureRequest, config: ConfigDict) -> ConfigDict:
    """A run whose pixels are brought to the network by a transform."""
    config.data.transforms = ({"name": request.param, "kwargs": {"levels": LEVELS}},)
    config.evaluation.likelihoods = N
    return config


def lowest(config: ConfigDict) -> tuple[float, float]:
    """Where the cell of level 0 begins, and how wide each is."""
    if config.data.transforms[0]["name"] == "scale":
        return -1 - 1 / (LEVELS - 1), 2 / (LEVELS - 1)
    return -1, 2 / LEVELS


def levels_of(config: ConfigDict, x: jax.Array) -> jax.Array:
    low, width = lowest(config)
    return jnp.floor((x - low) / width).astype(jnp.int32)


@pytest.fixture
def held() -> np.ndarray:
    return data.load(data.digits("test"))["image"][:N].astype(np.int32)


def likelihood(config: ConfigDict, monkeypatch: pytest.MonkeyPatch, log_prob) -> figures.Row:
    """That of a density `log_prob(x) [batch]` in the place of the network's."""
    monkeypatch.setattr(sampling, "log_prob", lambda v, x, **given: Known(log_prob(x)))
    return figures.likelihood(config, build.parameters(config, jax.random.key(0)))


def test_no_pixel_changes_its_level_by_the_noise(
    pixels: ConfigDict, monkeypatch: pytest.MonkeyPatch, held: np.ndarray
) -> None:
    def changed(x):
        return (levels_of(pixels, x) != held).mean((1, 2, 3))

    def spread(x):
        return jnp.full(N, jnp.std(x[held == 0]) / lowest(pixels)[1])

    assert likelihood(pixels, monkeypatch, changed)["log_prob"] == 0
    assert likelihood(pixels, monkeypatch, spread)["log_prob"] == pytest.approx(12**-0.5, rel=0.05)


def test_the_bits_of_a_density_that_is_known(
    pixels: ConfigDict, monkeypatch: pytest.MonkeyPatch, held: np.ndarray
) -> None:
    """Even over each cell, with the data's own share in it: it has the data's entropy in bits."""
    share = np.bincount(held.ravel(), minlength=LEVELS) / held.size
    entropy = -np.sum(share[share > 0] * np.log2(share[share > 0]))

    def log_prob(x):
        log_density = jnp.log(share / lowest(pixels)[1])
        return jnp.sum(log_density[levels_of(pixels, x)], (1, 2, 3))

    found = likelihood(pixels, monkeypatch, log_prob)
    assert found["bits_per_dim"] == pytest.approx(entropy, rel=1e-5)


def test_samples_and_held_out_data_lie_on_one_grid(
    pixels: ConfigDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(metrics, "frechet", lambda a, b: seen.extend([a, b]) or 0.0)
    x = np.random.default_rng(0).uniform(-1, 1, (N, 8, 8, 1)).astype(np.float32)
    figures.compare(
        pixels, Samples(x, {"label": np.arange(N) % 10}, np.ones(N), np.ones(N, bool), 1)
    )
    low, width = lowest(pixels)
    grid = low + width * (np.arange(LEVELS) + 0.5)
    assert len(seen) == 6
    for rows in seen:
        assert np.abs(np.asarray(rows)[..., None] - grid).min(-1).max() < 1e-6
    rounded, held = (np.unique(rows) for rows in seen[:2])
    assert set(held) <= set(rounded)

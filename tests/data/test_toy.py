"""The distributions of the plane against their closed forms."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow.data import toy

N = 8192
ALL = {
    "moons": toy.moons,
    "eight_gaussians": toy.eight_gaussians,
    "checkerboard": toy.checkerboard,
    "spirals": toy.spirals,
    "pinwheel": toy.pinwheel,
    "swiss_roll": toy.swiss_roll,
    "circles": toy.circles,
}
SAMPLE = jax.jit(lambda distribution, keys: distribution.sample(keys))


def draw(distribution) -> np.ndarray:
    return np.asarray(SAMPLE(distribution, jax.random.split(jax.random.key(0), N)))


def z_mean(values: np.ndarray, expected: float) -> float:
    return (values.mean() - expected) / (values.std() / math.sqrt(len(values)))


def chi_square_z(counts: np.ndarray, probabilities: np.ndarray) -> float:
    expected = counts.sum() * probabilities
    freedom = len(counts) - 1
    return (((counts - expected) ** 2 / expected).sum() - freedom) / math.sqrt(2 * freedom)


def uniform_z(values: np.ndarray, bins: int = 16) -> float:
    counts, _ = np.histogram(values, bins=bins, range=(0, 1))
    assert counts.sum() == len(values)
    return chi_square_z(counts, np.full(bins, 1 / bins))


def test_the_table_is_complete():
    factories = {name for name in toy.__all__ if name[0].islower()}
    assert factories == set(ALL)


@pytest.mark.parametrize("name", ALL)
def test_centred_and_about_unit_scale(name):
    x = draw(ALL[name]())
    assert x.shape == (N, 2)
    assert x.dtype == np.float32
    assert np.isfinite(x).all()
    assert abs(z_mean(x[:, 0], 0)) < 4
    assert abs(z_mean(x[:, 1], 0)) < 4
    assert 0.9 < math.sqrt((x**2).mean()) < 1.15


@pytest.mark.parametrize("name", ALL)
def test_a_sample_depends_on_its_key_alone(name):
    keys = jax.random.split(jax.random.key(1), 6)
    whole = ALL[name]().sample(keys)
    parts = jnp.concatenate([ALL[name]().sample(keys[:2]), ALL[name]().sample(keys[2:])])
    np.testing.assert_array_equal(whole, parts)


def test_moons_lie_on_two_half_circles():
    x = draw(toy.moons(noise=0, scale=1, center=(0, 0)))
    upper = np.abs(np.hypot(x[:, 0], x[:, 1]) - 1) + np.maximum(-x[:, 1], 0)
    mirrored = np.array([1, 0.5]) - x
    lower = np.abs(np.hypot(mirrored[:, 0], mirrored[:, 1]) - 1) + np.maximum(-mirrored[:, 1], 0)
    assert np.minimum(upper, lower).max() < 1e-5
    is_upper = upper < lower
    assert abs(z_mean(is_upper.astype(float), 0.5)) < 4
    assert abs(uniform_z(np.arccos(np.clip(x[is_upper, 0], -1, 1)) / math.pi)) < 4
    assert abs(z_mean((x[:, 0] - 0.5) ** 2, 0.75)) < 4
    gap = 4 / math.pi - 0.5
    assert abs(z_mean((x[:, 1] - 0.25) ** 2, 0.5 - 4 / math.pi**2 + gap**2 / 4)) < 4


def test_moons_at_the_scale_of_the_tutorial():
    noise = 0.2 / math.sqrt(12)
    x = draw(toy.moons(noise, scale=3, center=(1 / 3 - 0.1, 1 / 3 - 0.1)))
    assert abs(z_mean(x[:, 0], 3 * (0.5 + 0.1) - 1)) < 4
    assert abs(z_mean(x[:, 1], 3 * (0.25 + 0.1) - 1)) < 4
    assert abs(z_mean((x[:, 0] - 0.8) ** 2, 9 * (0.75 + noise**2))) < 4


def test_eight_gaussians_are_the_mixture_they_say():
    mixture = toy.eight_gaussians(5, 0.1**0.25)
    x = draw(mixture)
    np.testing.assert_allclose(np.linalg.norm(mixture.means, axis=1), 5, rtol=1e-6)
    which = np.linalg.norm(x[:, None] - np.asarray(mixture.means), axis=-1).argmin(1)
    assert abs(chi_square_z(np.bincount(which, minlength=8), np.asarray(mixture.weights))) < 4
    assert abs(z_mean((x**2).sum(1), 25 + float(jnp.trace(mixture.covariances[0])))) < 4
    np.testing.assert_allclose(mixture.covariances[3], math.sqrt(0.1) * np.eye(2), rtol=1e-6)


def test_checkerboard_is_uniform_on_its_squares():
    x = draw(toy.checkerboard(half_width=2))
    square = np.floor(x + 2).astype(int)
    assert square.min() >= 0
    assert square.max() <= 3
    assert (square.sum(1) % 2 == 0).all()
    counts = np.unique(square @ [4, 1], return_counts=True)[1]
    assert len(counts) == 8
    assert abs(chi_square_z(counts, np.full(8, 1 / 8))) < 4
    assert abs(uniform_z((x[:, 0] + 2) / 4)) < 4
    assert abs(uniform_z((x[:, 1] + 2) / 4)) < 4


def test_spirals_wind_as_they_say():
    x = draw(toy.spirals(turns=1.5, radius=2, noise=0))
    r = np.linalg.norm(x, axis=1)
    assert abs(uniform_z(r**2 / 4)) < 4
    angle = 2 * math.pi * 1.5 * r / 2
    along = (x * np.stack([np.cos(angle), np.sin(angle)], 1)).sum(1)
    np.testing.assert_allclose(np.abs(along), r, atol=1e-4)
    assert abs(z_mean((along > 0).astype(float), 0.5)) < 4


def test_pinwheel_unwinds_to_gaussians():
    x = draw(toy.pinwheel(arms=5, radial=0.1, tangential=0.05, rate=0, scale=1))
    sector = 2 * math.pi / 5
    which = np.rint(np.arctan2(x[:, 1], x[:, 0]) / sector).astype(int) % 5
    assert abs(chi_square_z(np.bincount(which), np.full(5, 1 / 5))) < 4
    back = -sector * which
    r = x[:, 0] * np.cos(back) - x[:, 1] * np.sin(back)
    s = x[:, 0] * np.sin(back) + x[:, 1] * np.cos(back)
    assert abs(z_mean(r, 1)) < 4
    assert abs(z_mean((r - 1) ** 2, 0.01)) < 4
    assert abs(z_mean(s, 0)) < 4
    assert abs(z_mean(s**2, 0.0025)) < 4
    bent = draw(toy.pinwheel(scale=1))
    assert abs(z_mean((bent**2).sum(1), 1 + 0.3**2 + 0.1**2)) < 4


def test_swiss_roll_is_one_arm():
    x = draw(toy.swiss_roll(noise=0, scale=1)) + np.array([2, 2 / (3 * math.pi)])
    r = np.linalg.norm(x, axis=1)
    assert abs(uniform_z((r - 1.5 * math.pi) / (3 * math.pi))) < 4
    np.testing.assert_allclose(x, r[:, None] * np.stack([np.cos(r), np.sin(r)], 1), atol=1e-3)


def test_circles_are_two_rings():
    x = draw(toy.circles(radius=2, factor=0.25, noise=0))
    r = np.linalg.norm(x, axis=1)
    outer = r > 1
    np.testing.assert_allclose(r, np.where(outer, 2, 0.5), rtol=1e-5)
    assert abs(z_mean(outer.astype(float), 0.5)) < 4
    assert abs(uniform_z(np.arctan2(x[:, 1], x[:, 0]) / (2 * math.pi) % 1)) < 4


def test_repr_and_hash():
    assert repr(toy.circles()) == "circles(radius=1.8, factor=0.5, noise=0.05)"
    assert hash(toy.moons()) == hash(toy.moons())
    assert toy.moons() == toy.moons()
    assert toy.moons() != toy.moons(noise=0.1)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: toy.moons(noise=-1), "noise = -1"),
        (lambda: toy.eight_gaussians(std=-0.1), "std = -0.1"),
        (lambda: toy.checkerboard(cells=3), "cells = 3"),
        (lambda: toy.pinwheel(arms=0), "arms = 0"),
        (lambda: toy.circles().sample(jax.random.key(0)), "one typed key a sample"),
    ],
)
def test_wrong_arguments_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()

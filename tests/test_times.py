"""Times: quantile, density and draws of every distribution say the same."""

import inspect
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from jaxflow import draws, paths, times
from jaxflow.losses import weights
from jaxflow.times import distributions

TABLE = {
    "uniform": [{}],
    "logit_normal": [{}, {"mean": 0.4, "std": 0.7}],
    "mode": [{"scale": 1.29}, {"scale": -0.8}, {"scale": 0.0}],
    "cosine_map": [{}],
    "beta": [{"a": 2.0, "b": 1.0}, {"a": 0.7, "b": 1.5}, {"a": 0.1, "b": 1.0}],
    "stratified": [{"times": times.logit_normal(0.4, 0.7)}],
    "antithetic": [{"times": times.logit_normal(0.4, 0.7)}],
    "shifted": [{"times": times.logit_normal(0.4, 0.7), "shift": 3.0}],
    "log_normal": [{"path": paths.polynomial(2)}, {"path": paths.cosine(), "mean": 0.4}],
    "histogram": [{"edges": [0, 0.13, 0.7, 1], "masses": [0.31717, 1.9, 0.9]}],
    "constant": [{"time": 0.0}, {"time": 0.7}],
    "fitted": [{"t": np.linspace(0, 1, 40) ** 2, "loss": np.linspace(1, 3, 40), "bins": 5}],
}
ALL = [
    pytest.param(getattr(times, name)(**kwargs), id=f"{name}{i}")
    for name, cases in TABLE.items()
    for i, kwargs in enumerate(cases)
]
WITH_DENSITY = [case for case in ALL if "constant" not in str(case.id)]


def test_every_factory_is_in_the_table():
    assert {n for n in times.__all__ if inspect.isfunction(getattr(times, n))} == set(TABLE)


U = np.linspace(0, 1, 1001)


@jax.jit
def read(times, u):
    """Quantiles, their slopes, log-densities there, and those outside of [0, 1]."""
    t, slope = jax.jvp(times.quantile, (u,), (jnp.ones_like(u),))
    return t, slope, times.log_prob(t), times.log_prob(jnp.array([-0.1, 1.1]))


@pytest.fixture(scope="module", params=WITH_DENSITY)
def with_readings(request):
    """A distribution, and what is read of it at the shares `U` in float64."""
    with jax.enable_x64(True):
        return request.param, jax.tree.map(np.asarray, read(request.param, U))


@partial(jax.jit, static_argnums=2)
def drawn(times, key, n):
    return times(key, n)


@jax.jit
def quantile(times, u):
    return times.quantile(u)


@jax.jit
def log_prob(times, t):
    return times.log_prob(t)


@pytest.mark.parametrize("distribution", ALL)
def test_contract(distribution, key):
    t = drawn(distribution, key, 64)
    assert t.shape == (64,)
    assert t.dtype == jnp.float32
    assert np.all((np.asarray(t) >= 0) & (np.asarray(t) <= 1))
    assert np.array_equal(t, drawn(distribution, key, 64))
    leaves, tree = jax.tree.flatten(distribution)
    assert len(leaves) == (2 if hasattr(distribution, "edges") else 0)
    assert jax.tree.unflatten(tree, leaves) == distribution
    if not leaves:
        hash(distribution)
    assert type(distribution).__name__ in repr(distribution)
    each = jax.eval_shape(jax.vmap(lambda k: distribution(k, 3)), jax.random.split(key, 2))
    assert each.shape == (2, 3)


def test_density_is_the_slope_of_the_inverse(with_readings):
    """`p(q(u)) q'(u) = 1`, and the quantile function grows from 0 to 1."""
    t, slope, density, outside = with_readings[1]
    np.testing.assert_allclose(t[[0, -1]], [0.0, 1.0], atol=1e-12)
    inside = slice(20, -20)
    np.testing.assert_allclose(density[inside] + np.log(slope[inside]), 0.0, atol=1e-6)
    assert np.all(outside == -np.inf)


def test_draws_follow_the_quantiles(with_readings, x64):
    """Kolmogorov and Smirnov: sorted draws against their own distribution function."""
    n, (distribution, readings) = 4000, with_readings
    t = np.asarray(drawn(distribution, jax.random.key(1), n))
    cumulative = np.interp(t, readings[0], U)
    assert scipy.stats.kstest(cumulative, "uniform").pvalue > 1e-4


@jax.jit
def beta_quantile(a, b, u):
    return distributions.Beta(a, b).quantile(u)


@given(st.floats(0.03, 20), st.floats(0.03, 20), st.lists(st.floats(1e-4, 0.9999), min_size=1))
def test_beta_is_scipys(a, b, shares):
    """However close to zero a quantile lies, and there and back again."""
    u = np.resize(shares, 32)
    with jax.enable_x64(True):
        t = np.asarray(beta_quantile(a, b, jnp.asarray(u)))
    assert t.dtype == np.float64
    expected = scipy.stats.beta(a, b).ppf(u)
    share, slope = scipy.stats.beta(a, b).cdf(t), scipy.stats.beta(a, b).pdf(t)
    # Next to 1, where the density may be 1e7 and more, the rounding of t itself shows.
    assert np.all(np.abs(share - u) <= 1e-9 * u + slope * np.spacing(t))
    np.testing.assert_allclose(t, expected, rtol=1e-8, atol=1e-300)


def test_beta_close_to_zero_in_float32():
    u = np.array([0.05, 0.1, 0.3, 0.9, 1.0])
    found = quantile(times.beta(0.1, 1.0), u)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, u**10, rtol=3e-5)


@pytest.mark.parametrize("distribution", WITH_DENSITY)
def test_times_of_other_shares(distribution):
    """Halves and whole numbers are shares too, NaN stays NaN, and densities have slopes."""

    @jax.jit
    def found_and_slope(u, t):
        slope = jax.vmap(jax.grad(lambda t: distribution.log_prob(t[None])[0]))
        return distribution.quantile(u), slope(t)

    t = np.array([0.1, 0.5, 0.8], np.float32)
    found, slope = found_and_slope(np.array([0.0, 1.0, np.nan], np.float32), t)
    np.testing.assert_allclose(found, [0.0, 1.0, np.nan], atol=1e-6)
    assert np.all(np.isfinite(slope))
    for other in (jnp.float16, jnp.int32, jnp.bool_):
        shape = jax.ShapeDtypeStruct((3,), other)
        assert jax.eval_shape(distribution.quantile, shape).dtype == jnp.float32


@pytest.mark.parametrize("time", [0.0, 0.7, 1.0])
def test_a_constant_time_has_all_the_mass(time, key):
    """At itself, in every draw and at every share but NaN; the path's interval moves it."""
    t = times.constant(time)
    assert np.all(np.asarray(drawn(t, key, 5)) == np.float32(time))
    found = quantile(t, np.array([0.0, 0.3, 1.0, np.nan], np.float32))
    np.testing.assert_array_equal(found, np.array([time, time, time, np.nan], np.float32))
    np.testing.assert_array_equal(log_prob(t, drawn(t, key, 2)), [0.0, 0.0])
    outside = log_prob(t, np.array([-0.1, 0.5, 1.1], np.float32))
    np.testing.assert_array_equal(outside, np.full(3, -np.inf))
    moved = draws.times(t, (0.2, 0.8))(key, {"x1": jnp.zeros((3, 1))})["t"]
    np.testing.assert_allclose(moved, 0.2 + 0.6 * time, rtol=1e-6)
    for other in (jnp.float16, jnp.int32, jnp.bool_):
        shape = jax.ShapeDtypeStruct((3,), other)
        assert jax.eval_shape(t.quantile, shape).dtype == jnp.float32


@pytest.mark.parametrize("time", [-0.1, 1.5, float("nan")])
def test_constant_times_outside_are_refused(time):
    with pytest.raises(ValueError, match=r"constant needs a time in \[0, 1\]; got"):
        times.constant(time)


def test_the_density_of_mode_is_infinite_at_its_most():
    """Where the quantile function stands still, and NaN nowhere."""
    t = np.linspace(0, 1, 1001, dtype=np.float32)
    for scale in (-1.0, 2 / (np.pi - 2)):
        assert not np.any(np.isnan(log_prob(times.mode(scale), t)))


@pytest.mark.parametrize("n", [1, 7, 1024])
def test_strata_hold_one_time_each(n, key):
    t = np.sort(drawn(times.stratified(times.cosine_map()), key, n))
    edges = np.asarray(quantile(times.cosine_map(), np.arange(n + 1, dtype=np.float32) / n))
    assert np.all((t >= edges[:-1] - 1e-6) & (t <= edges[1:] + 1e-6))


def test_each_stratified_position_has_the_whole_distribution(key):
    """No example is tied to a stratum: one joint chi-square over positions and bins."""
    n, runs, bins = 8, 2000, 10
    draws = jax.vmap(lambda k: times.stratified(times.uniform())(k, n))
    t = np.asarray(draws(jax.random.split(key, runs)))
    counts = np.array([np.histogram(t[:, i], bins, (0, 1))[0] for i in range(n)])
    expected = runs / bins
    chi_square = np.sum((counts - expected) ** 2 / expected)
    freedom = n * (bins - 1)
    assert abs(chi_square - freedom) / np.sqrt(2 * freedom) < 4


def test_pairs_are_antithetic(key):
    """Quantiles of a pair add up to one, and each half has the distribution."""
    t = np.asarray(drawn(times.antithetic(times.logit_normal(0.3, 1.0)), key, 7))
    u = scipy.stats.norm.cdf(scipy.special.logit(t) - 0.3)
    np.testing.assert_allclose(u[:3] + u[4:], 1.0, atol=1e-6)
    halves = np.asarray(drawn(times.antithetic(times.uniform()), key, 4000)).reshape(2, -1)
    for half in halves:
        assert scipy.stats.kstest(half, "uniform").pvalue > 1e-4


def test_log_normal_is_what_it_says(x64):
    """Of any path; on the linear one it is logit-normal, cut off where a path ends before."""
    u = np.linspace(0.01, 0.99, 9)
    z = scipy.special.ndtri(u)
    for path in (paths.cosine(), paths.polynomial(3)):
        t = quantile(times.log_normal(path, -0.8, 1.1), u)
        alpha, sigma = map(np.asarray, shares(path, t))
        np.testing.assert_allclose(np.log(sigma / alpha), -0.8 - 1.1 * z, atol=1e-9)
    linear, logit = times.log_normal(paths.linear(), -0.8, 1.1), times.logit_normal(0.8, 1.1)
    np.testing.assert_allclose(quantile(linear, u), quantile(logit, u), rtol=1e-12)
    np.testing.assert_allclose(log_prob(linear, u), log_prob(logit, u), rtol=1e-9)
    short = times.log_normal(paths.vp(), 4.0, 2.0)  # a fifth of it lies before the start of vp
    first, last = np.asarray(quantile(short, np.array([0.0, 1.0])))
    np.testing.assert_allclose([first, last], paths.vp().schedule.interval, atol=1e-12)
    grid = np.linspace(first, last, 200_001)
    density = np.exp(log_prob(short, grid))
    density[[0, -1]] = 0.0
    assert abs(np.trapezoid(density, grid) - 1) < 1e-3


@jax.jit
def shares(path, t):
    return path.schedule.alpha(t), path.schedule.sigma(t)


def test_times_follow_the_loss_and_weights_undo_it(key, x64):
    """The density is proportional to the loss, and the weighed mean is the plain one exactly."""

    @jax.jit
    def density_weight_and_mean(new, t, u):
        weigh, drawn = weights.importance(new), new.quantile(u)
        mean = jnp.mean(weigh(drawn) * (0.5 + 3 * drawn**2))
        return jnp.exp(new.log_prob(t)), weigh(t), mean

    t = np.linspace(0, 1, 20_001)
    loss = 0.5 + 3 * t**2
    new = times.fitted(t, loss, bins=50)
    u = (np.arange(200_000) + 0.5) / 200_000
    density, weight, mean = density_weight_and_mean(new, t, u)
    np.testing.assert_allclose(density, 0.95 * loss / loss.mean() + 0.05, rtol=0.03)
    np.testing.assert_allclose(mean, 1.5, rtol=1e-5)
    assert np.max(weight) < 20
    rows = times.fitted(t, np.where(t < 0.5, 0.0, loss), bins=8)  # nothing is never drawn
    assert np.min(rows.masses) > 0


def test_mirrored_conventions(x64):
    """A positive mean leans to the data at t = 1; papers' -0.4 is our +0.4."""
    u = np.linspace(0.05, 0.95, 7)
    ours, theirs = times.logit_normal(0.4, 1.0), times.logit_normal(-0.4, 1.0)
    mirrored = 1 - np.asarray(quantile(theirs, 1 - u))
    np.testing.assert_allclose(quantile(ours, u), mirrored, atol=1e-12)
    assert quantile(ours, u)[3] > 0.5
    assert quantile(times.beta(2.0, 1.0), U[500:501])[0] > 0.5
    middle = log_prob(times.mode(1.29), np.array([0.5, 0.05]))
    assert middle[0] > middle[1]
    t = quantile(times.cosine_map(), u)
    of_t, of_u = shares(paths.linear(), t), shares(paths.cosine(), u)
    np.testing.assert_allclose(np.divide(*of_t), np.divide(*of_u), rtol=1e-9)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: times.logit_normal(0.0, 0.0), "std > 0; got mean=0.0, std=0.0"),
        (lambda: times.logit_normal(0.0, np.nan), "std > 0; got mean=0.0, std=nan"),
        (lambda: times.logit_normal(np.inf, 1.0), "finite mean and std > 0; got mean=inf, std=1.0"),
        (lambda: times.mode(-1.5), "mode needs -1 <= scale <= 1.7519; got -1.5"),
        (lambda: times.mode(1.8), "mode needs -1 <= scale <= 1.7519; got 1.8"),
        (lambda: times.mode(np.nan), "mode needs -1 <= scale <= 1.7519; got nan"),
        (lambda: times.beta(0.0, 1.0), "b > 0; got a=0.0, b=1.0"),
        (lambda: times.beta(1.0, -2.0), "b > 0; got a=1.0, b=-2.0"),
        (lambda: times.shifted(times.uniform(), 0.0), "shifted needs shift > 0; got 0.0"),
        (lambda: times.log_normal(paths.linear(), 0.0, -1.0), "std > 0; got mean=0.0, std=-1.0"),
        (lambda: times.histogram([0, 2], [1]), "increase from 0 to 1; got [0, 2]"),
        (lambda: times.histogram([0, 0.5, 1], [1, 0]), "for each of 2 bins; got [1. 0.]"),
        (lambda: times.fitted(np.zeros(3), np.zeros(3), 4), "got 3 times and 3 losses"),
        (lambda: times.fitted(np.zeros(3), np.full(3, np.nan), 2), "drop the examples that do not"),
        (lambda: times.beta(np.nan, 1.0), "b > 0; got a=nan, b=1.0"),
    ],
)
def test_errors_name_what_they_got(call, sentence):
    with pytest.raises(ValueError, match=f"{re.escape(sentence)}$"):
        call()

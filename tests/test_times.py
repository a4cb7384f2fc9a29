"""Times: quantile, density and draws of every distribution say the same."""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
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
def with_slope(times, u):
    return jax.jvp(times.quantile, (u,), (jnp.ones_like(u),))


@pytest.mark.parametrize("distribution", ALL)
def test_contract(distribution, key):
    draw = jax.jit(lambda d, key: d(key, 64))
    t = draw(distribution, key)
    assert t.shape == (64,)
    assert t.dtype == jnp.float32
    assert jnp.all((t >= 0) & (t <= 1))
    assert jnp.array_equal(t, draw(distribution, key))
    leaves, tree = jax.tree.flatten(distribution)
    assert len(leaves) == (2 if hasattr(distribution, "edges") else 0)
    assert jax.tree.unflatten(tree, leaves) == distribution
    if not leaves:
        hash(distribution)
    assert type(distribution).__name__ in repr(distribution)
    each = jax.eval_shape(jax.vmap(lambda k: distribution(k, 3)), jax.random.split(key, 2))
    assert each.shape == (2, 3)


@pytest.mark.parametrize("distribution", WITH_DENSITY)
def test_density_is_the_slope_of_the_inverse(distribution, x64):
    """`p(q(u)) q'(u) = 1`, and the quantile function grows from 0 to 1."""
    t, slope = with_slope(distribution, jnp.asarray(U))
    np.testing.assert_allclose(t[jnp.array([0, -1])], [0.0, 1.0], atol=1e-12)
    inside = slice(20, -20)
    density = distribution.log_prob(t[inside])
    np.testing.assert_allclose(density + jnp.log(slope[inside]), 0.0, atol=1e-6)
    outside = distribution.log_prob(jnp.array([-0.1, 1.1]))
    assert jnp.all(outside == -jnp.inf)


@pytest.mark.parametrize("distribution", WITH_DENSITY)
def test_draws_follow_the_quantiles(distribution, x64):
    """Kolmogorov and Smirnov: sorted draws against their own distribution function."""
    n = 4000
    t = np.asarray(distribution(jax.random.key(1), n))
    cumulative = np.interp(t, np.asarray(with_slope(distribution, jnp.asarray(U))[0]), U)
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
    found = times.beta(0.1, 1.0).quantile(jnp.asarray(u))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, u**10, rtol=3e-5)


@pytest.mark.parametrize("distribution", WITH_DENSITY)
def test_times_of_other_shares(distribution):
    """Halves and whole numbers are shares too, NaN stays NaN, and densities have slopes."""

    @jax.jit
    def read(u, t):
        slope = jax.vmap(jax.grad(lambda t: distribution.log_prob(t[None])[0]))
        return distribution.quantile(u), slope(t)

    t = jnp.array([0.1, 0.5, 0.8])
    found, slope = read(jnp.array([0.0, 1.0, jnp.nan]), t)
    np.testing.assert_allclose(found, [0.0, 1.0, np.nan], atol=1e-6)
    assert jnp.all(jnp.isfinite(slope))
    for other in (jnp.float16, jnp.int32, jnp.bool_):
        assert jax.eval_shape(distribution.quantile, t.astype(other)).dtype == jnp.float32


@pytest.mark.parametrize("time", [0.0, 0.7, 1.0])
def test_a_constant_time_has_all_the_mass(time, key):
    """At itself, in every draw and at every share but NaN; the path's interval moves it."""
    t = times.constant(time)
    assert jnp.all(t(key, 5) == jnp.float32(time))
    found = t.quantile(jnp.array([0.0, 0.3, 1.0, jnp.nan]))
    np.testing.assert_array_equal(found, jnp.array([time, time, time, jnp.nan], jnp.float32))
    np.testing.assert_array_equal(t.log_prob(t(key, 2)), [0.0, 0.0])
    np.testing.assert_array_equal(t.log_prob(jnp.array([-0.1, 0.5, 1.1])), np.full(3, -np.inf))
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
    t = jnp.linspace(0, 1, 1001)
    for scale in (-1.0, 2 / (np.pi - 2)):
        assert not jnp.any(jnp.isnan(times.mode(scale).log_prob(t)))


@pytest.mark.parametrize("n", [1, 7, 1024])
def test_strata_hold_one_time_each(n, key):
    t = times.stratified(times.cosine_map())(key, n)
    edges = times.cosine_map().quantile(jnp.arange(n + 1) / n)
    t = jnp.sort(t)
    assert jnp.all((t >= edges[:-1] - 1e-6) & (t <= edges[1:] + 1e-6))


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
    t = times.antithetic(times.logit_normal(0.3, 1.0))(key, 7)
    u = jax.scipy.stats.norm.cdf(jax.scipy.special.logit(t) - 0.3)
    np.testing.assert_allclose(u[:3] + u[4:], 1.0, atol=1e-6)
    halves = times.antithetic(times.uniform())(key, 4000).reshape(2, -1)
    for half in np.asarray(halves):
        assert scipy.stats.kstest(half, "uniform").pvalue > 1e-4


def test_log_normal_is_what_it_says(x64):
    """Of any path; on the linear one it is logit-normal, cut off where a path ends before."""
    u = jnp.linspace(0.01, 0.99, 9)
    z = jax.scipy.special.ndtri(u)
    for path in (paths.cosine(), paths.polynomial(3)):
        t = times.log_normal(path, -0.8, 1.1).quantile(u)
        ratio = path.schedule.sigma(t) / path.schedule.alpha(t)
        np.testing.assert_allclose(jnp.log(ratio), -0.8 - 1.1 * z, atol=1e-9)
    linear, logit = times.log_normal(paths.linear(), -0.8, 1.1), times.logit_normal(0.8, 1.1)
    np.testing.assert_allclose(linear.quantile(u), logit.quantile(u), rtol=1e-12)
    np.testing.assert_allclose(linear.log_prob(u), logit.log_prob(u), rtol=1e-9)
    short = times.log_normal(paths.vp(), 4.0, 2.0)  # a fifth of it lies before the start of vp
    first, last = short.quantile(jnp.array([0.0, 1.0]))
    np.testing.assert_allclose([first, last], paths.vp().schedule.interval, atol=1e-12)
    grid = jnp.linspace(first, last, 200_001)
    total = jnp.trapezoid(jnp.exp(short.log_prob(grid)).at[jnp.array([0, -1])].set(0.0), grid)
    assert abs(total - 1) < 1e-3


def test_times_follow_the_loss_and_weights_undo_it(key, x64):
    """The density is proportional to the loss, and the weighed mean is the plain one exactly."""
    t = jnp.linspace(0, 1, 20_001)
    loss = 0.5 + 3 * t**2
    new = times.fitted(t, loss, bins=50)
    density = jnp.exp(new.log_prob(t))
    np.testing.assert_allclose(density, 0.95 * loss / loss.mean() + 0.05, rtol=0.03)
    weight = weights.importance(new)(t)
    u = (jnp.arange(200_000) + 0.5) / 200_000
    drawn = new.quantile(u)
    mean = jnp.mean(weights.importance(new)(drawn) * (0.5 + 3 * drawn**2))
    np.testing.assert_allclose(mean, 1.5, rtol=1e-5)
    assert float(jnp.max(weight)) < 20
    rows = times.fitted(t, jnp.where(t < 0.5, 0.0, loss), bins=8)  # nothing is never drawn
    assert float(jnp.min(rows.masses)) > 0


def test_mirrored_conventions(x64):
    """A positive mean leans to the data at t = 1; papers' -0.4 is our +0.4."""
    u = jnp.linspace(0.05, 0.95, 7)
    theirs = 1 - times.logit_normal(-0.4, 1.0).quantile(1 - u)
    np.testing.assert_allclose(times.logit_normal(0.4, 1.0).quantile(u), theirs, atol=1e-12)
    assert times.logit_normal(0.4, 1.0).quantile(jnp.array([0.5]))[0] > 0.5
    assert with_slope(times.beta(2.0, 1.0), jnp.asarray(U))[0][500] > 0.5
    middle = times.mode(1.29).log_prob(jnp.array([0.5, 0.05]))
    assert middle[0] > middle[1]
    t = times.cosine_map().quantile(u)
    cosine, linear = paths.cosine().schedule, paths.linear().schedule
    np.testing.assert_allclose(
        linear.alpha(t) / linear.sigma(t), cosine.alpha(u) / cosine.sigma(u), rtol=1e-9
    )


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

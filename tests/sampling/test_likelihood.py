"""Likelihoods against the true pushforward of the source through the flow."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxflow import paths, sources
from jaxflow.sampling import adaptive, exact, hutchinson, log_prob
from jaxflow.velocities import change_path, from_network, gaussian_mixture
from tests.problems import (
    COVARIANCES,
    CURVES,
    GAUSSIAN,
    MEANS,
    WEIGHTS,
    marginal,
    points,
    some_fast,
)

tight = jax.jit(partial(log_prob, rtol=1e-9, atol=1e-9))


def gaussian(path):
    return gaussian_mixture(path, weights=np.ones(1), means=MEANS[:1], covariances=COVARIANCES[:1])


@pytest.mark.parametrize("name", some_fast(CURVES, ("linear", "vp", "linear_vp", "ve", "edm")))
def test_gaussian_on_every_path(name, x64):
    """The flow is affine, so what it makes of the path's noise is a known Gaussian, through VP too,
    and from noise of size 20 and 80.
    """
    curve = CURVES[name]
    x = points(3)
    got = tight(gaussian(curve.path), jnp.asarray(x))
    low, high = curve.path.schedule.interval
    expected = GAUSSIAN.log_prob(curve, x, high, low)
    np.testing.assert_allclose(got.value, expected, atol=1e-6)
    assert bool(got.success.all())
    assert got.standard_error.tolist() == [0.0] * 3


@pytest.mark.parametrize("name", ["linear", "vp"])
def test_float32_loses_its_last_digits_alone(name):
    """Over a range of 27 nats; forty roundings and the solver's tolerance."""
    curve = CURVES[name]
    x = np.float32(points(16))
    got = log_prob(gaussian(curve.path), jnp.asarray(x), rtol=1e-6, atol=1e-6)
    expected = GAUSSIAN.log_prob(curve, x.astype(float), curve.path.schedule.interval[1])
    assert got.value.dtype == jnp.float32
    np.testing.assert_allclose(got.value, expected, rtol=40 * np.finfo(np.float32).eps)
    assert bool(got.success.all())


@pytest.mark.parametrize("name", ["vp", pytest.param("cosine", marks=pytest.mark.slow)])
def test_mixture_by_its_own_marginals(name, x64):
    """The flow carries one marginal to the other, so their ratio is the Jacobian's determinant."""
    curve = CURVES[name]
    velocity = gaussian_mixture(curve.path, weights=WEIGHTS, means=MEANS, covariances=COVARIANCES)
    high = curve.path.schedule.interval[1]
    x1 = points(3)
    x0 = np.asarray(adaptive(velocity, jnp.asarray(x1), (high, 0.0), rtol=1e-9, atol=1e-9).x)
    change = marginal(curve, high, x1).log_prob - marginal(curve, 0.0, x0).log_prob
    size = curve.sigma(0.0)
    expected = scipy.stats.norm.logpdf(x0, scale=size).sum(1) + change
    np.testing.assert_allclose(tight(velocity, jnp.asarray(x1)).value, expected, atol=1e-6)


@pytest.mark.parametrize("kind", some_fast(["data", "noise", "score"], ("data",)))
def test_every_prediction(kind, x64):
    """From where the prediction is finite to where it is."""
    curve = CURVES["linear"]
    mixture = gaussian(curve.path)
    read = {"data": mixture.posterior_mean, "noise": mixture.noise, "score": mixture.score}[kind]
    velocity = from_network(
        lambda p, t, x, key=None: read(t, x), None, path=curve.path, prediction=kind
    )
    low, high = velocity.interval
    x = points(2)
    start = GAUSSIAN.carry(curve, x, high, low)
    stretch = GAUSSIAN.log_prob(curve, x, high) - scipy.stats.norm.logpdf(
        GAUSSIAN.carry(curve, x, high, 0.0)
    ).sum(1)
    head = GAUSSIAN.log_prob(curve, start, low) - scipy.stats.norm.logpdf(
        GAUSSIAN.carry(curve, start, low, 0.0)
    ).sum(1)
    expected = scipy.stats.norm.logpdf(start).sum(1) + stretch - head
    np.testing.assert_allclose(tight(velocity, jnp.asarray(x)).value, expected, atol=1e-6)


def test_changed_path(x64):
    """A change of path carries the same density, as far as both paths go."""
    linear, cosine = CURVES["linear"], CURVES["cosine"]
    velocity = change_path(gaussian(linear.path), linear.path, cosine.path)
    assert velocity.interval == (0.0, 1.0)
    x = points(2)
    expected = GAUSSIAN.log_prob(linear, x, 1.0)
    np.testing.assert_allclose(tight(velocity, jnp.asarray(x)).value, expected, atol=1e-6)


def test_images(x64):
    """Any event shape: 16 pixels of a mixture, against its density."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(2, 16, 16)) / 4
    velocity = gaussian_mixture(
        paths.linear(),
        weights=np.array([0.4, 0.6]),
        means=rng.normal(size=(2, 4, 4, 1)),
        covariances=root @ root.mT + 0.5 * np.eye(16),
    )
    x = jnp.asarray(rng.normal(size=(2, 4, 4, 1)))
    got = tight(velocity, x)
    assert got.value.shape == (2,)
    expected = jax.jit(lambda v, x: v.log_prob(jnp.ones(2), x))(velocity, x)
    np.testing.assert_allclose(got.value, expected, atol=1e-6)


MATRIX = np.random.default_rng(3).normal(size=(6, 6)) / 2


def rotating(t, x):
    """`x' = A x` with `A` far from diagonal: `log |det| = tr A`."""
    return (x.reshape(len(x), -1) @ MATRIX.T).reshape(x.shape)


def test_linear_flow_from_another_source(x64):
    x = jnp.asarray(0.1 * points(2, 6)).reshape(2, 3, 2)
    got = log_prob(rotating, x, source=sources.uniform(-9.0, 9.0))
    np.testing.assert_allclose(got.value, -6 * np.log(18) - np.trace(MATRIX), atol=1e-6)


def crossing(t, x):
    """Parts of one shape that move each other, and each itself."""
    return {"a": 0.3 * x["a"] + x["b"], "b": -0.1 * x["b"] + x["a"]}


def test_parts_add_their_divergences(key, x64):
    """The trace is over both parts; probes of one know nothing of those of the other."""
    n, d, rates = 400, 2, 0.3 - 0.1
    x = {k: 0.01 * jax.random.normal(jax.random.key(i), (n, d)) for i, k in enumerate("ab")}
    box = sources.product(dict.fromkeys("ab", sources.uniform(-9.0, 9.0)))
    few = jax.tree.map(lambda a: a[:2], x)
    expected = -2 * d * np.log(18) - d * rates
    np.testing.assert_allclose(log_prob(crossing, few, source=box).value, expected, rtol=1e-6)
    found = log_prob(
        crossing, x, source=box, divergence=hutchinson(2), keys=jax.random.split(key, n)
    )
    assert np.std(found.value) > 0.5
    assert abs((np.mean(found.value) - expected) / (np.std(found.value) / np.sqrt(n))) < 4


@pytest.mark.parametrize("probes", some_fast([1, 4, 16], (4,)))
def test_hutchinson_is_unbiased_and_knows_its_error(probes, key):
    """Over many keys: the mean of the z-scores is zero and their spread one."""
    n = 4000
    x = jnp.broadcast_to(jnp.asarray(points(1, 6), jnp.float32), (n, 6))
    got = log_prob(
        rotating,
        x,
        divergence=hutchinson(probes),
        keys=jax.random.split(key, n),
        rtol=1e-4,
        atol=1e-4,
        per_sample=False,
    )
    truth = log_prob(rotating, x[:1], divergence=exact(), rtol=1e-6, atol=1e-6).value[0]
    estimate, error = np.asarray(got.value - truth, np.float64), np.asarray(got.standard_error)
    true_variance = 2 * np.sum(((MATRIX + MATRIX.T) / 2)[~np.eye(6, dtype=bool)] ** 2) / probes
    assert estimate.std() > 0.1
    assert abs(estimate.mean() / np.sqrt(true_variance / n)) < 4
    for spread in (estimate**2, error**2) if probes > 1 else (estimate**2,):
        z = (spread.mean() - true_variance) / (spread.std() / np.sqrt(n))
        assert abs(z) < 4


def test_hutchinson_probes_belong_to_the_sample(key):
    """A row's estimate depends on its own key and datum alone; one probe tells no error."""
    run = jax.jit(
        lambda x, keys: log_prob(
            rotating, x, divergence=hutchinson(1), keys=keys, rtol=1e-3, atol=1e-3
        )
    )
    keys = jax.random.split(key, 4)
    x = jnp.asarray(points(4, 6), jnp.float32)
    a, b = run(x, keys), run(x.at[1:].set(5.0), keys.at[1:].set(keys[0]))
    assert a.value[0] == b.value[0]
    assert a.nfe[0] == b.nfe[0]
    assert jnp.all(jnp.isnan(a.standard_error))


def test_conditions_and_dtype():
    """Conditions reach the velocity; half precision is solved in float32."""

    def scaled(t, x, rate):
        return rate[:, None] * x

    x, rate = jnp.ones((2, 3), jnp.bfloat16), jnp.array([0.5, -0.5])
    got = log_prob(scaled, x, cond={"rate": rate})
    expected = scipy.stats.norm.logpdf(np.exp(-rate)) * 3 - 3 * rate
    assert got.value.dtype == jnp.float32
    np.testing.assert_allclose(got.value, expected, atol=1e-4)


@pytest.mark.usefixtures("unchecked")
def test_errors(key):
    x = jnp.ones((2, 3))
    for call, received in [
        (lambda: hutchinson(0), "^hutchinson needs at least one probe; got 0$"),
        (
            lambda: log_prob(rotating, x, divergence=hutchinson()),
            "^hutchinson draws random probes: pass keys=jax.random.split",
        ),
        (
            lambda: log_prob(rotating, x, divergence=hutchinson(), keys=key),
            r"^keys has shape \(\): one typed key a sample is needed",
        ),
        (
            lambda: log_prob(rotating, x, cond={"a": jnp.ones(3)}),
            r"^condition 'a' has shape \(3,\), but the batch is 2: ",
        ),
        (
            lambda: log_prob(lambda t, x: x, x, source=sources.data(x)),
            "^a source of 2 data rows has no density",
        ),
    ]:
        with pytest.raises(ValueError, match=received):
            call()

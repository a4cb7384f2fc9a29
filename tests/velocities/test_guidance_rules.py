"""The rules of a pair, and thresholds: what each promises, against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import paths, velocities
from jaxflow.sampling import fixed_step, grids
from jaxflow.velocities import convert, posterior_mean, thresholded
from tests.problems import CURVES

N, EVENT = 4, (3, 2, 2)
RNG = np.random.default_rng(0)
X, WANTED, UNWANTED = RNG.normal(size=(3, N, *EVENT))
T = np.array([0.1, 0.4, 0.6, 0.9])
SCALE = np.array([0.0, 1.0, 2.5, 7.0]).reshape(N, 1, 1, 1)
OVER = (1, 2, 3)


def on(rule, *more, path=None):
    rule = rule if path is None else rule.along(path)
    return np.asarray(jax.jit(lambda rule, *a: rule(*a))(rule, T, X, WANTED, UNWANTED, SCALE))


PLAIN = (1 - SCALE) * UNWANTED + SCALE * WANTED


def inner(a, b):
    return (a * b).sum(OVER)


def std(a):
    return a.std(OVER, keepdims=True)


def test_plain(x64):
    np.testing.assert_allclose(on(velocities.plain()), PLAIN, rtol=1e-12)


def test_rescaled_has_the_deviation_of_the_wanted_field(x64):
    full = on(velocities.rescaled(1.0))
    np.testing.assert_allclose(std(full), std(WANTED), rtol=1e-12)
    np.testing.assert_allclose(full, PLAIN * std(WANTED) / std(PLAIN), rtol=1e-12)
    half = on(velocities.rescaled(0.3))
    np.testing.assert_allclose(half, 0.3 * full + 0.7 * PLAIN, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(on(velocities.rescaled(0.0)), PLAIN, rtol=1e-12)


@pytest.mark.parametrize("name", ["cosine", "vp"])
def test_rescaled_is_the_published_rule_of_another_prediction(name, x64):
    """Of networks that predict `alpha x0 - sigma x1` on a variance-preserving path."""
    curve = CURVES[name]
    t = jnp.asarray(T)
    alpha, sigma = (
        np.array([f(v) for v in T]).reshape(SCALE.shape) for f in (curve.alpha, curve.sigma)
    )

    def read(v):
        data, noise = (
            convert(
                jnp.asarray(v), t, jnp.asarray(X), path=curve.path, source="velocity", target=target
            )
            for target in ("data", "noise")
        )
        return np.asarray(alpha * noise - sigma * data)

    positive, guided = read(WANTED), read(PLAIN)
    published = 0.7 * guided * std(positive) / std(guided) + 0.3 * guided
    np.testing.assert_allclose(read(on(velocities.rescaled(0.7))), published, atol=1e-8)


def test_zero_star_takes_the_best_scale_of_the_unwanted_field(x64):
    """By least squares, one sample at a time; what is left is orthogonal."""
    best = np.array(
        [
            np.linalg.lstsq(u.reshape(-1, 1), w.reshape(-1), rcond=None)[0][0]
            for u, w in zip(UNWANTED, WANTED, strict=True)
        ]
    ).reshape(SCALE.shape)
    found = on(velocities.zero_star())
    np.testing.assert_allclose(found, (1 - SCALE) * best * UNWANTED + SCALE * WANTED, rtol=1e-10)
    left = np.where(SCALE == 1, 0, (found - WANTED) / np.where(SCALE == 1, 1, SCALE - 1))
    np.testing.assert_allclose(inner(left, UNWANTED), 0, atol=1e-12)
    still = on(velocities.zero_star(0.4))
    np.testing.assert_array_equal(still[0], 0)
    np.testing.assert_array_equal(still[1:], found[1:])


def data_of(path, v):
    return np.asarray(
        convert(*map(jnp.asarray, (v, T, X)), path=path, source="velocity", target="data")
    )


@pytest.mark.parametrize("name", ["linear", "vp"])
@pytest.mark.parametrize(("eta", "norm"), [(0.0, None), (0.3, None), (0.0, 0.8), (0.4, 2.0)])
def test_projected_by_the_estimates_of_the_data(name, eta, norm, x64):
    """As published, through data and not through velocities."""
    path = CURVES[name].path
    wanted, unwanted = data_of(path, WANTED), data_of(path, UNWANTED)
    delta = wanted - unwanted
    size = np.sqrt(inner(delta, delta)).reshape(SCALE.shape)
    if norm is not None:
        assert (size > norm).any()
        delta = delta * np.minimum(1, norm / size)
    share = (inner(delta, wanted) / inner(wanted, wanted)).reshape(SCALE.shape)
    expected = wanted + (SCALE - 1) * (delta - share * wanted + eta * share * wanted)
    found = data_of(path, on(velocities.projected(eta, norm), path=path))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-10)
    moved = found - wanted
    if eta == 0:
        np.testing.assert_allclose(inner(moved, wanted), 0, atol=1e-9)
    if norm is not None:
        length = np.sqrt(inner(moved, moved))
        assert np.all(length <= np.abs(SCALE.ravel() - 1) * norm * (1 + 1e-9))


def test_projected_keeps_all_where_it_is_told_to(x64):
    found = on(velocities.projected(1.0), path=paths.linear())
    np.testing.assert_allclose(found, PLAIN, rtol=1e-10, atol=1e-12)


# A posterior mean far from the bounds: the first sample keeps within them, the others do not.
FAR = np.array([0.05, 1.0, 3.0, 10.0]).reshape(N, 1, 1, 1) * RNG.normal(size=(N, *EVENT))


def towards(t, x):
    t, x = map(jnp.asarray, (t, x))
    data = jnp.asarray(FAR, x.dtype)
    return convert(data, t, x, path=paths.linear(), source="data", target="velocity")


towards.path = paths.linear()


@jax.jit
def told(velocity, t, x):
    return velocity(t, x), posterior_mean(velocity, t, x)


@pytest.mark.parametrize("percentile", [None, 80.0])
def test_thresholds_bind_once(percentile, x64):
    clipped = thresholded(towards, bound=0.9, percentile=percentile)
    v, data = told(clipped, T, X)
    assert np.abs(data).max() <= 0.9 + 1e-12
    again, _ = told(thresholded(clipped, bound=0.9, percentile=percentile), T, X)
    np.testing.assert_allclose(again, v, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(v[0], towards(T, X)[0], rtol=1e-14)
    m = 0.9
    if percentile is not None:
        size = np.percentile(np.abs(FAR), percentile, axis=OVER, keepdims=True)
        m = np.maximum(size, 0.9)
        assert np.sum(m > 0.9) > 1
    np.testing.assert_allclose(data, np.clip(FAR, -m, m) * 0.9 / m, rtol=1e-10)


def test_a_sample_ends_within_the_bounds():
    """On the clipped posterior mean, since data tell no velocity where the noise is zero."""
    clipped = thresholded(towards)
    assert clipped.interval == (0.0, 0.9999)
    end = fixed_step(clipped, jnp.asarray(X, np.float32), grids.uniform(4)).x
    np.testing.assert_allclose(end, np.clip(FAR, -1, 1), atol=1e-6)


RULES = {
    "plain": velocities.plain(),
    "rescaled": velocities.rescaled(1.0),
    "zero_star": velocities.zero_star(),
    "projected": velocities.projected(0.0, 1.0).along(paths.linear()),
}


@pytest.mark.parametrize("name", RULES)
def test_fields_that_vanish_or_agree_have_gradients(name):
    """Nothing is divided by a length that is zero, in value or gradient."""
    some = jnp.asarray(WANTED[:2], jnp.float32)
    pairs = ((0 * some, 0 * some), (some, some), (some, 0 * some), (0 * some, some))

    @jax.jit
    def read(rule, wanted, unwanted):
        def total(wanted, unwanted, scale):
            t = jnp.array([0.0, 1.0])
            return jnp.sum(rule(t, 0 * wanted, wanted, unwanted, scale))

        return jax.value_and_grad(total, argnums=(0, 1, 2))(wanted, unwanted, 3.0)

    for pair in pairs:
        assert all(jnp.isfinite(a).all() for a in jax.tree.leaves(read(RULES[name], *pair)))


def test_a_rule_of_ones_own(x64):
    """A plain function of the pair."""

    def wanted_more(t, x, wanted, unwanted, scale):
        return wanted + scale * jnp.sign(wanted - unwanted)

    guided = velocities.classifier_free(
        lambda t, x, y: x * y[:, None], scale=2.0, null={"y": 0.0}, rule=wanted_more
    )
    found = guided(jnp.ones(2), jnp.ones((2, 1)), y=jnp.array([3.0, -3.0]))
    np.testing.assert_allclose(found[:, 0], [5.0, -5.0])

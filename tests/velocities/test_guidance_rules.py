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


@jax.jit
def ruled(rule, *fields):
    return rule(*fields)


def on(rule, wanted=WANTED, unwanted=UNWANTED, scale=SCALE, path=None):
    rule = rule if path is None else rule.along(path)
    t, x = T[: len(wanted)], X[: len(wanted)]
    return np.asarray(ruled(rule, t, x, wanted, unwanted, np.asarray(scale)))


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


@jax.jit
def read_as(path, v, t, x):
    """The data and the noise that a velocity tells."""
    return [
        convert(v, t, x, path=path, source="velocity", target=target)
        for target in ("data", "noise")
    ]


@pytest.mark.parametrize("name", ["cosine", "vp"])
def test_rescaled_is_the_published_rule_of_another_prediction(name, x64):
    """Of networks that predict `alpha x0 - sigma x1` on a variance-preserving path."""
    curve = CURVES[name]
    alpha, sigma = (
        np.array([f(v) for v in T]).reshape(SCALE.shape) for f in (curve.alpha, curve.sigma)
    )

    def read(v):
        data, noise = map(np.asarray, read_as(curve.path, v, T, X))
        return alpha * noise - sigma * data

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
    return np.asarray(read_as(path, v, T, X)[0])


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


def test_magnitude_aware_holds_back_where_the_fields_differ_by_much(x64):
    """The scale of each sample, by the lengths of the difference and of the unwanted field."""
    size = np.array([0.1, 0.5, 1.0, 4.0]).reshape(SCALE.shape)
    ratio = np.linalg.norm((WANTED - UNWANTED).reshape(N, -1), axis=1).reshape(SCALE.shape)
    ratio = ratio / np.linalg.norm((size * UNWANTED).reshape(N, -1), axis=1).reshape(SCALE.shape)
    for alpha in (0.0, 0.4, 8.0):
        wanted = size * UNWANTED + WANTED - UNWANTED
        found = on(velocities.magnitude_aware(alpha), wanted, size * UNWANTED)
        scale = 1 + (SCALE - 1) * np.exp(-alpha * ratio)
        expected = size * UNWANTED + scale * (WANTED - UNWANTED)
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(on(velocities.magnitude_aware(0.0)), PLAIN, rtol=1e-10, atol=1e-12)
    alone = on(velocities.magnitude_aware(0.4), WANTED, 0 * UNWANTED)
    np.testing.assert_array_equal(alone, WANTED)


def test_tangential_is_the_singular_value_decomposition_of_the_pair(x64):
    """As published, by the decomposition itself, where either field is the longer."""
    length = np.array([0.01, 0.8, 1.2, 30.0]).reshape(SCALE.shape)
    unwanted = length * UNWANTED
    aligned = []
    for pair in zip(WANTED.reshape(N, -1), unwanted.reshape(N, -1), strict=True):
        _, _, right = np.linalg.svd(np.stack(pair), full_matrices=False)
        aligned.append(right[0] @ pair[1] * right[0])
    aligned = np.stack(aligned).reshape(WANTED.shape)
    found = on(velocities.tangential(), WANTED, unwanted)
    np.testing.assert_allclose(found, aligned + SCALE * (WANTED - aligned), rtol=1e-10, atol=1e-12)


def test_tangential_of_fields_along_one_line_or_of_no_first_direction(x64):
    """Nothing is taken from a multiple of the wanted field, nor where no direction is the first."""
    multiple = np.array([-2.0, 0.5, 1.0, 3.0]).reshape(SCALE.shape) * WANTED
    along = on(velocities.tangential(), WANTED, multiple)
    np.testing.assert_allclose(along, multiple + SCALE * (WANTED - multiple), rtol=1e-10)
    crossed = on(velocities.tangential(), *np.eye(2)[:, None], 3.0)
    np.testing.assert_array_equal(crossed, [[3.0, -2.0]])


def cosine(k, n):
    return np.cos(np.pi * k * (np.arange(n) + 0.5) / n)


def test_frequency_decoupled_has_a_scale_for_every_frequency(x64):
    """Waves along each axis of an image are its eigenvectors; channels do not mix."""
    h, w, low, width = 5, 8, 0.3, 1.2
    unwanted = RNG.normal(size=(1, h, w, 2))
    for i, j in ((0, 0), (1, 0), (0, 3), (4, 7)):
        wave = (cosine(i, h)[:, None] * cosine(j, w))[None, ..., None] * np.array([1.0, -2.0])
        kept = np.exp(-((np.pi * width) ** 2) * ((i / h) ** 2 + (j / w) ** 2) / 2)
        scale = 1 + 4.0 * (1 - kept + low * kept)
        rule = velocities.frequency_decoupled(low, width)
        found = on(rule, unwanted + wave, unwanted, 5.0)
        np.testing.assert_allclose(found, unwanted + scale * wave, rtol=1e-11, atol=1e-11)


def test_frequency_decoupled_of_one_share_or_no_blur(x64):
    """Plain where both scales are the same; all frequencies are low where nothing is blurred."""
    np.testing.assert_allclose(
        on(velocities.frequency_decoupled(1.0)), PLAIN, rtol=1e-10, atol=1e-12
    )
    whole = on(velocities.frequency_decoupled(0.3, width=0.0))
    expected = WANTED + 0.3 * (SCALE - 1) * (WANTED - UNWANTED)
    np.testing.assert_allclose(whole, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("shape", [(), (7,), (7, 2), (3, 4, 5, 2)])
def test_frequency_decoupled_of_events_of_any_rank(shape, x64):
    """A constant is low whatever the event; one axis is of positions, the last of several not."""
    rule, ones = velocities.frequency_decoupled(0.5, width=1e3), np.ones((1, *shape))
    np.testing.assert_allclose(on(rule, ones, 0 * ones, 3.0), 2 * ones, rtol=1e-11)
    if shape:
        flat = RNG.normal(size=(1, *shape))
        axes = tuple(range(1, max(2, len(shape))))
        mean = flat.mean(axes, keepdims=True)
        found = on(rule, flat, 0 * flat, 3.0)
        np.testing.assert_allclose(found, 3 * flat - mean, rtol=1e-11, atol=1e-11)


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
    "frequency_decoupled": velocities.frequency_decoupled(),
    "magnitude_aware": velocities.magnitude_aware(),
    "tangential": velocities.tangential(),
}


@pytest.mark.parametrize("name", RULES)
def test_fields_that_vanish_or_agree_have_gradients(name):
    """Nothing is divided by a length that is zero, in value or gradient."""
    some = np.float32(WANTED[:2])
    pairs = ((0 * some, 0 * some), (some, some), (some, 0 * some), (0 * some, some))

    @jax.jit
    def read(rule, wanted, unwanted):
        def total(wanted, unwanted, scale):
            t = jnp.array([0.0, 1.0])
            return jnp.sum(rule(t, 0 * wanted, wanted, unwanted, scale))

        return jax.value_and_grad(total, argnums=(0, 1, 2))(wanted, unwanted, 3.0)

    for pair in pairs:
        assert all(np.isfinite(a).all() for a in jax.tree.leaves(read(RULES[name], *pair)))


def test_a_rule_of_ones_own(x64):
    """A plain function of the pair."""

    def wanted_more(t, x, wanted, unwanted, scale):
        return wanted + scale * jnp.sign(wanted - unwanted)

    guided = velocities.classifier_free(
        lambda t, x, y: x * y[:, None], scale=2.0, null={"y": 0.0}, rule=wanted_more
    )
    found = guided(jnp.ones(2), jnp.ones((2, 1)), y=jnp.array([3.0, -3.0]))
    np.testing.assert_allclose(found[:, 0], [5.0, -5.0])

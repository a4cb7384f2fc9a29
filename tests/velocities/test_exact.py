"""A mixture's closed-form velocity against linear-Gaussian algebra, quadrature and autodiff."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from jaxflow import paths
from jaxflow.velocities import change_path as change
from jaxflow.velocities import convert, from_network, gaussian_mixture, posterior_mean, score
from jaxflow.velocities.prediction import KINDS, conversion_interval
from tests.problems import COVARIANCES, CURVES, MEANS, WEIGHTS, marginal, points, some_fast

TIMES = np.array([0.07, 0.3, 0.5, 0.8, 0.93])


def mixture(path):
    return gaussian_mixture(path, weights=WEIGHTS, means=MEANS, covariances=COVARIANCES)


def along_the_path(curve, times):
    """One point a time, and what is known there, stacked."""
    x = points(len(times))
    known = [marginal(curve, t, x[i : i + 1]) for i, t in enumerate(times)]
    return jnp.asarray(x), type(known[0])(*(np.concatenate(p) for p in zip(*known, strict=True)))


@jax.jit
def everything(velocity, t, x):
    return (
        velocity.log_prob(t, x),
        velocity(t, x),
        velocity.posterior_mean(t, x),
        velocity.noise(t, x),
        velocity.score(t, x),
    )


@jax.jit
def sample(mixture, keys):
    return mixture.sample(keys)


@pytest.mark.parametrize("name", CURVES)
def test_agrees_with_linear_gaussian_algebra(name, x64):
    curve = CURVES[name]
    x, known = along_the_path(curve, TIMES)
    for got, expected in zip(everything(mixture(curve.path), TIMES, x), known, strict=True):
        assert got.dtype == jnp.float64
        np.testing.assert_allclose(got, expected, atol=1e-9)


@pytest.mark.parametrize("name", ["linear", "vp", "linear_vp"])
def test_float32_loses_its_last_digits_alone(name):
    """Of values up to 8, ten roundings."""
    curve, times = CURVES[name], np.float32(TIMES)
    x, known = along_the_path(curve, times.astype(float))
    found = everything(mixture(curve.path), times, np.float32(x))
    for got, expected in zip(found, known, strict=True):
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, expected, atol=80 * np.finfo(np.float32).eps)


@pytest.mark.parametrize("name", ["linear", "linear(.1)", "cosine", "polynomial(2)"])
@pytest.mark.parametrize("t", [0.0, 1.0])
def test_ends_are_exact(name, t, x64):
    """Nothing is divided by alpha or sigma, so the ends hold too, where the velocity is finite."""
    curve = CURVES[name]
    x = points(5)
    got = everything(mixture(curve.path), np.full(5, t), x)
    for a, b in zip(got, marginal(curve, t, x), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)


@pytest.mark.parametrize("name", some_fast(CURVES))
def test_continuity_and_score_by_autodiff(name, x64):
    """`d/dt log p + div v + v . grad log p = 0`, and the score is the gradient of the density."""
    curve = CURVES[name]
    velocity = mixture(curve.path)
    x = points(len(TIMES))

    def terms(t, x):
        def log_prob(t, x):
            return velocity.log_prob(t[None], x[None])[0]

        def v(x):
            return velocity(t[None], x[None])[0]

        rate, slope = jax.grad(log_prob, argnums=(0, 1))(t, x)
        return rate + jnp.trace(jax.jacfwd(v)(x)) + v(x) @ slope, slope

    @jax.jit
    def read(t, x):
        return *jax.vmap(terms)(t, x), velocity.score(t, x)

    left, slope, known = read(TIMES, x)
    np.testing.assert_allclose(left, 0.0, atol=1e-8)
    np.testing.assert_allclose(slope, known, atol=1e-9)


@pytest.mark.parametrize("name", ["linear", "vp"])
def test_posterior_mean_by_quadrature(name, x64):
    """In one dimension Bayes' rule is an integral."""
    curve, t = CURVES[name], 0.6
    a, s = curve.alpha(t), curve.sigma(t)
    weights, means, stds = np.array([0.3, 0.7]), np.array([-1.0, 0.8]), np.array([0.4, 0.6])
    grid = np.linspace(-6, 6, 20001)
    prior = np.sum(weights * np.exp(-0.5 * ((grid[:, None] - means) / stds) ** 2) / stds, axis=1)
    x = np.linspace(-2, 2, 5)
    joint = prior * np.exp(-0.5 * ((x[:, None] - a * grid) / s) ** 2)
    expected = (joint @ grid) / joint.sum(1)
    velocity = gaussian_mixture(
        curve.path, weights=weights, means=means[:, None], covariances=stds**2
    )
    got = jax.jit(velocity.posterior_mean)(np.full(5, t), x[:, None])
    np.testing.assert_allclose(got, expected[:, None], atol=1e-8)


def test_event_of_any_shape(x64):
    """A mixture over images is that over their flattened pixels."""
    mean = np.random.default_rng(0).normal(size=(2, 4))
    flat = gaussian_mixture(
        paths.linear(), weights=WEIGHTS[:2] / 0.7, means=mean, covariances=np.array([0.5, 2.0])
    )
    square = gaussian_mixture(
        paths.linear(),
        weights=WEIGHTS[:2] / 0.7,
        means=mean.reshape(2, 2, 2, 1),
        covariances=np.array([0.5, 2.0])[:, None, None] * np.eye(4),
    )
    x = points(5, 4)
    image = x.reshape(5, 2, 2, 1)
    for a, b in zip(everything(flat, TIMES, x), everything(square, TIMES, image), strict=True):
        np.testing.assert_allclose(a, np.reshape(b, a.shape), atol=1e-12)
    assert sample(square, jax.random.split(jax.random.key(0), 3)).shape == (3, 2, 2, 1)


def test_samples_have_the_moments_of_the_mixture(x64):
    n = 20_000
    x = np.asarray(sample(mixture(paths.linear()), jax.random.split(jax.random.key(0), n)))
    mean = WEIGHTS @ MEANS
    second = np.einsum("k,kij->ij", WEIGHTS, COVARIANCES + MEANS[:, :, None] * MEANS[:, None])
    deviation = np.sqrt(np.diag(second - np.outer(mean, mean)))
    assert np.all(np.abs(x.mean(0) - mean) / deviation * np.sqrt(n) < 4)
    products = x[:, :, None] * x[:, None]
    assert np.all(np.abs(products.mean(0) - second) / products.std(0) * np.sqrt(n) < 4)


def test_axes_of_a_covariance_are_its_columns(x64):
    """In three dimensions, where the matrix of eigenvectors is not its own transpose."""
    rng = np.random.default_rng(1)
    root, mean, x = rng.normal(size=(3, 3)), rng.normal(size=3), rng.normal(size=(4, 3))
    covariance, t = root @ root.T, 0.4
    velocity = gaussian_mixture(
        paths.linear(), weights=np.ones(1), means=mean[None], covariances=covariance[None]
    )
    y = np.linalg.solve(t**2 * covariance + (1 - t) ** 2 * np.eye(3), (x - t * mean).T).T
    _, _, data, _, score = everything(velocity, np.full(4, t), x)
    np.testing.assert_allclose(score, -y, rtol=1e-10)
    np.testing.assert_allclose(data, mean + t * y @ covariance, rtol=1e-10)
    n = 20_000
    z = np.asarray(sample(velocity, jax.random.split(jax.random.key(0), n))) - mean
    products = z[:, :, None] * z[:, None]
    assert np.all(np.abs(products.mean(0) - covariance) / products.std(0) * np.sqrt(n) < 4)


def test_data_on_a_line(x64):
    """A covariance without full rank leaves no density at t = 1, but no NaN either."""
    velocity = gaussian_mixture(
        paths.linear(),
        weights=np.ones(1),
        means=np.zeros((1, 2)),
        covariances=np.array([[[1.0, 0.0], [0.0, 0.0]]]),
    )
    x = jnp.array([[0.3, 0.2], [0.3, 0.0]])
    t = jnp.array([1.0, 1.0])
    assert velocity.interval[1] < 1
    last = jnp.full(2, velocity.interval[1])

    @jax.jit
    def read(velocity):
        total = jax.value_and_grad(lambda t, x: jnp.sum(velocity(t, x)), argnums=(0, 1))
        return total(t, x), posterior_mean(velocity, last, x)

    finite, mean = read(velocity)
    assert all(np.all(np.isfinite(a)) for a in jax.tree.leaves(finite))
    np.testing.assert_allclose(mean, [[0.3, 0], [0.3, 0]], atol=1e-3)


def test_diagonal_covariances_carry_no_axes(x64):
    """One variance a component or a number of the event: what the whole matrix says."""
    x = points(5, 4).reshape(5, 2, 2)
    means = np.random.default_rng(0).normal(size=(3, 2, 2))
    variances = np.random.default_rng(1).uniform(0.1, 2.0, (3, 4))

    def build(covariances):
        return gaussian_mixture(
            paths.linear(), weights=WEIGHTS.tolist(), means=means, covariances=covariances
        )

    for same in (
        (variances, variances.reshape(3, 2, 2), variances[:, :, None] * np.eye(4)),
        (variances[:, 0], variances[:, :1] * np.ones(4)),
    ):
        mixtures = [build(covariances) for covariances in same]
        assert [m.axes is None for m in mixtures[:2]] == [True, True]
        first, *others = (everything(m, TIMES, x) for m in mixtures)
        for other in others:
            for one, two in zip(first, other, strict=True):
                np.testing.assert_allclose(one, two, atol=1e-12)
        assert sample(mixtures[0], jax.random.split(jax.random.key(0), 2)).shape == (2, 2, 2)


def test_a_thousand_images(key):
    """Data that are points: small, and finite at `t = 1`, where the nearest of them is expected."""
    images = np.random.default_rng(0).uniform(-1, 1, (1000, 28, 28)).astype(np.float32)
    exact = gaussian_mixture(
        paths.linear(), weights=np.full(1000, 1e-3), means=images, covariances=np.zeros(1000)
    )
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(exact)) < 4e6
    t = np.float32([0.0, 0.1, 0.5, 0.95, 1.0, exact.interval[1]])
    x = t[:, None, None] * images[:6] + np.float32(0.3) * np.asarray(
        jax.random.normal(key, (6, 28, 28))
    )
    x[5] = x[4]

    @jax.jit
    def read(exact, t, x):
        def total(t, x):
            found = everything(exact, t, x)
            return sum(jnp.sum(a) for a in found), found

        again = jax.grad(lambda x: jnp.sum(exact.log_prob(t, x)))(x)
        slopes, found = jax.grad(total, argnums=(0, 1), has_aux=True)(t, x)
        return again, slopes, tuple(found)

    again, slopes, found = jax.tree.map(np.asarray, read(exact, t, x))
    log_prob, velocity, mean, noise, score = found

    a, s = np.asarray(t, float), np.maximum(1 - np.asarray(t, float), 1e-4)
    z, m = np.asarray(x, float).reshape(6, -1), images.reshape(1000, -1).astype(float)
    square = ((z[:, None] - a[:, None, None] * m) ** 2).sum(-1)
    log_joint = -square / (2 * s[:, None] ** 2) - 392 * np.log(2 * np.pi * s[:, None] ** 2)
    total = logsumexp(log_joint, axis=1, keepdims=True)
    expected = np.exp(log_joint - total) @ m
    left = (z - a[:, None] * expected) / s[:, None]

    def agrees(found, expected):
        np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=1e-4, atol=2e-4)

    np.testing.assert_allclose(log_prob, total[:, 0] + np.log(1e-3), rtol=1e-5)
    agrees(mean, expected)
    agrees(noise * s[:, None, None], left * s[:, None])
    agrees(score * s[:, None, None] ** 2, -left * s[:, None])
    np.testing.assert_allclose(again, score, rtol=1e-3, atol=1e-3 / s.min())
    np.testing.assert_array_equal(mean[4:], images[square[4:].argmin(1)])
    np.testing.assert_array_equal(velocity[4], velocity[5])
    agrees(velocity[:4], (expected - left)[:4])
    assert all(np.all(np.isfinite(slope)) for slope in slopes)


def test_results_keep_the_dtype_of_the_data():
    """The mixture's own precision and whole numbers say nothing of the result's."""
    exact = gaussian_mixture(
        paths.linear(), weights=[1], means=np.zeros((1, 2), int), covariances=[1]
    )
    t, x = np.ones(3, np.float32), np.ones((3, 2), np.float32)
    for dtype in (jnp.bfloat16, jnp.float32):
        found = jax.eval_shape(everything, exact, t.astype(dtype), x.astype(dtype))
        assert [a.dtype for a in found] == [jnp.float32, *4 * [dtype]]
    with jax.enable_x64(True):
        double = mixture(paths.linear())
        assert value(double, t, x).dtype == jnp.float32


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"weights": np.array([0.5, 0.5])}, r"; got \(2,\), \(3, 2\) and \(3, 2, 2\)$"),
        ({"weights": np.array(1.0)}, r"; got \(\), \(3, 2\) and \(3, 2, 2\)$"),
        ({"weights": np.full(3, 0.5)}, r"sum to one; got \[0\.5 0\.5 0\.5\], whose sum is 1\.5$"),
        ({"weights": np.array([1.5, -0.7, 0.2])}, r"sum to one; got \[ 1\.5 -0\.7  0\.2\]"),
        ({"weights": np.array([np.nan, 0.5, 0.5])}, "^weights hold a value that is not finite"),
        ({"means": MEANS * np.inf}, "^means hold a value that is not finite"),
        ({"covariances": np.full(3, np.nan)}, "^covariances hold a value that is not finite"),
        ({"covariances": np.ones((3, 3))}, r"; got \(3,\), \(3, 2\) and \(3, 3\)$"),
        ({"covariances": -COVARIANCES}, r"a covariance has the negative eigenvalue -0\.6"),
        ({"covariances": -np.ones(3)}, "a covariance has the negative eigenvalue -1$"),
        (
            {"covariances": COVARIANCES + np.array([[0, 1], [0, 0]])},
            "a covariance is not symmetric",
        ),
    ],
)
def test_errors(change, sentence):
    arguments = {"weights": WEIGHTS, "means": MEANS, "covariances": COVARIANCES, **change}
    with pytest.raises(ValueError, match=sentence):
        gaussian_mixture(paths.linear(), **arguments)


@pytest.mark.usefixtures("unchecked")
def test_other_events_and_times_are_refused():
    exact = mixture(paths.linear())
    for t, x in [((), (3, 2)), ((3,), (3, 1)), ((2,), (3, 2)), ((3, 2), (3, 2)), ((3,), (3, 2, 1))]:
        for call in (exact, exact.score, exact.log_prob):
            with pytest.raises(ValueError, match=r"takes t \[batch\] and x \[batch, 2\]$"):
                call(jnp.ones(t), jnp.ones(x))


def as_kinds(curve, times, known):
    alpha, sigma = (np.array([f(t) for t in times])[:, None] for f in curve[1:3])
    return {
        "velocity": known.velocity,
        "data": known.data,
        "noise": known.noise,
        "score": known.score,
        "salimans_ho": alpha * known.noise - sigma * known.data,
    }


@pytest.mark.parametrize("name", CURVES)
def test_every_prediction_becomes_every_other(name, x64):
    curve = CURVES[name]
    x, known = along_the_path(curve, TIMES)
    kinds = {kind: jnp.asarray(value) for kind, value in as_kinds(curve, TIMES, known).items()}

    @jax.jit
    def table(kinds):
        return {
            (source, target): convert(
                kinds[source], jnp.asarray(TIMES), x, path=curve.path, source=source, target=target
            )
            for source in KINDS
            for target in KINDS
        }

    for (source, target), got in table(kinds).items():
        np.testing.assert_allclose(
            got, kinds[target], atol=1e-8, rtol=1e-8, err_msg=f"{source} -> {target}"
        )


def salimans_ho(mixture, t, x):
    """Their v, by the posterior means."""
    share = mixture.path.schedule
    x0, x1 = mixture.noise(t, x), mixture.posterior_mean(t, x)
    return share.alpha(t)[:, None] * x0 - share.sigma(t)[:, None] * x1


def exact_network(mixture, t, x, *, key=None, kind="velocity"):
    """A network that predicts exactly; its parameters are the mixture."""
    read = {
        "velocity": mixture,
        "data": mixture.posterior_mean,
        "noise": mixture.noise,
        "score": mixture.score,
        "salimans_ho": partial(salimans_ho, mixture),
    }
    return read[kind](t, x)


def exact_velocity(path, kind):
    network = partial(exact_network, kind=kind)
    return from_network(network, mixture(path), path=path, prediction=kind)


@pytest.mark.parametrize("name", some_fast(CURVES, ("linear", "vp", "polynomial(1.5)")))
def test_from_network_of_every_prediction(name, x64):
    """Velocity, score and posterior mean through a network of each kind."""
    curve = CURVES[name]
    x, known = along_the_path(curve, TIMES)
    t = jnp.asarray(TIMES)

    @jax.jit
    def read(velocity):
        return velocity(t, x), score(velocity, curve.path)(t, x), posterior_mean(velocity, t, x)

    for kind in KINDS:
        got = read(exact_velocity(curve.path, kind))
        for a, b in zip(got, (known.velocity, known.score, known.data), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-7, rtol=1e-8, err_msg=kind)


@jax.jit
def value(velocity, t, x):
    return velocity(t, x)


@jax.jit
def with_slope(velocity, t, x):
    return jax.jvp(lambda t: velocity(t, x), (t,), (jnp.ones_like(t),))


PAIRS = [
    ("linear", "vp"),
    ("vp", "linear"),
    ("linear_vp", "cosine"),
    ("polynomial(1.5)", "linear(.1)"),
]
SLOW_PAIRS = [
    pytest.param(old, new, marks=pytest.mark.slow)
    for old in CURVES
    for new in CURVES
    if (old, new) not in PAIRS
]


@pytest.mark.parametrize(("old", "new"), [*PAIRS, *SLOW_PAIRS])
def test_change_of_path(old, new, x64):
    """The exact velocity of every path, read from that of another."""
    x, t = points(len(TIMES)), TIMES
    changed = change(mixture(CURVES[old].path), CURVES[old].path, CURVES[new].path)
    assert changed.path == CURVES[new].path
    low, high = changed.interval
    inside = (low <= TIMES) & (high >= TIMES)
    assert inside.sum() >= 3
    got, expected = (np.asarray(value(v, t, x)) for v in (changed, mixture(CURVES[new].path)))
    np.testing.assert_allclose(got[inside], expected[inside], rtol=1e-8, atol=1e-8)


def test_change_of_path_of_a_prediction(x64):
    """A network that predicts data on one path, run on another, with its derivative in t.

    Its own singular end is left out.
    """
    old, new = paths.linear(), paths.cosine()
    changed = change(exact_velocity(old, "data"), old, new)
    assert 0.99 < changed.interval[1] < 1
    x, t = points(len(TIMES)), TIMES
    expected = with_slope(mixture(new), t, x)
    np.testing.assert_allclose(with_slope(changed, t, x), expected, atol=1e-7)
    with pytest.raises(
        ValueError, match=r"^an affine path is needed, with a schedule; <function .* has none$"
    ):
        change(changed, old, lambda t, a, b: None)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("linear", jnp.float32),
        ("vp", jnp.float32),
        *(
            pytest.param(name, dtype, marks=pytest.mark.slow)
            for name in CURVES
            for dtype in (jnp.float32, jnp.float64)
            if dtype == jnp.float64 or name not in ("linear", "vp")
        ),
    ],
)
def test_no_nan_at_the_ends(name, dtype):
    """In value, and in the gradient in t, x and the parameters, of every kind and target."""
    path = CURVES[name].path
    with jax.enable_x64(dtype == jnp.float64):
        t, x = np.array([0.0, 1.0], dtype), np.ones((2, 2), dtype)
        exact = mixture(path)

        def total(w, t, x):
            converted = [
                convert(w * x, t, x, path=path, source=a, target=b) for a in KINDS for b in KINDS
            ]
            values = [*converted, exact(t, x), score(exact, path)(t, x)]
            return sum(jnp.sum(a) for a in values), values

        gradient = jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))
        for leaf in jax.tree.leaves(gradient(np.ones((), dtype), t, x)):
            assert leaf.dtype == dtype
            assert np.all(np.isfinite(leaf))


def test_conversion_to_itself_returns_the_value():
    value = jnp.array([[jnp.pi]])
    for kind in KINDS:
        same = convert(value, jnp.ones(1), value, path=paths.linear_vp(), source=kind, target=kind)
        assert same is value


def test_conversion_interval():
    path = paths.linear()
    assert conversion_interval(path, "data", "velocity") == (0.0, 0.9999)
    assert conversion_interval(path, "noise", "velocity") == (0.0001, 1.0)
    assert conversion_interval(path, "velocity", "data") == (0.0, 1.0)
    assert conversion_interval(path, "velocity", "score") == (0.0, 0.9999)
    assert conversion_interval(paths.linear(0.1), "data", "velocity") == (0.0, 1.0)
    jitted = []
    jax.jit(lambda: jitted.append(conversion_interval(paths.cosine(), "data", "noise")))()
    assert jitted == [conversion_interval(paths.cosine(), "data", "noise")]


NOSE = r"^prediction is 'nose' \(did you mean 'noise'\?\), but must be one of velocity, data, noise"
VELOCTY = (
    r"^source is 'velocty' \(did you mean 'velocity'\?\), but must be one of velocity, data, noise"
)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "received"),
    [
        (
            lambda: from_network(len, None, path=paths.linear(), prediction="nose"),
            r"^prediction is 'nose' \(did you mean 'noise'\?\), but must be one of velocity, data",
        ),
        (lambda: from_network(len, None, prediction="data"), "^prediction='data' needs the path"),
        (
            lambda: posterior_mean(from_network(len, None), None, None),
            "^the posterior mean needs the path",
        ),
        (
            lambda: conversion_interval(paths.linear(), "velocty", "data"),
            r"^source is 'velocty' \(did you mean 'velocity'\?\)",
        ),
        (
            lambda: conversion_interval(paths.linear(), "data", 3),
            "^target is 3, but must be one of",
        ),
        (lambda: conversion_interval(len, "data", "noise"), "^an affine path is needed, with a"),
    ],
)
def test_errors_name_what_they_got(call, received):
    with pytest.raises(ValueError, match=received):
        call()


def test_records():
    """A velocity is a pytree of its parameters; new ones do not retrace, and its repr is short."""
    traces = []

    def network(params, t, x, *, key=None, **cond):
        traces.append(None)
        return params["w"] * x

    run = jax.jit(lambda v, t, x: v(t, x))
    for w in (1.0, 2.0):
        v = from_network(network, {"w": jnp.float32(w)}, path=paths.vp(), prediction="noise")
        run(v, jnp.ones(2), jnp.ones((2, 2)))
    assert len(traces) == 1
    assert v.evaluations == 1
    assert "1 parameters" in repr(v)
    assert "noise" in repr(v)
    leaves, tree = jax.tree.flatten(v)
    assert len(leaves) == 1
    assert jax.tree.unflatten(tree, leaves).prediction == "noise"
    for path in (paths.linear(), paths.vp()):
        run(mixture(path), jnp.ones(2), jnp.ones((2, 2)))

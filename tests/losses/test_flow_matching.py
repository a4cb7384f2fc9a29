"""The loss: its floor, its gradient, its spaces and its errors."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import draws, losses, paths
from jaxflow.velocities import from_network, gaussian_mixture
from jaxflow.velocities.prediction import KINDS
from tests.problems import COVARIANCES, CURVES, MEANS, WEIGHTS


def test_every_factory_is_known():
    public = {n for n in losses.__all__ if inspect.isfunction(getattr(losses, n))}
    assert public - set(losses.flow_maps.__all__) == {
        "consistency_flow_matching",
        "contrastive",
        "cross_entropy",
        "discrete_consistency",
        "edits",
        "flow_and_score",
        "flow_matching",
        "generalised_kl",
        "learned_uncertainty",
        "maximum_likelihood",
        "mixed",
    }


def mixture(path, **change):
    arguments = {"weights": WEIGHTS, "means": MEANS, "covariances": COVARIANCES, **change}
    return gaussian_mixture(path, **arguments)


@pytest.mark.parametrize("s", [1.0, 0.25, 3.0])
def test_floor_of_the_independent_coupling(s):
    """`Var(u | x_t) = s^2 / ((1 - t)^2 + s^2 t^2)` a dimension, whose integral is `s pi / 2`.

    `(x_t, u)` is Gaussian with `Cov(u, x_t) = t s^2 - (1 - t)`, `Var u = 1 + s^2` and
    `Var x_t = (1 - t)^2 + s^2 t^2`; the variance left is their Schur complement. The exact velocity
    reaches the floor, nothing beats it, and any other velocity pays its squared distance.
    """
    n, d = 40_000, 2
    t = np.linspace(0, 1, 20_001)
    floor = np.trapezoid(s**2 / ((1 - t) ** 2 + (s * t) ** 2), t)
    assert floor == pytest.approx(s * np.pi / 2, rel=1e-6)
    path = paths.linear()
    exact = mixture(path, weights=np.ones(1), means=np.zeros((1, d)), covariances=np.full(1, s**2))
    loss = losses.flow_matching(lambda p, t, x, key=None: exact(t, x) + p, path)

    @jax.jit
    def examples(moved):
        x1 = s * jax.random.normal(jax.random.key(1), (n, d))
        batch = draws.standard(path)(jax.random.key(2), {"x1": x1})
        return loss(moved, None, batch)[1]["per_example"]

    per_example = np.asarray(examples(0.0), np.float64)
    z = (per_example.mean() - floor) / (per_example.std() / np.sqrt(n))
    assert abs(z) < 4
    assert per_example.shape == (n,)
    away = np.asarray(examples(0.3), np.float64) - per_example
    z = (away.mean() - 0.09) / (away.std() / np.sqrt(n))
    assert abs(z) < 4


def test_gradient_is_that_of_the_marginal_regression(key):
    """In expectation, though the targets are conditional: a joint chi-square over parameters."""
    path, n = paths.cosine(), 20_000
    exact = mixture(path)

    def network(w, t, x, *, key=None):
        return jnp.tanh(x @ w["a"] + t[:, None]) @ w["b"]

    w = {"a": jax.random.normal(key, (2, 3)), "b": jax.random.normal(key, (3, 2))}

    def difference(example):
        one = jax.tree.map(lambda a: a[None], example)
        conditional = jax.grad(lambda w: losses.flow_matching(network, path)(w, None, one)[0])(w)
        x = path(one["t"], one["x0"], one["x1"]).x

        def regression(w):
            return jnp.mean((network(w, one["t"], x) - exact(one["t"], x)) ** 2)

        both = jax.tree.map(jnp.subtract, conditional, jax.grad(regression)(w))
        return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(both)])

    @jax.jit
    def differences(keys):
        batch = draws.standard(path)(jax.random.key(2), {"x1": exact.sample(keys)})
        return jax.vmap(difference)(batch)

    rows = np.asarray(differences(jax.random.split(jax.random.key(1), n)), np.float64)
    mean, covariance = rows.mean(0), np.cov(rows.T) / n
    chi_square = mean @ np.linalg.solve(covariance, mean)
    assert abs(chi_square - len(mean)) / np.sqrt(2 * len(mean)) < 4


@pytest.mark.parametrize("name", ["linear", "cosine", "vp"])
def test_every_prediction_in_every_space(name, x64):
    """An exact network of any kind, regressed in any space: the error is that of the space."""
    curve = CURVES[name]
    path = curve.path
    exact = mixture(path)

    def of_pair(x0, x1):
        alpha, sigma = (np.array([f(s) for s in (0.2, 0.5, 0.7)])[:, None] for f in curve[1:3])
        return alpha * x0 - sigma * x1

    read = {
        "velocity": exact.__call__,
        "data": exact.posterior_mean,
        "noise": exact.noise,
        "score": exact.score,
        "salimans_ho": lambda t, x: of_pair(exact.noise(t, x), exact.posterior_mean(t, x)),
    }
    read = {kind: jax.jit(f) for kind, f in read.items()}
    t = np.array([0.2, 0.5, 0.7])
    x0, x1 = np.asarray(jax.random.normal(jax.random.key(0), (2, 3, 2)))
    batch = {"t": t, "x0": x0, "x1": x1, "cond": {}}

    @jax.jit
    def run(batch):
        sample = path(t, x0, x1)
        target = {"velocity": sample.u, "data": x1, "noise": x0, "score": sample.score}
        target["salimans_ho"] = of_pair(x0, x1)
        errors = {kind: (read[kind](t, sample.x) - target[kind]) ** 2 for kind in KINDS}
        return errors, {
            (prediction, regress or ""): losses.flow_matching(
                lambda p, t, x, key=None, k=prediction: read[k](t, x),
                path,
                prediction=prediction,
                regress=regress,
                weight=losses.weights.constant(),
            )(None, None, batch)
            for prediction in KINDS
            for regress in (None, *KINDS)
        }

    errors, told = run(batch)
    for (prediction, regress), (value, aux) in told.items():
        expected = np.mean(errors[regress or prediction], axis=1)
        np.testing.assert_allclose(aux["per_example"], expected, rtol=1e-6)
        np.testing.assert_allclose(value, expected.mean(), rtol=1e-6)


def shifted(params, t, x, *, key=None, label):
    return params * x + label[:, None]


def narrow(params, t, x, *, key=None):
    return x[:, :1]


def weight(t):
    return 1 + t


def test_weights_conditions_and_dtype():
    path = paths.linear()
    x0, x1 = jnp.zeros((2, 3)), jnp.ones((2, 3))
    batch = {
        "t": jnp.array([0.0, 0.5]),
        "x0": x0,
        "x1": x1,
        "cond": {"label": jnp.array([1.0, 3.0])},
    }
    _, aux = losses.flow_matching(shifted, path)(jnp.zeros(()), None, batch)
    np.testing.assert_allclose(aux["per_example"], [0.0, 4.0])
    _, aux = losses.flow_matching(shifted, path, weight=weight)(jnp.zeros(()), None, batch)
    np.testing.assert_allclose(aux["per_example"], [0.0, 6.0])
    half = {**batch, "x0": x0.astype(jnp.bfloat16), "x1": x1.astype(jnp.bfloat16)}
    value, aux = losses.flow_matching(shifted, path)(jnp.zeros((), jnp.bfloat16), None, half)
    assert value.dtype == aux["per_example"].dtype == jnp.float32


@pytest.mark.parametrize("prediction", KINDS)
@pytest.mark.parametrize("name", ["linear", "vp", "linear_vp", "polynomial(1.5)"])
def test_no_nan_at_the_ends(name, prediction):
    """At t = 0 and 1 the loss and its gradient are finite in every space."""
    path = CURVES[name].path
    x = jnp.ones((2, 2))
    batch = {"t": jnp.array([0.0, 1.0]), "x0": x, "x1": 2 * x}

    @jax.jit
    def run(w, batch):
        def total(w):
            values = [
                losses.flow_matching(
                    lambda w, t, x, key=None: w * x,
                    path,
                    prediction=prediction,
                    regress=space,
                    weight=losses.weights.constant(),
                )(w, None, batch)[0]
                for space in KINDS
            ]
            return sum(values), values

        return jax.value_and_grad(total, has_aux=True)(w)

    assert all(np.all(np.isfinite(a)) for a in jax.tree.leaves(run(np.float32(1.0), batch)))


def test_one_trace_and_a_record():
    traces = []

    def network(params, t, x, *, key=None):
        traces.append(None)
        return params * x

    loss = losses.flow_matching(network, paths.linear())
    run = jax.jit(lambda loss, params, batch: loss(params, None, batch)[0])
    x = jnp.ones((2, 2))
    for w in (1.0, 2.0):
        run(loss, jnp.float32(w), {"t": jnp.ones(2), "x0": x, "x1": x})
    assert len(traces) == 1
    leaves, tree = jax.tree.flatten(loss)
    assert leaves == []
    assert jax.tree.unflatten(tree, leaves) == loss
    assert "velocity" in repr(loss)


NOIS = r"^prediction is 'nois' \(did you mean 'noise'\?\), but must be one of velocity, data, noise"
DAT = (
    r"^regress is 'dat' \(did you mean 'data'\?\), but must be one of velocity, data, noise, "
    r"score, salimans_ho$"
)


def test_errors_name_what_they_got():
    path, x = paths.linear(), jnp.ones((2, 2))
    batch = {"t": jnp.ones(2), "x0": x, "x1": x}
    for call, received in [
        (lambda: losses.flow_matching(shifted, path, prediction="nois"), NOIS),
        (lambda: losses.flow_matching(shifted, path, regress="dat"), DAT),
        (
            lambda: losses.flow_matching(shifted, path)(None, None, {"x1": x}),
            "^the batch lacks t, x0: ",
        ),
        (
            lambda: losses.flow_matching(lambda p, t, x, key=None: x[:, :1], path)(
                None, None, batch
            ),
            r"^the network returns shape \(2, 1\) for data of shape \(2, 2\): ",
        ),
        (
            lambda: losses.flow_matching(shifted, len, prediction="data", regress="noise"),
            "^an affine path is needed, with a schedule; ",
        ),
    ]:
        with pytest.raises(ValueError, match=received):
            call()
    exact = from_network(lambda p, t, x, key=None: x, None, path=path)
    assert exact.path == path

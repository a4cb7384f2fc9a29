"""Losses that a few examples would make are refused, and the weights that mend them."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import couplings, draws, losses, paths, sources, times, velocities
from jaxflow.losses import weights
from jaxflow.types import Dependent
from jaxflow.velocities.prediction import KINDS
from tests.problems import CURVES

TABLE = {
    "sigma": weights.sigma(paths.linear(0.1)),
    "alpha": weights.alpha(paths.vp()),
    "determinant": weights.determinant(paths.linear_vp(), power=1.0),
    "constant": weights.constant(),
    "importance": weights.importance(times.mode(1.0)),
    "likelihood": weights.likelihood(paths.vp()),
    "sigmoid": weights.sigmoid(paths.linear(), -1.0, regress="data"),
    "min_snr": weights.min_snr(paths.cosine()),
    "edm": weights.edm(paths.linear_vp()),
}


def zero(params, t, x, *, key=None):
    return jnp.tanh(x) * 0.5


def mended(path, prediction, regress):
    """The loss with the weight that its refusal names, and whether it was refused."""
    try:
        return losses.flow_matching(zero, path, prediction=prediction, regress=regress), False
    except ValueError as error:
        told = str(error)
    asked = told.split("weight=")[1].split(", or losses.weights.constant()")[0]
    factors = [eval(each, {"losses": losses, "path": path}) for each in asked.split(" times ")]

    def weight(t):
        return math.prod(factor(t) for factor in factors)

    loss = losses.flow_matching(zero, path, prediction=prediction, regress=regress, weight=weight)
    return loss, True


def spread(loss, path, *, batches=5, n=4096):
    """The largest over the smallest of the losses of some batches."""
    x1 = 1.5 * jax.random.normal(jax.random.key(1), (batches, n, 2))
    draw = draws.standard(path)
    run = jax.jit(lambda key, x1: loss(None, None, draw(key, {"x1": x1}))[0])
    values = [float(run(jax.random.key(i), x1[i])) for i in range(batches)]
    return max(values) / min(values)


@jax.jit
def weights_at(weight, t):
    return weight(t)


def test_every_factory_is_in_the_table():
    assert set(weights.__all__) == set(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_contract(name):
    """One positive number a time, in at least float32; without leaves, and equal to its like."""
    weight = TABLE[name]
    line = np.linspace(0, 1, 6, dtype=np.float32)
    for t in (line, line.reshape(2, 3)):
        found = np.asarray(weights_at(weight, t))
        assert found.shape == t.shape
        assert np.all(np.isfinite(found) & (found >= 0))
        assert np.all(found.ravel()[1:-1] > 0)
        assert jax.eval_shape(weight, t.astype(jnp.bfloat16)).dtype == jnp.float32
    leaves, tree = jax.tree.flatten(weight)
    assert leaves == []
    assert jax.tree.unflatten(tree, leaves) == weight
    assert hash(weight) == hash(jax.tree.unflatten(tree, leaves))
    assert type(weight).__name__ in repr(weight)
    np.testing.assert_array_equal(weights.constant()(jnp.array([0.0, 0.3])), [1.0, 1.0])


@pytest.mark.parametrize(("prediction", "regress"), list(itertools.product(KINDS, KINDS)))
def test_a_loss_is_bounded_or_refused_and_mended(prediction, regress):
    """Of the linear path: what is refused swings by more than half, and mended by a few percent."""
    path = paths.linear()
    loss, refused = mended(path, prediction, regress)
    plain = losses.flow_matching(
        zero, path, prediction=prediction, regress=regress, weight=weights.constant()
    )
    assert refused == (spread(plain, path) > 1.5)
    assert spread(loss, path) < 1.25


@pytest.mark.parametrize("name", ["sigma", "alpha", "determinant"])
@pytest.mark.parametrize("power", [1.0, 2.0, 4.0])
def test_weights_are_powers_of_the_schedule(name, power, x64):
    curve, t = CURVES["vp"], np.array([0.1, 0.5, 0.9])
    share = {
        "sigma": curve.sigma,
        "alpha": curve.alpha,
        "determinant": lambda s: (
            curve.alpha(s) * curve.sigma_dot(s) - curve.sigma(s) * curve.alpha_dot(s)
        ),
    }[name]
    found = weights_at(getattr(weights, name)(curve.path, power=power), t)
    np.testing.assert_allclose(found, [abs(share(s)) ** power for s in t], rtol=1e-10)


def test_a_time_a_frame_weighs_each_frame(x64):
    """Also where batch and frames are equally many, which broadcasting would mistake."""
    rng = np.random.default_rng(0)
    x0, x1, t = rng.normal(size=(2, 2, 3)), rng.normal(size=(2, 2, 3)), rng.uniform(size=(2, 2))
    batch = {"x0": jnp.asarray(x0), "x1": jnp.asarray(x1), "t": jnp.asarray(t)}
    loss = losses.flow_matching(
        lambda p, t, x, key=None: jnp.zeros_like(x),
        paths.linear(),
        weight=losses.weights.sigma(paths.linear()),
    )
    expected = ((1 - t[..., None]) ** 2 * (x1 - x0) ** 2).mean((1, 2))
    told = jax.jit(loss.__call__)(None, None, batch)[1]
    np.testing.assert_allclose(told["per_example"], expected, rtol=1e-12)


@pytest.mark.parametrize("weight", [lambda t: jnp.ones(2), lambda t: 1.0, lambda t: t[:, None]])
def test_a_weight_of_another_shape_is_refused(weight):
    batch = {"x0": jnp.zeros((3, 2)), "x1": jnp.ones((3, 2)), "t": jnp.ones(3)}
    with pytest.raises(ValueError, match=r"the weight of times of shape \(3,\) has shape"):
        losses.flow_matching(zero, paths.linear(), weight=weight)(None, None, batch)


def test_no_score_of_dependent_pairs(key):
    """Under exact transport from N(0, 1) to N(0, 9) the score at t = .5, x = 1 is -1/4, and the
    formula says -1: it is refused, and the path keeps it None.
    """
    path = paths.linear()
    batch = {"x1": 3 * jax.random.normal(key, (8, 1))}
    pairs = {
        "transport": draws.standard(path, coupling=couplings.optimal_transport()),
        "function": draws.standard(path, coupling=lambda key, x0, x1, cond: (x0, x1, cond)),
        "uniform": draws.standard(path, source=sources.uniform()),
    }
    score = losses.flow_matching(zero, path, prediction="score", regress="noise")
    for name, draw in pairs.items():
        drawn = jax.jit(draw.__call__)(key, batch)
        assert drawn["z"] == Dependent(), name
        assert path(drawn["t"], drawn["x0"], drawn["x1"], drawn["z"]).score is None
        with pytest.raises(ValueError, match="no score is known where x0"):
            score(None, None, drawn)
    draw = jax.jit(draws.standard(path).__call__)
    given = draw(key, {**batch, "x0": batch["x1"] + 1})
    with pytest.raises(ValueError, match="no score is known where x0"):
        score(None, None, given)
    drawn = draw(key, batch)
    assert drawn["z"] is None
    drawn = jax.tree.map(np.asarray, drawn)
    sample = jax.jit(path.__call__)(drawn["t"], drawn["x0"], drawn["x1"], drawn["z"])
    np.testing.assert_allclose(sample.score[:, 0], -drawn["x0"][:, 0] / (1 - drawn["t"]), rtol=1e-5)
    assert np.isfinite(jax.jit(score.__call__)(None, None, drawn)[0])


SPACES = ("noise", "data", "velocity", "score", "salimans_ho")


@pytest.mark.parametrize("path", [paths.linear(), paths.vp(), paths.cosine()])
def test_a_weight_of_the_noise_weighs_alike_in_every_space(path, x64):
    """The weighed error of one prediction is the same number, whatever space it is squared in."""
    makes = (
        weights.likelihood,
        weights.min_snr,
        weights.edm,
        lambda path, regress: weights.sigmoid(path, 0.5, regress=regress),
    )

    @jax.jit
    def weighed_by(t):
        sample = path(t, jnp.full((5, 1), 0.7), jnp.full((5, 1), -0.4))
        noise, weighed = sample.x0 + 0.3, []
        for space in SPACES:
            kinds = {"path": path, "source": "noise", "target": space}
            target = velocities.convert(sample.x0, t, sample.x, **kinds)
            predicted = velocities.convert(noise, t, sample.x, **kinds)
            error = jnp.square(predicted - target)[:, 0]
            weighed.append([make(path, regress=space)(t) * error for make in makes])
        return weighed

    first, *others = weighed_by(np.linspace(0.1, 0.9, 5))
    for weighed in others:
        for each, expected in zip(weighed, first, strict=True):
            np.testing.assert_allclose(each, expected, rtol=1e-9)


def test_weights_are_the_papers(x64):
    """Kingma & Gao's by the log ratio, Hang's and Karras' tables, at times of three paths."""
    t = np.linspace(0.05, 0.95, 19)
    for path in (paths.linear(), paths.vp(), paths.linear_vp()):
        made = (
            weights.likelihood(path, regress="noise"),
            weights.sigmoid(path, -1.5, regress="noise"),
            weights.min_snr(path, 5.0, regress="data"),
            weights.edm(path, 0.7),
        )
        found, log_snr, rate = jax.tree.map(np.asarray, weights_and_ratio(path, made, t))
        snr, ratio = np.exp(log_snr), np.exp(-log_snr / 2)
        np.testing.assert_allclose(found[0], rate / 2, rtol=1e-9)
        expected = rate / 2 / (1 + np.exp(log_snr + 1.5))
        np.testing.assert_allclose(found[1], expected, rtol=1e-9)
        np.testing.assert_allclose(found[2], np.minimum(snr, 5.0), rtol=1e-9)
        np.testing.assert_allclose(found[3], (ratio**2 + 0.49) / (0.7 * ratio) ** 2, rtol=1e-9)


@jax.jit
def weights_and_ratio(path, made, t):
    """Weights, and the logarithm of the signal-to-noise ratio with its slope."""

    def log_snr(t):
        return 2 * jnp.log(path.schedule.alpha(t) / path.schedule.sigma(t))

    slopes = jax.jvp(log_snr, (t,), (jnp.ones_like(t),))
    return [weight(t) for weight in made], *slopes


def test_the_likelihoods_weight_bounds_the_likelihood(x64):
    """Of unit normal data, whose noise has the posterior variance `alpha^2 = sigmoid(lambda)` where
    a path preserves variance: the bound is `1/2 int sigmoid(lambda) d lambda`.
    """
    path = paths.cosine()
    t = np.linspace(0.001, 0.999, 4001)
    made = [weights.likelihood(path, regress="noise")]
    (weight,), log_snr, _ = jax.tree.map(np.asarray, weights_and_ratio(path, made, t))
    total = np.trapezoid(weight * np.sin(np.pi / 2 * t) ** 2, t)
    exact = 0.5 * (np.logaddexp(0, log_snr[-1]) - np.logaddexp(0, log_snr[0]))
    np.testing.assert_allclose(total, exact, rtol=1e-3)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: weights.sigmoid(paths.linear(), math.nan), "finite bias; got nan"),
        (lambda: weights.min_snr(paths.linear(), 0.0), "gamma > 0; got 0.0"),
        (lambda: weights.edm(paths.linear(), -1.0), "sigma_data > 0; got -1.0"),
        (lambda: weights.likelihood(paths.linear(), regress="velocty"), "did you mean 'velocity'"),
    ],
)
def test_wrong_weights_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()

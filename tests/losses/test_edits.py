"""The loss of edits against exact expectations over all sequences of two letters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
from jax.tree_util import Partial

from jaxflow import draws, losses, paths, sources
from tests.sequences import CASES, Exact, from_empty

_CUT = 3e-4  # nats that the end of the path's interval takes from the integral


def batch_of(exact, t):
    """Every point of the path there is."""
    t = jnp.full(len(exact.z), t)
    return {"t": t, **{k: jnp.asarray(getattr(exact, k)) for k in ("x0", "x1", "z")}}


def evaluated(exact):
    """`(params, t) -> the loss of every point`, compiled once."""
    loss = losses.edits(Partial(exact.network()), exact.path)

    @jax.jit
    def each(params, t):
        return loss(params, None, batch_of(exact, t))[1]["per_example"]

    return each


def noisy(said, size, seed=0):
    noise = np.random.default_rng(seed).normal(size=(100_000,)) * size
    return {k: v + noise[: v.size].reshape(v.shape) for k, v in said.items()}


@pytest.mark.parametrize("name", CASES)
def test_the_exact_rates_are_the_minimum(name, x64):
    """Their gradient is zero, and all others' loss is more."""
    exact, t = CASES[name](), 0.35
    each, weights = evaluated(exact), exact.shares(t)[0]
    said = exact.said(exact.rates(t))

    @jax.jit
    @jax.value_and_grad
    def mean(params):
        return jnp.sum(weights * each(params, t))

    least, gradient = mean(said)
    for name, slope in gradient.items():
        np.testing.assert_allclose(slope, 0.0, atol=1e-12, err_msg=name)
    for seed in range(3):
        assert mean(noisy(said, 0.1, seed))[0] > least
    gradient = mean(noisy(said, 0.1))[1]
    assert np.abs(gradient["log_rates"]).max() > 1e-3


@pytest.mark.parametrize("name", CASES)
def test_it_is_never_negative(name, x64):
    """For any point of the path, where several missing places have one edit as well."""
    exact = CASES[name]()
    assert exact.counts.max() > 1
    each = evaluated(exact)
    for seed in range(5):
        apart = each(noisy(exact.said(exact.rates(0.5)), 1.0, seed), 0.5)
        assert -1e-12 < apart.min() < apart.max() < np.inf


@pytest.mark.parametrize("data", [(), (0, 1), (1, 1, 1)])
def test_it_is_zero_where_the_rates_are_those_of_the_point(data, x64):
    """Of one datum that is of every point but where it is not known which of its letters is there;
    two that are missing from one place may be alike.
    """
    exact = Exact(paths.edits(2, source=sources.mask(2)), [((), data)], [1.0], 3)
    rates = exact.rates(0.7)
    apart = evaluated(exact)(exact.said(rates), 0.7)
    known = np.all(np.isclose(exact.counts, rates[exact.at]), axis=(1, 2, 3))
    assert np.all(known) == (data != (1, 1, 1))
    assert np.any(exact.counts[known] > 1) == (data == (1, 1, 1))
    np.testing.assert_allclose(apart[known], 0.0, atol=1e-13)
    assert np.all(apart[~known] > 0.1)


@pytest.mark.parametrize("size", [0.0, 0.5])
def test_its_integral_bounds_the_likelihood(size, x64):
    """Of a model whose law is known by the equation of Kolmogorov: `-log p(x1)` of every datum.

    At the exact rates it is that, for sequences without a letter twice: of others it also tells
    which of the letters that are alike came first.
    """
    exact = from_empty()
    each = evaluated(exact)

    def model(kappa):
        return noisy(exact.said(exact.rates(kappa)), size)

    def rates_of(said):
        def law(logits):
            weights = np.exp(logits)
            return weights / np.maximum(weights.sum(-1, keepdims=True), 1e-300)

        rates = np.zeros((len(exact.states), exact.room + 1, 3, exact.letters))
        rates[:, :, 0] = np.exp(said["log_rates"][:, :, :1]) * law(said["insert"])
        return rates

    def slope(kappa, p):
        return exact.generator(rates_of(model(kappa))) @ p / (1 - kappa)

    start = np.eye(len(exact.states))[exact.number[()]]
    end = scipy.integrate.solve_ivp(slope, (0, 1 - 1e-7), start, rtol=1e-8, atol=1e-12).y[:, -1]
    nodes, shares = np.polynomial.legendre.leggauss(24)
    bound = np.zeros(len(exact.data()))
    for left, share in zip((nodes + 1) / 2, shares / 2, strict=True):
        kappa = 1 - left**3  # the rates of what is left at the end have its logarithm
        apart = np.asarray(each(model(kappa), kappa))
        of_points = exact.shares(kappa)[0] / exact.weights * apart
        np.add.at(bound, exact.of_pair, 3 * left**2 * share * of_points)
    data = [exact.number[tuple(t for t in row if t != 2)] for row in _rows(exact)]
    slack = bound + np.log(end[data])
    assert np.all(slack > -_CUT)
    if not size:
        np.testing.assert_allclose(end, exact.data(), atol=1e-6)
        one_way = [len(set(exact.states[i])) == len(exact.states[i]) for i in data]
        np.testing.assert_allclose(slack[one_way], 0.0, atol=_CUT)
        assert np.all(slack[~np.array(one_way)] > 0.4)


def _rows(exact):
    first = np.unique(exact.of_pair, return_index=True)[1]
    return exact.x1[first].tolist()


def test_it_is_a_loss_of_a_drawn_batch():
    """The mean over examples, weighted by the time where that is wanted, in one trace."""
    path = paths.edits(2, source=sources.mask(2))
    x1 = jnp.array([[0, 1, 2, 2], [1, 1, 1, 0], [2, 2, 2, 2]])
    batch = draws.standard(path)(jax.random.key(0), {"x1": x1})

    def network(params, t, x, *, key=None):
        logits = jnp.zeros((*x.shape, 2))
        logits = jnp.pad(logits, ((0, 0), (1, 0), (0, 0)))
        return {
            "log_rates": jnp.zeros((*logits.shape[:2], 3)) + params,
            "insert": logits,
            "substitute": logits,
        }

    def weight(t):
        return 2 * jnp.ones_like(t)

    @jax.jit
    def both(params, batch):
        plain, doubled = losses.edits(network, path), losses.edits(network, path, weight=weight)
        return jax.value_and_grad(plain, has_aux=True)(params, None, batch), doubled(
            params, None, batch
        )

    ((value, aux), slope), (doubled, _) = both(jnp.float32(0.0), batch)
    np.testing.assert_allclose(value, jnp.mean(aux["per_example"]))
    np.testing.assert_allclose(doubled, 2 * value, rtol=1e-6)
    (_, slope), _ = both(jnp.float32(0.0), {**batch, "t": jnp.array([0.0, 1.0, 1.0])})
    assert jnp.isfinite(slope)


def test_refusals(unchecked):
    path = paths.edits(2)
    x = jnp.array([[0, 1, 2]])
    batch = {"x0": x, "x1": x, "t": jnp.array([0.5]), "z": path.latent(jax.random.key(0), x)}

    def network(params, t, x, *, key=None):
        return x

    loss = losses.edits(network, path)
    with pytest.raises(ValueError, match="a network of edits returns arrays of the shapes"):
        loss(None, None, batch)
    with pytest.raises(ValueError, match=r"without batch\['mask'\]"):
        loss(None, None, {**batch, "mask": x < 2})
    with pytest.raises(ValueError, match="the batch lacks t"):
        loss(None, None, {"x0": x, "x1": x})
    with pytest.raises(ValueError, match="is no path of edits"):
        losses.edits(network, paths.mixture())
    with pytest.raises(TypeError, match="call it"):
        losses.edits(network, paths.edits)

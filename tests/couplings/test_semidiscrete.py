"""Semidiscrete transport against the quantiles of a line, Sinkhorn's plan, and itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxflow import sources
from jaxflow.couplings import Semidiscrete, marginal_error, semidiscrete, sinkhorn_plan

NORMAL = sources.normal()
LINE = jnp.asarray(np.random.default_rng(0).normal(1.0, 2.0, (32, 1)), jnp.float32)
LABEL = jnp.arange(32)
FEW, MANY = 1000, 16_000


def masses_on_the_line(fitted):
    """Of each row's cell, by the normal distribution function; rows in order."""
    order = np.argsort(np.asarray(fitted.x1).ravel())
    x = np.asarray(fitted.x1, float).ravel()[order]
    g = np.asarray(fitted.potentials, float)[order]
    edges = np.full(len(x) + 1, np.inf)
    edges[0] = -np.inf
    between = ((x**2 - g)[1:] - (x**2 - g)[:-1]) / (2 * np.diff(x))
    assert (np.diff(between) > 0).all(), "a row has no cell"
    edges[1:-1] = between
    return np.diff(stats.norm.cdf(edges))


masses_of = jax.jit(lambda fitted, x0: fitted.masses(x0))
rows_of = jax.jit(lambda fitted, keys, x0: fitted.rows(keys, x0))


@pytest.fixture(scope="module")
def hard():
    """Fits of few and of many steps."""
    return {
        k: semidiscrete(jax.random.key(0), NORMAL, LINE, {"label": LABEL}, steps=k, batch_size=64)
        for k in (FEW, MANY)
    }


def test_error_falls_as_averages_do(hard):
    """Cells on the line have their mass; `chi^2` is about `2 N / (K B)`, and 16 times less."""
    found = {k: 32 * ((masses_on_the_line(f) - 1 / 32) ** 2).sum() for k, f in hard.items()}
    for k, square in found.items():
        assert square < stats.chi2.isf(1e-4, 31) * 2 / (64 * k), k
    assert found[MANY] < found[FEW] / 4


def test_transport_is_monotone(hard):
    """On a line the optimum sends the source's order to the data's: quantile to quantile."""
    u = np.linspace(0.002, 0.998, 500)
    rows = hard[MANY].rows(None, jnp.asarray(stats.norm.ppf(u)[:, None], jnp.float32))
    found = np.asarray(LINE).ravel()[rows]
    assert (np.diff(found) >= 0).all()
    expected = np.sort(np.asarray(LINE).ravel())[np.minimum((u * 32).astype(int), 31)]
    assert (found == expected).mean() > 0.95


def test_reported_error_is_that_of_the_masses(hard, key):
    """Of potentials that are off, by exact masses; without bias, so a z-score over many."""
    fitted = hard[FEW]
    off = Semidiscrete(
        fitted.x1,
        {},
        fitted.potentials + 0.3 * jnp.sin(LABEL),
        fitted.unit,
        fitted.error,
        None,
        0.0,
    )
    quantiles = stats.norm.ppf((np.arange(100_000) + 0.5) / 100_000)
    masses = np.asarray(masses_of(off, np.asarray(quantiles[:, None], np.float32)))
    exact = 32 * np.sum((masses - 1 / 32) ** 2)
    assert exact > 0.05
    many = jax.vmap(lambda key: marginal_error(key, NORMAL, off, batches=4, batch_size=64))
    found = np.asarray(jax.jit(many)(jax.random.split(key, 200)))
    assert abs(found.mean() - exact) < 4 * found.std() / np.sqrt(200) + 1e-3
    for fit in hard.values():
        assert abs(fit.error) < 0.1


@pytest.mark.parametrize("epsilon", [0.02, 0.2])
def test_entropic_is_sinkhorns_between_data(epsilon):
    """From a source of rows: `p(x0_i)` is a row of the plan of sources and data."""
    x0 = jax.random.normal(jax.random.key(5), (24, 2))
    x1 = jax.random.normal(jax.random.key(6), (16, 2)) + 0.5
    fitted = semidiscrete(
        jax.random.key(0), sources.data(x0), x1, steps=4000, epsilon=epsilon, batch_size=64
    )
    cost = jnp.asarray(((np.asarray(x0)[:, None] - np.asarray(x1)[None]) ** 2).sum(-1))
    plan = sinkhorn_plan(cost, epsilon * fitted.unit, tolerance=1e-5, iterations=10_000)
    found = np.stack([masses_of(fitted, x[None]) for x in np.asarray(x0)])
    assert 0.5 * np.abs(found / 24 - np.exp(plan.log_plan)).sum() < 0.02
    np.testing.assert_allclose(found.mean(0), 1 / 16, rtol=0.15)


def test_hard_is_the_limit(hard, key):
    """With the same potentials, nearly every draw of little entropy is the hard one."""
    fit = hard[MANY]
    keys, x0 = jax.random.split(key, 500), jax.random.normal(key, (500, 1))
    wanted = np.asarray(rows_of(fit, keys, x0))
    shares = []
    for epsilon in (0.1, 0.01, 1e-5):
        soft = Semidiscrete(fit.x1, fit.cond, fit.potentials, fit.unit, fit.error, None, epsilon)
        shares.append(np.mean(np.asarray(rows_of(soft, keys, x0)) == wanted))
        assert np.sum(masses_of(soft, x0)) == pytest.approx(1, rel=1e-5)
    assert shares == sorted(shares)
    assert shares[0] < 0.9
    assert shares[-1] > 0.99
    np.testing.assert_allclose(masses_of(soft, x0), masses_of(fit, x0), atol=0.01)


def test_drawn_rows_follow_their_probabilities(key):
    """Chi-square of the draws from one source, a key each."""
    fitted = semidiscrete(jax.random.key(0), NORMAL, LINE[:8], steps=50, epsilon=0.3)
    x0 = jnp.full((8000, 1), 0.3)
    share = np.asarray(masses_of(fitted, x0[:1]), float)
    counts = np.bincount(rows_of(fitted, jax.random.split(key, 8000), x0), minlength=8)
    square = ((counts - 8000 * share) ** 2 / (8000 * share)).sum()
    assert square < stats.chi2.isf(1e-4, 7)


def test_coupling_gives_each_row_its_mass(hard, key):
    """Rows come with their conditions, each as often; the batch's own data are replaced."""
    coupling = jax.jit(hard[MANY].__call__)
    n = 32 * 200
    x0 = jax.random.normal(key, (n, 1))
    y0, y1, cond = coupling(key, x0, jnp.zeros((n, 1)), {"label": jnp.zeros(n, int)})
    np.testing.assert_array_equal(y0, x0)
    np.testing.assert_array_equal(y1, LINE[cond["label"]])
    counts = np.bincount(cond["label"], minlength=32)
    # The fit's own error adds 2 n / (K B) to the variance of each count.
    square = ((counts - 200) ** 2 / 200).sum() / (1 + 2 * n / (MANY * 64))
    assert square < stats.chi2.isf(1e-4, 31)


def test_saved_and_loaded(hard):
    """Its leaves in a structure that no fit was needed for; new arrays do not retrace."""
    leaves = jax.tree.leaves(hard[MANY])
    shape = jax.eval_shape(
        lambda: semidiscrete(jax.random.key(0), NORMAL, LINE, {"label": LABEL}, steps=MANY)
    )
    loaded = jax.tree.unflatten(jax.tree.structure(shape), [np.asarray(a) for a in leaves])
    assert jax.tree.map(lambda a: (a.shape, a.dtype), loaded) == jax.tree.map(
        lambda a: (a.shape, a.dtype), shape
    )
    traces = []

    @jax.jit
    def run(coupling, x0):
        traces.append(None)
        return coupling(jax.random.key(0), x0, x0, {"label": LABEL})

    x0 = jnp.linspace(-2, 2, 32)[:, None]
    for fit in (hard[MANY], loaded):
        jax.tree.map(np.testing.assert_array_equal, run(fit, x0), run(hard[MANY], x0))
    run(hard[FEW], x0)
    assert len(traces) == 1


def test_samples_of_several_parts(key):
    """Each row as a whole, by the distance over all parts; a cost of one's own is asked."""

    def first(x0, x1):
        return (x0["a"] - x1["a"].T) ** 2

    x1 = {"a": LINE, "b": jnp.stack([LINE.ravel(), -LINE.ravel()], 1)}
    both = sources.product({"a": NORMAL, "b": NORMAL})
    for cost in (None, first):
        fitted = semidiscrete(key, both, x1, steps=30, cost=cost)
        x0 = {"a": jnp.ones((5, 1)), "b": jnp.zeros((5, 2))}
        _, y1, _ = fitted(key, x0, x0, {})
        np.testing.assert_array_equal(y1["b"][:, 0], y1["a"][:, 0])
        assert (y1["a"].shape, y1["b"].shape) == ((5, 1), (5, 2))
        scores = fitted.potentials - ((x0["a"] - LINE.T) ** 2)
        if cost is None:
            scores -= ((x0["b"][:, None] - x1["b"][None]) ** 2).sum(-1)
        np.testing.assert_array_equal(y1["a"], LINE[jnp.argmax(scores, 1)])


def test_equal_rows_do_no_harm(key):
    """No spread and no gap: rates of zero, nothing that is not finite."""
    fitted = semidiscrete(key, NORMAL, jnp.zeros((4, 2)), steps=10, epsilon=0.1)
    assert np.all(np.isfinite(fitted.potentials))
    np.testing.assert_allclose(fitted.masses(jnp.ones((3, 2))), 0.25, atol=1e-6)


@pytest.mark.usefixtures("unchecked")
def test_errors(key, hard):
    wrong = {
        r"^epsilon is -1: it is 0, for hard assignments, or positive": {"epsilon": -1},
        r"^semidiscrete needs steps and batch_size of at least 1; got 0 and 256": {"steps": 0},
        r"^semidiscrete needs at least two rows; got 1": {"x1": LINE[:1]},
        r"^semidiscrete met a value that is not finite in x1": {"x1": LINE * jnp.nan},
        r"^condition 'label' has shape \(32,\), but the batch is 3": {
            "x1": LINE[:3], "cond": {"label": LABEL}
        },
    }  # fmt: skip
    for sentence, options in wrong.items():
        given = {"x1": LINE, "steps": 5, **options}
        with pytest.raises(ValueError, match=sentence):
            semidiscrete(key, NORMAL, given.pop("x1"), given.pop("cond", None), **given)
    x = jnp.ones((4, 1))
    with pytest.raises(ValueError, match=r"^x0 has event shape \(2,\), but the rows .* \(1,\)$"):
        hard[FEW](key, jnp.ones((4, 2)), x, {"label": LABEL[:4]})
    with pytest.raises(ValueError, match=r"^the batch has the conditions \[\], but .* \['label'\]"):
        hard[FEW](key, x, x, {})
    with pytest.raises(ValueError, match=r"^marginal_error needs batches and batch_size of at"):
        marginal_error(key, NORMAL, hard[FEW], batches=0)

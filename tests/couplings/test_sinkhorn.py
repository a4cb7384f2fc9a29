"""Entropic transport against its optimality conditions, closed forms and the exact solver."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg, stats
from scipy.optimize import linear_sum_assignment

from jaxflow import couplings, draws, paths
from jaxflow.couplings import sinkhorn_plan

solve = jax.jit(sinkhorn_plan, static_argnames=("iterations", "tolerance"))
plan_of = jax.jit(lambda coupling, x0, x1: coupling.plan(x0, x1))
X0, X1 = np.random.default_rng(0).normal(size=(2, 40, 3)) * [[[1.0]], [[0.6]]]
COST = ((X0[:, None] - X1[None]) ** 2).sum(-1)


def marginals(plan):
    mass = np.exp(np.asarray(plan.log_plan, np.float64))
    return mass.sum(1), mass.sum(0)


@pytest.mark.parametrize("shape", [(40, 40), (40, 23), (7, 40)])
def test_marginals_and_error(shape, x64):
    """Columns to rounding, rows within the error; it falls with the tolerance."""
    n, m = shape
    for tolerance in (1e-1, 1e-3, 1e-8):
        plan = solve(COST[:n, :m], 0.2, tolerance=tolerance)
        rows, columns = marginals(plan)
        np.testing.assert_allclose(columns, 1 / m, rtol=1e-10)
        assert np.abs(rows - 1 / n).sum() == pytest.approx(float(plan.error), rel=1e-6, abs=1e-12)
        assert plan.error <= tolerance
        assert plan.converged
    short = solve(COST[:n, :m], 0.001, iterations=5, tolerance=1e-9)
    rows, columns = marginals(short)
    assert not short.converged
    np.testing.assert_allclose(columns, 1 / m, rtol=1e-10)
    assert np.abs(rows - 1 / n).sum() == pytest.approx(float(short.error), rel=1e-6)
    assert 1e-9 < short.error < 2


@pytest.mark.parametrize("strength", [0.1, 1.0, 30.0])
def test_unbalanced_optimality(strength, x64):
    """The objective's gradient in every entry is zero (it is convex)."""
    plan = solve(COST[:, :30], 0.3, unbalanced=strength, tolerance=1e-12)
    log_plan = np.asarray(plan.log_plan)
    rows, columns = marginals(plan)
    gradient = COST[:, :30] + 0.3 * (log_plan + np.log(40 * 30))
    gradient += strength * (np.log(40 * rows)[:, None] + np.log(30 * columns))
    np.testing.assert_allclose(gradient, 0, atol=1e-9)
    assert plan.converged


def test_mass_of_a_single_pair(x64):
    """`m c + (epsilon + 2 tau) (m log m - m)` is least at `log m = -c / (epsilon + 2 tau)`."""
    plan = solve(np.array([[3.0]]), 0.5, unbalanced=2.0, tolerance=1e-12)
    np.testing.assert_allclose(plan.log_plan, -3.0 / 4.5, rtol=1e-10)


def test_strong_penalties_are_balanced(x64):
    """Linearly in their inverse."""
    balanced = np.exp(solve(COST, 0.3, tolerance=1e-12).log_plan)
    far = [
        np.abs(np.exp(solve(COST, 0.3, unbalanced=t, tolerance=1e-12).log_plan) - balanced).sum()
        for t in (1e4, 1e5)
    ]
    assert far[0] < 1e-3
    assert far[1] == pytest.approx(far[0] / 10, rel=0.01)


def test_plan_between_gaussians(x64):
    """Cov(x0, x1) by Janati et al., 2020, Theorem 1, with `epsilon = 2 sigma^2`, on quantiles.

    In one dimension: joint precision `-2 / epsilon` off the diagonal makes `2 c^2 + epsilon c
    = 2 a b`.
    """
    for side, tolerance in ((10, 0.01), (20, 0.003)):
        line = stats.norm.ppf((np.arange(side) + 0.5) / side)
        z = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
        x0 = z @ np.array([[1.0, 0.3], [0.0, 0.7]])
        x1 = z @ np.array([[0.5, -0.4], [0.0, 1.2]]) + 2.0
        a, b = np.cov(x0.T, bias=True), np.cov(x1.T, bias=True)
        cost = ((x0[:, None] - x1[None]) ** 2).sum(-1)
        for epsilon in (1.0, 4.0):
            root = linalg.sqrtm(a)
            inner = linalg.sqrtm(4 * root @ b @ root + epsilon**2 / 4 * np.eye(2))
            expected = (root @ inner @ np.linalg.inv(root) - epsilon / 2 * np.eye(2)) / 2
            mass = np.exp(solve(cost, epsilon, tolerance=1e-9).log_plan)
            found = x0.T @ mass @ (x1 - 2.0)
            assert np.abs(found - expected).max() < tolerance, (side, epsilon)
    for epsilon in (0.5, 4.0):
        x0, x1 = line[:, None], 0.5 * line[None]
        mass = np.exp(solve((x0 - x1) ** 2, epsilon, tolerance=1e-9).log_plan)
        a, b = np.var(x0), np.var(x1)
        expected = (-epsilon + np.sqrt(epsilon**2 + 16 * a * b)) / 4
        assert (x0 * mass * x1).sum() == pytest.approx(expected, abs=0.005)


def test_cost_nears_the_exact_one():
    """From above the optimum, within a hundredth of it; in single precision."""
    exact = COST[linear_sum_assignment(COST)].mean()
    costs = [
        (np.exp(solve(COST.astype(np.float32), e, iterations=5000).log_plan) * COST).sum()
        for e in (1.0, 0.1, 0.005)
    ]
    assert costs == sorted(costs, reverse=True)
    assert exact * (1 - 2e-3) < costs[-1] < 1.01 * exact
    assert costs[0] > 1.5 * exact


def vicious():
    rng = np.random.default_rng(1)
    far = X0.copy()
    far[0] += 1e3
    return {
        "equal": np.ones((40, 40)),
        "zero": np.zeros((40, 40)),
        "outlier": ((far[:, None] - X1[None]) ** 2).sum(-1),
        "signed": rng.normal(size=(40, 40)),
        "one bad column": COST + 1e6 * (np.arange(40) == 0),
        "huge": 1e12 * COST,
        "tiny": 1e-12 * COST,
        "same points": ((X0[:, None] - X0[None]) ** 2).sum(-1),
    }


@pytest.mark.parametrize("unbalanced", [None, 0.01])
def test_vicious_costs(unbalanced):
    """Finite plans in single precision, whose columns hold their mass where they must."""
    for name, cost in vicious().items():
        cost = cost.astype(np.float32)
        unit = np.abs(cost).mean() or np.float32(1)
        penalty = None if unbalanced is None else unbalanced * unit
        plan = solve(cost, 0.02 * unit, unbalanced=penalty, iterations=3000)
        assert np.all(np.isfinite(plan.log_plan)), name
        if unbalanced is None:
            assert plan.converged, name
            np.testing.assert_allclose(marginals(plan)[1], 1 / 40, rtol=2e-3, err_msg=name)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_values_end_it(bad, key):
    """The step that follows is skipped for its loss."""
    x = jnp.asarray(X0, jnp.float32).at[3, 1].set(bad)
    jax.block_until_ready(jax.jit(couplings.sinkhorn().__call__)(key, x, x, {}))
    assert not plan_of(couplings.sinkhorn(), x, x).converged


def test_drawn_rows_follow_the_plan(key):
    """Chi-square over all pairs; the coupling's pairs are as frequent as the plan says."""
    x0, x1 = (jnp.asarray(x[:6], jnp.float32) for x in (X0, X1))
    coupling = couplings.sinkhorn(0.3)
    share = np.exp(np.asarray(plan_of(coupling, x0, x1).log_plan, np.float64))
    share /= share.sum(0)
    runs = 4000
    draw = jax.jit(jax.vmap(lambda key: coupling(key, x0, x1, {})[0]))
    drawn = np.asarray(draw(jax.random.split(key, runs)))
    counts = np.array([(drawn == row).all(-1).sum(0) for row in np.asarray(x0)])
    assert (counts.sum(0) == runs).all()
    square = ((counts - runs * share) ** 2 / (runs * share)).sum()
    freedom = 6 * 5
    assert abs(square - freedom) / np.sqrt(2 * freedom) < 4
    drawn = (drawn[:, :, None] == np.asarray(x0)).all(-1).astype(float)
    apart = np.corrcoef(drawn[:, 0] @ np.arange(6), drawn[:, 1] @ np.arange(6))[0, 1]
    assert abs(apart) * np.sqrt(runs) < 4


def test_epsilon_is_relative_to_the_mean_cost():
    """Of the coupling; and many dimensions hide what differs behind what pairs share."""
    x0, x1 = (jnp.asarray(x, jnp.float32) for x in (X0, X1))
    near = couplings.sinkhorn(0.05, unbalanced=0.5, tolerance=1e-5)
    scale = float(COST.mean())
    whole = solve(COST, 0.05 * scale, unbalanced=0.5 * scale, tolerance=1e-5)
    for factor in (1.0, 1e3, 1e-3):
        plan = plan_of(near, factor * x0, factor * x1)
        np.testing.assert_allclose(plan.log_plan, whole.log_plan, atol=2e-3)
    other = plan_of(couplings.sinkhorn(1e3), x0, x1)
    np.testing.assert_allclose(other.log_plan, -2 * np.log(40), atol=1e-2)


def test_or_in_units_of_the_cost():
    """Of both penalties, whatever the scale of the batch."""
    x0, x1 = (jnp.asarray(x, jnp.float32) for x in (X0, X1))
    scale = float(COST.mean())
    for options in ({}, {"unbalanced": 2.0}):
        own = couplings.sinkhorn(0.7, relative=False, tolerance=1e-5, **options)
        whole = solve(COST, 0.7, tolerance=1e-5, **options)
        np.testing.assert_allclose(plan_of(own, x0, x1).log_plan, whole.log_plan, atol=2e-3)
        shares = {name: value / scale for name, value in options.items()}
        same = plan_of(couplings.sinkhorn(0.7 / scale, tolerance=1e-5, **shares), x0, x1)
        np.testing.assert_allclose(same.log_plan, whole.log_plan, atol=2e-3)
        far = plan_of(own, 3 * x0, 3 * x1)
        apart = solve(9 * COST, 0.7, tolerance=1e-5, **options)
        np.testing.assert_allclose(far.log_plan, apart.log_plan, atol=2e-2)


@pytest.mark.parametrize("sigma", [0.5, 1.5])
def test_pairs_and_path_of_the_schroedinger_bridge(sigma):
    """Between `N(0, a)` and `N(0, b)`, of a Brownian motion of diffusion `sigma`.

    The motion ends at `y` from `x` with density `exp(-(x - y)^2 / epsilon)`, `epsilon = 2 sigma^2`.
    Scaled by functions of `x` and of `y` the pair is normal, with `2 / epsilon` off the diagonal of
    its precision; so `c / (a b - c^2) = 2 / epsilon`, `c = sqrt(a b + (epsilon / 4)^2) - epsilon /
    4`. The bridge adds `sigma^2 / 4` to `(a + b + 2 c) / 4` at half time, where by Bunne et al.,
    2022, arXiv:2202.05722, the variance is `(a + b + sqrt(4 a b + sigma^4)) / 4`.
    """
    a, b, n, batches = 1.0, 2.25, 512, 48
    epsilon, path = 2 * sigma**2, paths.bridge(sigma)
    covariance = np.sqrt(a * b + (epsilon / 4) ** 2) - epsilon / 4
    variance = (a + b + np.sqrt(4 * a * b + sigma**4)) / 4
    assert (a + b + 2 * covariance + sigma**2) / 4 == pytest.approx(variance)

    @jax.jit
    def moments(key, coupling):
        first, second, third = jax.random.split(key, 3)
        x0 = np.sqrt(a) * jax.random.normal(first, (n, 1))
        x1 = np.sqrt(b) * jax.random.normal(second, (n, 1))
        draw = draws.chain(draws.couple(coupling), draws.latent(path))
        pair = draw(third, {"x0": x0, "x1": x1})
        x = path(jnp.full(n, 0.5), pair["x0"], pair["x1"], pair["z"]).x
        return jnp.mean(pair["x0"] * pair["x1"]), jnp.mean(x**2)

    def scores(coupling):
        keys = jax.random.split(jax.random.key(3), batches)
        found = np.array([moments(key, coupling) for key in keys], np.float64)
        error = found.std(axis=0, ddof=1) / np.sqrt(batches)
        return (found.mean(axis=0) - [covariance, variance]) / error

    assert np.abs(scores(couplings.sinkhorn(epsilon, relative=False))).max() < 4
    assert np.abs(scores(couplings.sinkhorn(epsilon))).min() > 8  # in units of the mean cost


def test_several_at_once_are_each_by_itself(x64):
    """Under `vmap` each stops by its own error."""
    costs, epsilon = np.stack([COST, COST.T]), np.array([1.0, 0.02])
    both = jax.jit(jax.vmap(sinkhorn_plan))(costs, epsilon)
    for i in (0, 1):
        alone = solve(costs[i], epsilon[i])
        np.testing.assert_allclose(both.log_plan[i], alone.log_plan, atol=1e-8)
        assert both.iterations[i] == alone.iterations


def test_derivatives_go_forwards(x64):
    """By a traced epsilon: what is transported costs more, the larger it is."""

    @jax.jit
    def transported(epsilon):
        plan = sinkhorn_plan(COST, epsilon, tolerance=1e-10)
        return jnp.sum(jnp.exp(plan.log_plan) * COST)

    slope = float(jax.jacfwd(transported)(0.5))
    assert slope == pytest.approx(float(transported(0.501) - transported(0.499)) / 0.002, rel=1e-4)
    assert slope > 0


def test_products_are_exact_on_accelerators():
    program = str(jax.make_jaxpr(sinkhorn_plan)(COST, 1.0))
    assert program.count("HIGHEST") >= 2


@pytest.mark.parametrize("name", ["epsilon", "unbalanced", "iterations", "tolerance"])
@pytest.mark.parametrize("value", [0, -1])
def test_options_are_positive(name, value):
    for make in (lambda **k: couplings.sinkhorn(**k), lambda **k: sinkhorn_plan(COST, **k)):
        options = {"epsilon": 0.1, name: value}
        with pytest.raises(ValueError, match=rf"^{name} is {value}: sinkhorn needs it positive"):
            make(**options)


@pytest.mark.usefixtures("unchecked")
def test_errors(key):
    for wrong in (jnp.ones(3), jnp.ones((0, 3))):
        with pytest.raises(ValueError, match=r"^the cost has shape .*: it is a matrix"):
            sinkhorn_plan(wrong, 0.1)
    with pytest.raises(ValueError, match=r"^x0 has shape \(3, 2\) but x1 \(4, 2\): they are"):
        couplings.sinkhorn()(key, jnp.ones((3, 2)), jnp.ones((4, 2)), {})
    with pytest.raises(ValueError, match=r"^epsilon is nan: sinkhorn needs it positive"):
        couplings.sinkhorn(float("nan"))

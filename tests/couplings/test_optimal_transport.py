"""Exact transport against scipy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from jaxflow import couplings
from jaxflow.couplings.assignment import assign, assign_on_host, prices

compiled = jax.jit(assign)


def largest(x0, x1):
    return abs(x0[:, None] - 2 * x1[None]).max(-1)


@pytest.mark.parametrize("on_host", [False, True])
@pytest.mark.parametrize("cost", [None, largest])
def test_pairs_are_the_cheapest(cost, on_host, key, x64):
    """The coupling's cost is scipy's, below that of the pairs as they came."""
    rng = np.random.default_rng(0)
    x0, x1 = rng.normal(size=(2, 64, 4))
    coupling = couplings.optimal_transport(cost=cost, on_host=on_host)
    run = coupling if on_host else jax.jit(coupling.__call__)
    y0, y1 = map(np.asarray, run(key, *map(jnp.asarray, (x0, x1)), {})[:2])
    costs = largest(x0, x1) if cost else ((x0[:, None] - x1[None]) ** 2).sum(-1)
    best = costs[linear_sum_assignment(costs)].sum()
    paired = largest(y0, y1) if cost else ((y0[:, None] - y1[None]) ** 2).sum(-1)
    np.testing.assert_allclose(np.trace(paired), best, rtol=1e-12)
    assert best < 0.9 * np.trace(costs)


def problems(n):
    """Cost matrices, easy and vicious."""
    rng = np.random.default_rng(n)
    x, y = rng.normal(size=(2, n, 3))

    def distances(x, y):
        return ((x[:, None] - y[None]) ** 2).sum(-1)

    outlier = x.copy()
    outlier[0] += 1e4
    return {
        "random": distances(x, y),
        "uniform": rng.uniform(size=(n, n)),
        "permuted": distances(x, x[rng.permutation(n)]),
        "identical": distances(x * 0, y * 0),
        "all equal": np.ones((n, n)),
        "doubled": distances(np.repeat(x, 2, 0)[:n], np.repeat(y, 2, 0)[:n]),
        "outlier": distances(outlier, y),
        "huge": 1e12 * distances(x, y),
        "tiny": 1e-12 * distances(x, y),
        "integers": rng.integers(0, 3, (n, n)).astype(float),
        "signed": rng.normal(size=(n, n)),
        "one bad column": rng.uniform(size=(n, n)) + 1e6 * (np.arange(n) == 0),
    }


def excess(cost, columns):
    """What a permutation costs above the best, as a share of what a random one does on average."""
    n = len(cost)
    best = math.fsum(cost[linear_sum_assignment(cost)])
    spread = math.fsum(cost.ravel()) / n - best
    return (math.fsum(cost[np.arange(n), columns]) - best) / spread if spread > 0 else 0.0


@pytest.mark.parametrize("n", [1, 2, 17, 45, 64, 128])
@pytest.mark.parametrize("solver", ["compiled f32", "compiled f64", "host"])
def test_cost_is_scipys(n, solver):
    """Of the costs as the solver holds them; a random permutation is far outside the tolerance."""
    single = solver == "compiled f32"
    tolerance = 1e-3 if single else 1e-12
    rng = np.random.default_rng(1)
    for name, given in problems(n).items():
        cost = given.astype(np.float32).astype(float) if single else given
        with jax.enable_x64(not single):
            found = assign_on_host(cost) if solver == "host" else compiled(jnp.asarray(cost))
        np.testing.assert_array_equal(np.sort(found), np.arange(n), err_msg=name)
        assert excess(cost, np.asarray(found)) <= tolerance, name
        if n > 2 and np.ptp(cost) > 0:
            assert min(excess(cost, rng.permutation(n)) for _ in range(30)) > tolerance, name


def test_prices_are_nearly_optimal():
    """By duality: sum_j g_j + sum_i min_j (C_ij - g_j) is never above the least cost."""
    find = jax.jit(prices)
    given = problems(128)
    for name in ("random", "uniform", "doubled", "signed"):
        cost = given[name] - given[name].min(axis=1, keepdims=True)
        cost -= cost.min(axis=0)
        cost /= cost.mean()
        best = cost[linear_sum_assignment(cost)].sum()
        found = np.asarray(find(cost.astype(np.float32)), float)
        bound = found.sum() + (cost - found).min(axis=1).sum()
        assert 0.99 * best <= bound <= (1 + 1e-12) * best, name  # where those of 0 give none


def test_half_precision_is_paired_in_float32(key):
    """What is exact is the transport of the values, not of their rounded distances."""
    x0, x1 = (jax.random.normal(jax.random.key(i), (64, 8), jnp.bfloat16) for i in (1, 2))
    y0, y1, _ = jax.jit(couplings.optimal_transport().__call__)(key, x0, x1, {})
    exact = [np.asarray(a, np.float64) for a in (x0, x1, y0, y1)]
    cost = ((exact[1][:, None] - exact[0][None]) ** 2).sum(-1)
    best = cost[linear_sum_assignment(cost)].sum()
    np.testing.assert_allclose(((exact[3] - exact[2]) ** 2).sum(), best, rtol=1e-6)


def test_products_are_exact_on_accelerators(key):
    """The distances ask for full precision, which a TPU's or GPU's default is not."""
    x = jnp.ones((4, 2))
    program = str(jax.make_jaxpr(lambda x: couplings.optimal_transport()(key, x, x, {}))(x))
    assert "HIGHEST" in program


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_bad_values_end_the_compiled_solver_and_stop_the_host(bad, key):
    """In jit the step that follows is skipped for its non-finite loss; on the host it is told."""
    x0 = jax.random.normal(key, (16, 2))
    for x1 in (x0.at[3, 1].set(bad), x0 * bad):
        jax.jit(couplings.optimal_transport())(key, x0, x1, {})[0].block_until_ready()
        with pytest.raises(
            ValueError, match=r"^optimal transport met a value that is not finite in x0 or x1$"
        ):
            couplings.optimal_transport(on_host=True)(key, x0, x1, {})


def test_errors(key):
    with pytest.raises(
        ValueError, match=r"^x0 has shape \(3, 2\) but x1 \(4, 2\): they are paired"
    ):
        couplings.optimal_transport()(key, jnp.ones((3, 2)), jnp.ones((4, 2)), {})
    host = couplings.optimal_transport(on_host=True)
    with pytest.raises(
        ValueError, match=r"^optimal_transport\(on_host=True\) cannot be traced: complete"
    ):
        jax.jit(lambda x: host(key, x, x, {})[0])(jnp.ones((3, 2)))

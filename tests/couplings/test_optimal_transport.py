"""Couplings: exact transport against scipy, and conditions that follow their data."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from jaxflow import couplings
from jaxflow.couplings.assignment import assign, assign_on_host

TABLE = {"independent": [{}], "optimal_transport": [{"on_host": False}, {"on_host": True}]}
ALL = [
    pytest.param(getattr(couplings, n)(**kwargs), id=f"{n}({kwargs})")
    for n, cases in TABLE.items()
    for kwargs in cases
]
compiled = jax.jit(assign)


def test_every_factory_is_in_the_table():
    public = {n for n in couplings.__all__ if inspect.isfunction(getattr(couplings, n))}
    assert public == set(TABLE)


@pytest.mark.parametrize("coupling", ALL)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_contract(coupling, dtype, key):
    """Each side keeps its values and dtype, and labels stay with their data."""
    x0 = jax.random.normal(jax.random.key(1), (16, 3, 2), dtype)
    x1 = jax.random.normal(jax.random.key(2), (16, 3, 2), dtype)
    cond = {"label": jnp.sum(x1.astype(jnp.float32), (1, 2)), "more": {"a": x1[:, 0]}}
    y0, y1, after = coupling(key, x0, x1, cond)
    assert y0.dtype == y1.dtype == dtype
    np.testing.assert_array_equal(after["label"], jnp.sum(y1.astype(jnp.float32), (1, 2)))
    np.testing.assert_array_equal(after["more"]["a"], y1[:, 0])
    for before, now in ((x0, y0), (x1, y1)):
        rows = [np.asarray(a, np.float32).reshape(16, -1) for a in (before, now)]
        np.testing.assert_array_equal(*(r[np.lexsort(r.T)] for r in rows))
    leaves, tree = jax.tree.flatten(coupling)
    assert leaves == []
    assert jax.tree.unflatten(tree, leaves) == coupling
    hash(coupling)
    assert type(coupling).__name__ in repr(coupling)
    assert coupling.independent == (coupling == couplings.independent())


@pytest.mark.parametrize("on_host", [False, True])
def test_pairs_are_the_cheapest(on_host, key, x64):
    """The coupling's cost is scipy's, below that of the pairs as they came."""
    rng = np.random.default_rng(0)
    x0, x1 = rng.normal(size=(2, 64, 4))
    y0, y1, _ = couplings.optimal_transport(on_host=on_host)(key, *map(jnp.asarray, (x0, x1)), {})
    cost = ((x1[:, None] - x0[None]) ** 2).sum(-1)
    best = cost[linear_sum_assignment(cost)].sum()
    np.testing.assert_allclose(((y1 - y0) ** 2).sum(), best, rtol=1e-12)
    assert best < 0.9 * np.trace(cost)


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


@pytest.mark.parametrize("n", [1, 2, 17, 64, 128])
@pytest.mark.parametrize("solver", ["compiled f32", "compiled f64", "host"])
def test_cost_is_scipys(n, solver):
    for name, cost in problems(n).items():
        best = cost[linear_sum_assignment(cost)].sum()
        with jax.enable_x64(solver == "compiled f64"):
            columns = np.asarray(
                assign_on_host(cost) if solver == "host" else compiled(jnp.asarray(cost))
            )
        np.testing.assert_array_equal(np.sort(columns), np.arange(n), err_msg=name)
        reached = cost[np.arange(n), columns].sum()
        scale = n * np.abs(cost).max()
        tolerance = 1e-6 if solver == "compiled f32" else 1e-14
        assert abs(reached - best) <= tolerance * scale, f"{name}: {reached} for {best}"


def test_half_precision_is_paired_in_float32(key):
    """What is exact is the transport of the values, not of their rounded distances."""
    x0, x1 = (jax.random.normal(jax.random.key(i), (64, 8), jnp.bfloat16) for i in (1, 2))
    y0, y1, _ = couplings.optimal_transport()(key, x0, x1, {})
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
        with pytest.raises(ValueError, match=r"^optimal transport met a value that is not finite"):
            couplings.optimal_transport(on_host=True)(key, x0, x1, {})


def test_errors(key):
    with pytest.raises(ValueError, match=r"^x0 has shape \(3, 2\) but x1 \(4, 2\): they"):
        couplings.optimal_transport()(key, jnp.ones((3, 2)), jnp.ones((4, 2)), {})
    host = couplings.optimal_transport(on_host=True)
    with pytest.raises(ValueError, match="cannot be traced: run its draw ahead"):
        jax.jit(lambda x: host(key, x, x, {})[0])(jnp.ones((3, 2)))

"""What every coupling keeps to, on one device and on eight."""

import inspect
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxflow import couplings, sources

N = 16
X1 = jax.random.normal(jax.random.key(2), (N, 3, 2))
COND = {"label": jnp.arange(N) % 3, "more": {"a": X1[:, 0], "b": jnp.sum(X1, (1, 2))}}


def manhattan(x0, x1):
    return abs(x0[:, None] - x1[None]).sum((2, 3))


def fitted(epsilon):
    return couplings.semidiscrete(
        jax.random.key(3), sources.normal(), X1, COND, steps=20, epsilon=epsilon
    )


class Row(NamedTuple):
    """A coupling; which of its sides keep every row, and which their order."""

    make: object
    permutes_x0: bool = True
    keeps_x1: bool = True


TABLE = {
    "independent": [Row(couplings.independent)],
    "optimal_transport": [
        Row(lambda c=cost, h=host: couplings.optimal_transport(cost=c, on_host=h))
        for cost in (None, manhattan)
        for host in (False, True)
    ],
    "conditional_optimal_transport": [
        Row(lambda c=cost, h=host: couplings.conditional_optimal_transport(2.0, cost=c, on_host=h))
        for cost in (None, manhattan)
        for host in (False, True)
    ],
    "sinkhorn": [
        Row(lambda k=k: couplings.sinkhorn(**k), permutes_x0=False)
        for k in ({}, {"cost": manhattan, "unbalanced": 1.0})
    ],
    "semidiscrete": [Row(lambda e=e: fitted(e), keeps_x1=False) for e in (0.0, 0.1)],
}
OTHERS = {"sinkhorn_plan", "marginal_error"}  # of a matrix, and of a fit
ROWS = [pytest.param(r, id=f"{name}{i}") for name, rs in TABLE.items() for i, r in enumerate(rs)]


def test_every_factory_is_in_the_table():
    public = {n for n in couplings.__all__ if inspect.isfunction(getattr(couplings, n))}
    assert public == set(TABLE) | OTHERS


def sorted_rows(a):
    rows = np.asarray(a, np.float32).reshape(len(a), -1)
    return rows[np.lexsort(rows.T)]


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_contract(row, dtype, key):
    """Sides keep their values and dtype, conditions stay with their data, records are records."""
    coupling = row.make()
    x0 = jax.random.normal(jax.random.key(1), (N, 3, 2), dtype)
    x1 = X1.astype(dtype) if row.keeps_x1 else X1
    cond = jax.tree.map(lambda a: a, COND)
    cond["more"]["b"] = jnp.asarray(np.sum(np.asarray(x1, np.float32), (1, 2)))
    on_host = getattr(coupling, "on_host", False)
    run = coupling if on_host else jax.jit(coupling.__call__)
    y0, y1, after = run(key, x0, x1, cond)
    assert y0.dtype == dtype
    assert y1.dtype == x1.dtype
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, cond)
    np.testing.assert_allclose(
        after["more"]["b"], np.sum(np.asarray(y1, np.float32), (1, 2)), rtol=1e-6, atol=1e-6
    )
    assert {tuple(r) for r in sorted_rows(y0)} <= {tuple(r) for r in sorted_rows(x0)}
    if row.permutes_x0:
        np.testing.assert_array_equal(sorted_rows(y0), sorted_rows(x0))
    if row.keeps_x1:
        np.testing.assert_array_equal(y1, x1)
        jax.tree.map(np.testing.assert_array_equal, after, cond)
    leaves, tree = jax.tree.flatten(coupling)
    assert jax.tree.unflatten(tree, leaves) == coupling
    if row.keeps_x1:
        assert leaves == []
        hash(coupling)
    assert type(coupling).__name__ in repr(coupling)
    assert coupling.independent == (coupling == couplings.independent())


@pytest.mark.parametrize("row", ROWS)
def test_pairs_are_those_of_the_global_batch(row, key):
    """Spread over eight devices, compiled: the pairs of one, uncompiled."""
    coupling = row.make()
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    x0 = jax.random.normal(jax.random.key(1), X1.shape)
    alone = coupling(key, x0, X1, COND)
    spread = jax.device_put((x0, X1, COND), NamedSharding(mesh, PartitionSpec("data")))
    if not getattr(coupling, "on_host", False):
        coupling = jax.jit(coupling.__call__)
    found = coupling(key, *spread)
    jax.tree.map(np.testing.assert_array_equal, found, alone)


@pytest.mark.parametrize("name", ["optimal_transport", "conditional_optimal_transport", "sinkhorn"])
def test_costs_are_of_source_by_datum(name, key):
    """Source `i` is cheap for datum `i + 1` alone: what is given to a datum is the one before."""

    def cost(x0, x1):
        return jnp.where(x1.ravel() == (x0 + 1) % N, 0.0, 1.0)

    options = {"epsilon": 1e-3} if name == "sinkhorn" else {}
    x = jnp.arange(N, dtype=float)[:, None]
    label = {"label": jnp.zeros(N, int)}
    for more in ({}, {"on_host": True}) if name != "sinkhorn" else ({},):
        coupling = getattr(couplings, name)(cost=cost, **options, **more)
        run = coupling if more else jax.jit(coupling.__call__)
        y0, y1 = map(np.asarray, run(key, x, x, label)[:2])
        np.testing.assert_array_equal((y0 + 1) % N, y1)


def test_no_gradient_is_asked_of_a_solver(key):
    """A source may hold parameters: the gradient is that of the rows that were taken."""
    x = jax.random.normal(key, (N, 2))
    for name in ("optimal_transport", "sinkhorn"):
        coupling = getattr(couplings, name)()
        total = jax.value_and_grad(lambda s, c=coupling: jnp.sum(c(key, s * x, x, {})[0]))
        value, gradient = jax.jit(total)(1.0)
        np.testing.assert_allclose(gradient, value, rtol=1e-4)


@pytest.mark.parametrize(
    ("cost", "sentence"),
    [
        (lambda x0, x1: jnp.ones(N), r"^the cost returned float32\[16\], but of 16 sources and 16"),
        (lambda x0, x1: jnp.ones((N, N), int), r"^the cost returned int32\[16, 16\], but"),
        (lambda x0, x1: jnp.full((N, N), jnp.nan), r"not finite in the cost$"),
    ],
)
def test_costs_that_are_none(cost, sentence, key):
    for name in ("optimal_transport", "conditional_optimal_transport"):
        coupling = getattr(couplings, name)(cost=cost, on_host=True)
        with pytest.raises(ValueError, match=sentence):
            coupling(key, X1, X1, {"label": COND["label"]})


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_cost():
    for name in ("optimal_transport", "conditional_optimal_transport", "sinkhorn"):
        with pytest.raises(TypeError, match=r"^a cost is a function \(x0, x1\) -> .*; got str$"):
            getattr(couplings, name)(cost="euclidean")

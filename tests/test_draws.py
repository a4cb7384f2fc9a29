"""Draws: everything random, on the global batch."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import couplings, draws, paths, sources, times
from jaxflow.records import record
from jaxflow.types import Dependent

NULL = {"label": 10}
X1 = jax.random.normal(jax.random.key(7), (16, 3))
BATCH = {"x1": X1, "cond": {"label": jnp.arange(16), "weight": jnp.sum(X1, 1)}}
WITH_X0 = {**BATCH, "x0": X1 + 1}
DEVICE = couplings.optimal_transport()


@record
class Bridge:
    """A path with randomness of its own."""

    def latent(self, key, x0):
        return jax.random.normal(key, x0.shape)

    def __call__(self, t, x0, x1, z=None):
        raise NotImplementedError


FULL = draws.standard(
    paths.vp(), coupling=DEVICE, times=times.stratified(times.uniform()), drop=draws.drop(0.3, NULL)
)
TABLE = {
    "source": (draws.source(sources.normal()), BATCH),
    "couple": (draws.couple(DEVICE), WITH_X0),
    "times": (draws.times(times.logit_normal(), (0.1, 0.9)), BATCH),
    "latent": (draws.latent(Bridge()), WITH_X0),
    "drop": (draws.drop(0.5, NULL), BATCH),
    "chain": (draws.chain(draws.source(sources.normal()), draws.times(times.uniform())), BATCH),
    "standard": (FULL, BATCH),
}


def equal(a, b):
    same = jax.tree.map(lambda x, y: bool(jnp.array_equal(x, y)), a, b)
    return all(jax.tree.leaves(same))


def test_every_factory_is_in_the_table():
    public = {n for n in draws.__all__ if inspect.isfunction(getattr(draws, n))}
    assert public == {*TABLE, "as_draw"}


@pytest.mark.parametrize("name", TABLE)
def test_contract(name, key):
    """A function of the key alone, in and outside of jit; what was there stays unless re-paired."""
    draw, batch = TABLE[name]
    first, second, other = draw(key, batch), draw(key, batch), draw(jax.random.key(9), batch)
    assert equal(first, second)
    assert not equal(first, other) or name == "couple"
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
        jax.jit(draw.__call__)(key, batch),
        first,
    )
    assert jnp.array_equal(first["x1"], batch["x1"])
    assert set(batch) <= set(first)
    leaves, tree = jax.tree.flatten(draw)
    assert leaves == ([10] if name in ("drop", "standard") else [])
    assert equal(jax.tree.unflatten(tree, leaves)(key, batch), first)
    assert type(draw).__name__ in repr(draw)


def test_standard_completes_the_batch(key):
    batch = FULL(key, BATCH)
    assert batch["x0"].shape == X1.shape
    assert batch["x0"].dtype == X1.dtype
    assert batch["t"].shape == (16,)
    low, high = paths.vp().schedule.interval
    assert jnp.all((batch["t"] >= low) & (batch["t"] <= high))
    assert batch["z"] == Dependent()  # for the transport
    assert draws.standard(paths.vp())(key, BATCH)["z"] is None
    np.testing.assert_array_equal(batch["cond"]["weight"], jnp.sum(batch["x1"], 1))
    assert batch["t"].dtype == jnp.float32


def test_the_batch_keeps_its_own_source(key):
    pairs = draws.standard(paths.linear())(key, WITH_X0)
    np.testing.assert_array_equal(pairs["x0"], WITH_X0["x0"])


def test_source_takes_the_datas_dtype_but_tokens_stay_tokens(key):
    half = draws.source(sources.normal())(key, {"x1": X1.astype(jnp.bfloat16)})
    assert half["x0"].dtype == jnp.bfloat16
    tokens = draws.source(sources.mask(5))(key, {"x1": jnp.zeros((4, 2), jnp.int8)})
    assert tokens["x0"].dtype == jnp.int32
    pixels = draws.source(sources.normal())(key, {"x1": jnp.zeros((4, 2), jnp.uint8)})
    assert jnp.issubdtype(pixels["x0"].dtype, jnp.floating)


def test_dropout_takes_all_conditions_of_an_example(key):
    n, rate = 4000, 0.3
    cond = {"a": jnp.ones(n, jnp.int32), "b": jnp.ones((n, 2)), "kept": jnp.ones(n)}
    batch = {"x1": jnp.zeros((n, 1)), "cond": cond}
    after = draws.drop(rate, {"a": 10, "b": -1.0})(key, batch)["cond"]
    gone = after["a"] == 10
    np.testing.assert_array_equal(gone, jnp.all(after["b"] == -1, 1))
    assert jnp.all(after["kept"] == 1)
    assert after["a"].dtype == jnp.int32
    z = (float(gone.mean()) - rate) / np.sqrt(rate * (1 - rate) / n)
    assert abs(z) < 4
    assert not jnp.any(draws.drop(0.0, {"a": 10})(key, batch)["cond"]["a"] == 10)
    assert jnp.all(draws.drop(1.0, {"a": 10})(key, batch)["cond"]["a"] == 10)


@pytest.mark.parametrize(
    ("call", "received"),
    [
        (lambda: draws.drop(1.5, NULL), "1.5"),
        (lambda: draws.drop(0.1, {}), "at least one"),
        (lambda: draws.times(times.uniform(), (0.5, 0.5)), r"\(0.5, 0.5\)"),
        (lambda: draws.times(times.uniform(), (0.0, 1.5)), "1.5"),
        (lambda: draws.drop(0.1, {"lable": 1})(jax.random.key(0), BATCH), "'lable'"),
        (lambda: draws.drop(0.1, NULL)(jax.random.key(0), {"x1": X1}), "'label'"),
    ],
)
def test_errors_name_what_they_got(call, received):
    with pytest.raises(ValueError, match=received):
        call()

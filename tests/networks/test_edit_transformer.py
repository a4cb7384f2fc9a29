"""The transformer of edits: what padding may not do, and how it is initialised."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow.networks import EditTransformer, linen
from tests.networks.small import perturbed

VOCABULARY = 5
T = jnp.array([0.2, 0.7, 0.5])
X = jnp.array([[0, 1, 2, 5], [3, 5, 5, 5], [5, 5, 5, 5]])
MODULE = EditTransformer(VOCABULARY, width=16, depth=2, heads=2)


@pytest.fixture(scope="module")
def params():
    return linen(MODULE).init(jax.random.key(0), T, X)


@jax.jit
def said(params, x):
    return linen(MODULE.clone())(params, T, x)


def test_at_first_all_rates_are_one_and_all_tokens_alike(params):
    found = said(params, X)
    shapes = {"log_rates": (3, 5, 3), "insert": (3, 5, 5), "substitute": (3, 5, 5)}
    assert {name: value.shape for name, value in found.items()} == shapes
    assert all(jnp.all(value == 0) for value in found.values())


def test_padding_is_seen_by_none(params):
    """The empty sequence has a place, whatever the room behind it."""
    params = perturbed(params)
    short, long = said(params, X), said(params, jnp.pad(X, ((0, 0), (0, 3)), constant_values=5))
    real = jnp.concatenate([jnp.ones((3, 1), bool), X < VOCABULARY], axis=1)
    for name, value in short.items():
        assert jnp.std(value[real]) > 0.01
        np.testing.assert_allclose(value[real], long[name][:, :5][real], atol=2e-5)


def test_tokens_are_seen_by_all(params):
    params = perturbed(params)
    found, other = said(params, X), said(params, X.at[0, 2].set(4))
    for name, value in found.items():
        assert jnp.all(jnp.any(value[0, :4] != other[name][0, :4], axis=-1))
        assert jnp.array_equal(value[1:], other[name][1:])


@pytest.mark.parametrize("fields", [{"tied": False}, {"dtype": jnp.bfloat16}, {"num_classes": 3}])
def test_fields(fields):
    network = linen(EditTransformer(VOCABULARY, width=8, depth=1, heads=2, **fields))
    cond = {"label": jnp.array([0, 1, 3])} if "num_classes" in fields else {}
    params = jax.eval_shape(network.init_on_host, jax.random.key(0), T, X, **cond)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    found = jax.eval_shape(network, params, T, X, **cond)
    assert {value.dtype for value in found.values()} == {jnp.dtype(jnp.float32)}


def test_refusals(unchecked):
    network = linen(MODULE)
    for x in (X.astype(float), X[0]):
        with pytest.raises(ValueError, match=r"whole numbers \[batch, length\]"):
            jax.eval_shape(network.init_on_host, jax.random.key(0), T, x)
    odd = linen(EditTransformer(VOCABULARY, width=6, heads=2))
    with pytest.raises(ValueError, match="for rotary places"):
        jax.eval_shape(odd.init_on_host, jax.random.key(0), T, X)
    with pytest.raises(ValueError, match="one time an example"):
        jax.eval_shape(network.init_on_host, jax.random.key(0), T[:2], X)
    with pytest.raises(ValueError, match="whole numbers of at least 1 for vocabulary"):
        EditTransformer(0)

"""Muon moves every matrix by all its singular directions alike, whether or not it is stacked."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxflow import training

SHAPES = {
    "plain": {"kernel": (16, 8), "bias": (8,)},
    "blocks": {"kernel": (3, 16, 8), "bias": (3, 8), "scale": (3, 8), "taps": (3, 5, 8)},
    "convolution": {"kernel": (3, 3, 4, 8)},
    "tokens": {"embedding": (9, 8)},
}
RATE = 1e-2


@pytest.fixture(scope="module")
def moved():
    def normal(shape):
        return jnp.asarray(np.random.default_rng(len(shape)).normal(size=shape), jnp.float32)

    shapes = {"is_leaf": lambda s: isinstance(s, tuple)}
    params = jax.tree.map(jnp.zeros, SHAPES, **shapes)
    gradient = jax.tree.map(normal, SHAPES, **shapes)
    optimizer = training.muon(RATE)
    updates, _ = jax.jit(optimizer.update)(gradient, optimizer.init(params), params)
    return gradient, updates


@pytest.mark.parametrize("name", ["plain", "blocks", "convolution"])
def test_matrices(moved, name):
    gradient, updates = (tree[name]["kernel"] for tree in moved)
    columns = gradient.shape[-1]
    rows = {"convolution": 36}.get(name, gradient.shape[-2])
    each = zip(gradient.reshape(-1, rows, columns), updates.reshape(-1, rows, columns), strict=True)
    for g, u in each:
        left, sizes, right = np.linalg.svd(g, full_matrices=False)
        along = np.diag(left.T @ np.asarray(u) @ right.T) / (-RATE * 0.2 * np.sqrt(max(g.shape)))
        assert np.all((along > 0.65) & (along < 1.25))  # what five Newton-Schulz steps come to
        assert sizes[0] / sizes[-1] > 1.5  # the gradient's were not alike
        assert 0.5 < np.sqrt(np.mean(u**2)) / (0.2 * RATE) < 1.2


@pytest.mark.parametrize(
    ("name", "leaf"),
    [
        ("plain", "bias"),
        ("blocks", "bias"),
        ("blocks", "scale"),
        ("blocks", "taps"),
        ("tokens", "embedding"),
    ],
)
def test_others_move_as_adam_moves_them(moved, name, leaf):
    gradient, updates = (tree[name][leaf] for tree in moved)
    adam = optax.adam(RATE, nesterov=True)
    wanted, _ = adam.update(gradient, adam.init(jnp.zeros_like(gradient)))
    np.testing.assert_allclose(updates, wanted, rtol=1e-5)

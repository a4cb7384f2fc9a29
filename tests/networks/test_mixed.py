"""One transformer over several parts: shapes, and who attends to whom."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import networks
from tests.networks.small import perturbed

VOCABULARY = 5
NETWORK = networks.linen(
    networks.MixedTransformer({"text": VOCABULARY}, patch=2, width=16, depth=2, heads=2)
)
X = {
    "image": jax.random.normal(jax.random.key(0), (3, 4, 6, 2)),
    "text": jax.random.randint(jax.random.key(1), (3, 7), 0, VOCABULARY + 1),
    "sound": jax.random.normal(jax.random.key(2), (3, 5, 2)),
    "pose": jax.random.normal(jax.random.key(3), (3, 4)),
}
T = {name: jnp.array([0.1, 0.4, 0.9]) + 0.02 * i for i, name in enumerate(X)}


@pytest.fixture(scope="module")
def run():
    params = NETWORK.init(jax.random.key(4), T, X)
    call = jax.jit(NETWORK)
    return call, params, perturbed(params)


def test_shapes_and_nothing_is_said_at_first(run):
    call, params, others = run
    said = call(params, T, X)
    assert {name: a.shape for name, a in said.items()} == {
        name: (*a.shape, VOCABULARY) if name == "text" else a.shape for name, a in X.items()
    }
    assert all(jnp.all(a == 0) for a in said.values())
    assert all(jnp.std(a) > 0.01 for a in call(others, T, X).values())


@pytest.mark.parametrize("name", X)
def test_every_part_and_time_is_seen_by_every_part_of_its_example_alone(run, name):
    call, _, params = run
    before = call(params, T, X)
    first = jnp.arange(3) == 0
    other = (X[name] + 1) % VOCABULARY if name == "text" else X[name] + 1.0
    moved = {**X, name: jnp.where(first.reshape(-1, *(1,) * (X[name].ndim - 1)), other, X[name])}
    later = {**T, name: jnp.where(first, T[name] + 0.05, T[name])}
    for x, t in ((moved, T), (X, later)):
        after = call(params, t, x)
        for part in X:
            apart = jnp.any((after[part] != before[part]).reshape(3, -1), axis=1)
            assert apart.tolist() == [True, False, False]


def test_one_time_is_that_of_every_part(run):
    call, _, params = run
    one = jnp.array([0.3, 0.5, 0.7])
    alike = call(params, dict.fromkeys(X, one), X)
    jax.tree.map(np.testing.assert_array_equal, call(params, one, X), alike)

"""A network is an argument of a compiled program, which is traced anew only for another network."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx as flax_nnx

from jaxflow import networks
from tests.networks.maps import ADAPTED, EXPECTED, T, X, every_adapter, linear


def counted():
    """A compiled call of any network, and the list that grows with each trace."""
    traces = []

    @jax.jit
    def call(network, params):
        traces.append(1)
        return network(params, T, X)

    return call, traces


@every_adapter
def test_neither_new_parameters_nor_the_same_module_again_retrace(name):
    call, traces = counted()
    for scale in (1.0, 2.0, 3.0):
        network, params = linear(name)
        out = call(network, jax.tree.map(lambda p, s=scale: s * p, params))
        np.testing.assert_allclose(out, scale * (EXPECTED - T[:, None]) + T[:, None], rtol=1e-6)
    call(jax.tree.unflatten(*reversed(jax.tree.flatten(network))), params)
    assert len(traces) == 1
    assert type(network).__name__ in repr(network)


@every_adapter
def test_leaves_are_what_is_no_parameter(name):
    expected = {"nnx": 2, "equinox": 1}  # dropout's key and count; the powers
    leaves = jax.tree.leaves(ADAPTED[name]())
    assert len(leaves) == expected.get(name, 0)
    assert not any(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves)


class Fixed(eqx.Module):
    """Parts that are parameters, arrays that are none, and a number."""

    scale: jax.Array
    table: np.ndarray
    power: jax.Array
    factor: float = 1.0

    def __call__(self, t, x):
        return self.factor * self.scale * self.table * x**self.power


class Counting(flax_nnx.Module):
    """Two of this class have one graph."""

    def __init__(self, scale, offset):
        self.scale = flax_nnx.Param(jnp.full(2, scale))
        self.offset = flax_nnx.BatchStat(jnp.full(2, offset))
        self.rate = 1.0

    def __call__(self, t, x):
        return self.rate * self.scale * x + self.offset


class Constant(nn.Module):
    value: float

    @nn.compact
    def __call__(self, t, x):
        return self.value * x


def scaled(scale, params, t, x):
    return scale * x


def once(params, t, x):
    return x @ params["matrix"]


def twice(params, t, x):
    return 2 * x @ params["matrix"]


def fixed(table, power, factor=1.0):
    return networks.equinox(Fixed(jnp.ones(2), np.full(2, table, int), jnp.array(power), factor))


PAIRS = {
    "equinox, integers": [fixed(1, 1), fixed(1, 2)],
    "equinox, a table": [fixed(1, 1), fixed(3, 1)],
    "equinox, a number": [fixed(1, 1), fixed(1, 1, 2.0)],
    "nnx": [networks.nnx(Counting(1.0, offset)) for offset in (0.0, 5.0)],
    "linen": [networks.linen(Constant(value)) for value in (1.0, 2.0)],
    "function": [networks.function(fn) for fn in (once, twice)],
    "partial": [networks.function(jax.tree_util.Partial(scaled, s)) for s in (1.0, 2.0)],
    "select": [networks.select(lambda *_, **__: {"a": X, "b": 2 * X}, name) for name in "ab"],
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_two_networks_are_never_taken_for_each_other(pair):
    call, _ = counted()
    kept = (networks.adapters.Equinox, networks.adapters.NNX)
    params = [n.init(None, T, X) if isinstance(n, kept) else {"matrix": jnp.eye(2)} for n in pair]
    first, second = (call(n, p) for n, p in zip(pair, params, strict=True))
    np.testing.assert_allclose(first, pair[0](params[0], T, X), rtol=1e-6)
    np.testing.assert_allclose(second, pair[1](params[1], T, X), rtol=1e-6)
    assert not np.allclose(first, second)


def test_a_module_that_was_changed_and_adapted_again_is_another():
    call, traces = counted()
    module = Counting(1.0, 0.0)
    before = networks.nnx(module)
    params = before.init(None, T, X)
    module.rate = 3.0
    module.offset.set_value(jnp.ones(2))
    after = networks.nnx(module)
    np.testing.assert_allclose(call(before, params), X, rtol=1e-6)
    np.testing.assert_allclose(call(after, params), 3 * X + 1, rtol=1e-6)
    np.testing.assert_allclose(call(before, params), X, rtol=1e-6)
    assert len(traces) == 2


KEPT = {
    "nnx": lambda scale: networks.nnx(Counting(scale, 0.0)),
    "equinox": lambda scale: networks.equinox(
        Fixed(jnp.full(2, scale), np.ones(2, int), jnp.array(1))
    ),
}


@pytest.mark.parametrize("adapt", KEPT.values(), ids=KEPT)
def test_initial_parameters_are_copies_of_those_that_the_module_holds(adapt):
    init = jax.jit(lambda network: network.init(None, T, X))
    for scale in (1.0, 2.0):
        network = adapt(scale)
        params = network.init(None, T, X)
        (leaf,) = jax.tree.leaves(params)
        np.testing.assert_array_equal(leaf, scale)
        leaf.delete()
        (leaf,) = jax.tree.leaves(init(network))
        np.testing.assert_array_equal(leaf, scale)
        shapes = jax.eval_shape(network.init, None, T, X)
        assert jax.tree.structure(shapes) == jax.tree.structure(params)

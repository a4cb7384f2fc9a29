"""Drawing a network's parameters at once gives what drawing them one by one would."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxflow import networks
from jaxflow.networks import initialisers

KEY = jax.random.key(0)


class Everything(nn.Module):
    """One large parameter of each initialiser."""

    @nn.compact
    def __call__(self, t, x):
        shapes = {"lecun": (3, 3, 60, 40), "xavier": (200, 300), "normal": (150, 150)}
        rules = {
            "lecun": initialisers.lecun,
            "xavier": initialisers.xavier,
            "normal": initialisers.normal(0.02),
        }
        for name, rule in rules.items():
            self.param(name, rule, shapes[name])
        self.param("zeros", initialisers.zeros, (7,))
        self.param("ones", initialisers.ones, (7,))
        return x


DEVIATIONS = {"lecun": 1 / math.sqrt(9 * 60), "xavier": math.sqrt(2 / 500), "normal": 0.02}


@pytest.fixture(scope="module")
def both():
    module = Everything()
    direct = jax.jit(module.init)(KEY, jnp.zeros(1), jnp.zeros(1))["params"]
    return networks.initialise(module, KEY, jnp.zeros(1), jnp.zeros(1)), direct


@pytest.mark.parametrize("name", DEVIATIONS)
def test_each_initialiser_has_its_mean_deviation_and_cut(both, name):
    for params in both:
        z = np.asarray(params[name], np.float64).ravel() / DEVIATIONS[name]
        n = len(z)
        cut = 2 / initialisers._CUT_DEVIATION
        kurtosis = 2.3665  # of a normal cut at two deviations
        assert abs(z.mean()) * math.sqrt(n) < 4
        assert abs(np.mean(z**2) - 1) / math.sqrt((kurtosis - 1) / n) < 4
        assert cut * 0.98 < np.abs(z).max() <= cut * (1 + 1e-6)


def test_constants(both):
    for params in both:
        assert np.all(params["zeros"] == 0)
        assert np.all(params["ones"] == 1)


def test_no_two_parameters_or_blocks_share_values():
    network = networks.linen(networks.MLP(width=160, depth=2))
    params = network.init(KEY, jnp.zeros(1), jnp.zeros((1, 3)))
    drawn = [np.ravel(p) for p in jax.tree.leaves(params) if np.any(p)]
    deviations = [np.unique(np.round(p / p.std(), 5)) for p in drawn]
    values, counts = np.unique(np.concatenate([d[:1] for d in deviations]), return_counts=True)
    assert counts.max() == 1
    assert len(values) == len(drawn)
    kernel = np.asarray(params["block_0"]["first"]["kernel"]).ravel()
    block = initialisers._BLOCK
    assert not np.array_equal(kernel[: kernel.size - block], kernel[block:])


@pytest.fixture(scope="module")
def transformer():
    module = networks.DiT(patch=2, width=16, depth=3, heads=2, num_classes=4)
    inputs = (jnp.zeros(2), jnp.zeros((2, 4, 4, 1)))
    return networks.linen(module), inputs, {"label": jnp.zeros(2, int)}


def test_it_is_a_function_of_the_key_and_the_same_traced_or_not(transformer):
    network, inputs, cond = transformer
    first, again = (network.init(KEY, *inputs, **cond) for _ in range(2))
    traced = jax.jit(network.init)(KEY, *inputs, **cond)
    abstract = jax.eval_shape(network.init, KEY, *inputs, **cond)
    other = network.init(jax.random.key(1), *inputs, **cond)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    # A normal number near 0 is as right as the even number near 1 / 2 that it is made of.
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(traced), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6 * np.abs(b).max())
    assert jax.tree.map(lambda a: (a.shape, a.dtype), first) == jax.tree.map(
        lambda a: (a.shape, a.dtype), abstract
    )
    kernel = first["blocks"]["attention"]["qkv"]["kernel"]
    assert not np.array_equal(kernel, other["blocks"]["attention"]["qkv"]["kernel"])
    assert not np.array_equal(kernel[0], kernel[1])


def test_it_has_the_shapes_and_deviations_of_the_module(transformer):
    network, inputs, cond = transformer
    ours = network.init(KEY, *inputs, **cond)
    theirs = jax.jit(network.module.init)(KEY, *inputs, **cond)["params"]

    def agree(a, b):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        if np.any(b):
            assert abs(np.log(a.std() / b.std())) < 4 * math.sqrt(1.37 / a.size)
        else:
            assert not np.any(a)

    jax.tree.map(agree, *jax.device_get((ours, theirs)))


def test_shapes_of_the_inputs_are_enough(transformer):
    network, inputs, cond = transformer
    shapes, named = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (inputs, cond))
    jax.tree.map(
        np.testing.assert_array_equal,
        network.init(KEY, *inputs, **cond),
        network.init(KEY, *shapes, **named),
    )


def test_parameters_are_born_sharded(transformer):
    network, inputs, cond = transformer
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec())
    params = jax.jit(network.init, out_shardings=sharding)(KEY, *inputs, **cond)
    assert all(leaf.sharding == sharding for leaf in jax.tree.leaves(params))


def test_a_network_larger_than_a_piece_is_the_same(transformer, monkeypatch):
    network, inputs, cond = transformer
    whole = network.init_on_host(KEY, *inputs, **cond)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(whole))
    monkeypatch.setattr(initialisers, "_PIECE", 8)
    pieces = network.init_on_host(KEY, *inputs, **cond)
    jax.tree.map(np.testing.assert_array_equal, whole, pieces)


def test_foreign_initialisers_give_what_the_module_gives():
    class Foreign(nn.Module):
        @nn.compact
        def __call__(self, t, x):
            return nn.Dense(3, kernel_init=nn.initializers.orthogonal())(x)

    t, x = jnp.zeros(2), jnp.zeros((2, 5))
    ours = networks.linen(Foreign()).init(KEY, t, x)
    theirs = Foreign().init(KEY, t, x)["params"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), ours, theirs)

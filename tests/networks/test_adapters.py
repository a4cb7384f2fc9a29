"""Every kind of network computes the same linear map, and switches dropout by its key alone."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx as flax_nnx

from jaxflow import networks

A = np.array([[1.0, -2.0], [0.5, 3.0]], np.float32)
T = jnp.array([0.1, 0.5, 0.9])
X = jnp.arange(6.0).reshape(3, 2)
EXPECTED = np.asarray(X) @ A + np.asarray(T)[:, None]


class LinenMap(nn.Module):
    @nn.compact
    def __call__(self, t, x):
        return nn.Dense(2, use_bias=False)(x) + t[:, None]


class LinenDropout(nn.Module):
    @nn.compact
    def __call__(self, t, x, deterministic):
        return nn.Dropout(0.5, deterministic=deterministic)(nn.Dense(2)(x))


class NNXMap(flax_nnx.Module):
    def __init__(self, rate=0.0):
        self.linear = flax_nnx.Linear(2, 2, use_bias=False, rngs=flax_nnx.Rngs(0))
        self.dropout = flax_nnx.Dropout(rate, rngs=flax_nnx.Rngs(1))

    def __call__(self, t, x):
        return self.dropout(self.linear(x)) + t[:, None]


class EquinoxMap(eqx.Module):
    linear: eqx.nn.Linear
    dropout: eqx.nn.Dropout
    powers: jax.Array

    def __init__(self, rate=0.0):
        self.linear = eqx.nn.Linear(2, 2, use_bias=False, key=jax.random.key(0))
        self.dropout = eqx.nn.Dropout(rate)
        self.powers = jnp.array(1)

    def __call__(self, t, x, *, key=None):
        return self.dropout(self.linear(x), key=key) + t**self.powers


def linear_networks():
    nnx, nnx_params = networks.nnx(NNXMap())
    nnx_params["linear"]["kernel"].set_value(jnp.asarray(A))
    equinox, equinox_params = networks.equinox(EquinoxMap())
    return {
        "linen": (networks.linen(LinenMap()), {"Dense_0": {"kernel": jnp.asarray(A)}}),
        "nnx": (nnx, nnx_params),
        "equinox": (equinox, jax.tree.map(lambda _: jnp.asarray(A.T), equinox_params)),
        "function": (networks.function(lambda p, t, x: x @ p + t[:, None]), jnp.asarray(A)),
        "select": (
            networks.select(networks.function(lambda p, t, x: {"v": x @ p + t[:, None]}), "v"),
            jnp.asarray(A),
        ),
    }


def dropping_networks():
    linen = networks.linen(LinenDropout())
    return {
        "linen": (linen, linen.init(jax.random.key(0), T, X)),
        "nnx": networks.nnx(NNXMap(0.5)),
        "equinox": networks.equinox(EquinoxMap(0.5)),
    }


@pytest.mark.parametrize("name", linear_networks())
def test_adapters_agree_with_a_closed_form(name):
    network, params = linear_networks()[name]
    for key in (None, jax.random.key(0)):
        np.testing.assert_allclose(network(params, T, X, key=key), EXPECTED, rtol=1e-6)


@pytest.mark.parametrize("name", linear_networks())
def test_a_network_is_an_argument_of_jit_and_new_parameters_do_not_retrace(name):
    network, params = linear_networks()[name]
    traces = []

    @jax.jit
    def call(network, params):
        traces.append(1)
        return network(params, T, X)

    for scale in (1.0, 2.0, 3.0):
        scaled = jax.tree.map(lambda p, s=scale: s * p, params)
        same = jax.tree.unflatten(*reversed(jax.tree.flatten(network)))
        out = call(same, scaled)
        np.testing.assert_allclose(out, scale * (EXPECTED - T[:, None]) + T[:, None], rtol=1e-6)
    assert len(traces) == 1
    assert hash(network) == hash(network)
    assert type(network).__name__ in repr(network)


@pytest.mark.parametrize("name", dropping_networks())
def test_dropout_is_off_without_a_key_and_a_function_of_it_with_one(name):
    network, params = dropping_networks()[name]
    x = jnp.ones((64, 2))
    t = jnp.zeros(64)

    def off(key):
        return jnp.mean(network(params, t, x, key=key) == 0)

    assert off(None) == 0
    share = off(jax.random.key(1))
    assert abs(share - 0.5) < 4 * 0.5 / np.sqrt(128)
    first, again, other = (network(params, t, x, key=jax.random.key(k)) for k in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_gradients_reach_the_parameters_of_every_adapter():
    for network, params in linear_networks().values():
        gradient = jax.grad(lambda p, n=network: jnp.sum(n(p, T, X)))(params)
        (leaf,) = jax.tree.leaves(gradient)
        total = np.asarray(X).sum(0)
        assert sorted(np.ravel(leaf)) == sorted(np.repeat(total, 2))


def test_linen_hashes_by_value():
    assert networks.linen(networks.MLP(width=8)) == networks.linen(networks.MLP(width=8))
    assert hash(networks.linen(networks.UNet(multipliers=[1, 2]))) == hash(
        networks.linen(networks.UNet(multipliers=(1, 2)))
    )


def test_an_unknown_condition_names_the_known_ones():
    network = networks.linen(networks.DiT(patch=2, width=8, depth=1, heads=1, num_classes=3))
    with pytest.raises(ValueError, match=r"no condition \['lable'\]; it takes \['label'\]"):
        network({}, T, jnp.zeros((3, 4, 4, 1)), lable=jnp.zeros(3, int))


@pytest.mark.parametrize(
    ("module", "event", "other"),
    [
        (networks.ConcatMLP(width=8), (2,), (5,)),
        (networks.DiT(width=8, depth=1, heads=1), (4, 4, 1), (4, 4, 3)),
    ],
)
def test_data_that_does_not_match_the_parameters(module, event, other):
    network = networks.linen(module)
    params = network.init(jax.random.key(0), T, jnp.zeros((3, *event)))
    with pytest.raises(ValueError, match=r"do not match data of shape \(3, .*Initialise"):
        network(params, T, jnp.zeros((3, *other)))
    with pytest.raises(ValueError, match=r"do not match data of shape \(3, .*Initialise"):
        network({"other": jnp.zeros(1)}, T, jnp.zeros((3, *event)))


def test_a_network_is_differentiated_forwards_and_mapped_over_single_examples(x64):
    network = networks.linen(networks.DiT(width=8, depth=1, heads=1))
    t, x = jnp.asarray(T, float), jnp.linspace(-1.0, 1.0, 48).reshape(3, 4, 4, 1)
    noise = np.random.default_rng(0)
    params = jax.tree.map(
        lambda p: p + noise.normal(size=p.shape), network.init(jax.random.key(0), t, x)
    )

    @jax.jit
    def slopes(params, t, x):
        one = jax.vmap(lambda t, x: network(params, t[None], x[None])[0])
        _, forwards = jax.jvp(lambda x: one(t, x), (x,), (jnp.ones_like(x),))
        _, pull = jax.vjp(lambda x: network(params, t, x), x)
        return jnp.vdot(forwards, x), jnp.vdot(pull(x)[0], jnp.ones_like(x))

    forwards, backwards = slopes(params, t, x)
    assert abs(backwards) > 0.1
    np.testing.assert_allclose(forwards, backwards, rtol=1e-12)


def test_an_output_that_is_not_there():
    network = networks.select(networks.function(lambda p, t, x: {"v": x}), "score")
    with pytest.raises(ValueError, match=r"no output 'score'; it has \['v'\]"):
        network(None, T, X)


def test_state_beside_parameters_is_refused():
    class Normalised(nn.Module):
        @nn.compact
        def __call__(self, t, x):
            return nn.BatchNorm(use_running_average=True)(x)

    with pytest.raises(ValueError, match="batch_stats"):
        networks.linen(Normalised()).init(jax.random.key(0), T, X)

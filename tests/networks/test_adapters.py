"""Every kind of network computes the same linear map, and switches dropout by its key alone."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx as flax_nnx

from jaxflow import networks
from tests.networks.maps import (
    ADAPTED,
    EXPECTED,
    KEY,
    EquinoxMap,
    NNXMap,
    T,
    X,
    every_adapter,
    linear,
)


class LinenDropout(nn.Module):
    @nn.compact
    def __call__(self, t, x, deterministic):
        return nn.Dropout(0.5, deterministic=deterministic)(nn.Dense(2)(x))


def dropping(name):
    network = {
        "linen": lambda: networks.linen(LinenDropout()),
        "nnx": lambda: networks.nnx(NNXMap(0.5)),
        "equinox": lambda: networks.equinox(EquinoxMap(0.5)),
    }[name]()
    return network, network.init(KEY, T, X)


@every_adapter
def test_adapters_agree_with_a_closed_form(name):
    network, params = linear(name)
    for key in (None, jax.random.key(0)):
        np.testing.assert_allclose(network(params, T, X, key=key), EXPECTED, rtol=1e-6)


@pytest.mark.parametrize("name", ["linen", "nnx", "equinox"])
def test_dropout_is_off_without_a_key_and_a_function_of_it_with_one(name):
    network, params = dropping(name)
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
    for network, params in map(linear, ADAPTED):
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
    words = r"no condition \['lable'\]; it takes \['estimate', 'guidance', 'label'\]"
    with pytest.raises(ValueError, match=words):
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


@pytest.mark.parametrize(
    ("module", "within"),
    [
        (networks.MLP(width=8, depth=1), 1e-12),
        # The softmax of JAX's attention is float32 for inputs of any type.
        (networks.DiT(width=8, depth=1, heads=1), 1e-6),
    ],
    ids=["mlp", "dit"],
)
def test_a_network_is_differentiated_forwards_and_mapped_over_single_examples(module, within, x64):
    network = networks.linen(module)
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
    np.testing.assert_allclose(forwards, backwards, rtol=within)


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


def masked_mean(tokens, mask):
    return (tokens * mask[..., None]).sum(-2) / mask.sum(-1, keepdims=True)


class LinenText(nn.Module):
    @nn.compact
    def __call__(self, t, x, *, text, r):
        return x + nn.Dense(2)(masked_mean(**text)) + (r - t)[:, None]


class NNXText(flax_nnx.Module):
    def __init__(self):
        self.linear = flax_nnx.Linear(4, 2, rngs=flax_nnx.Rngs(0))

    def __call__(self, t, x, *, text, r):
        return x + self.linear(masked_mean(**text)) + (r - t)[:, None]


class EquinoxText(eqx.Module):
    linear: eqx.nn.Linear

    def __call__(self, t, x, *, text, r):
        return x + self.linear(masked_mean(**text)) + (r - t)


@pytest.mark.parametrize(
    "adapt",
    [
        lambda: networks.linen(LinenText()),
        lambda: networks.nnx(NNXText()),
        lambda: networks.equinox(EquinoxText(eqx.nn.Linear(4, 2, key=KEY))),
    ],
    ids=["linen", "nnx", "equinox"],
)
def test_nested_conditions_and_a_second_time_reach_the_module_as_they_are(adapt):
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((3, 5, 4)).astype(np.float32)
    mask = np.arange(5) < np.array([[1], [3], [5]])
    cond = {"text": {"tokens": jnp.asarray(tokens), "mask": jnp.asarray(mask)}, "r": T + 0.5}
    network = adapt()
    params = network.init(KEY, T, X, **cond)
    (kernel,) = (p for p in jax.tree.leaves(params) if p.ndim == 2)
    (bias,) = (p for p in jax.tree.leaves(params) if p.ndim == 1)
    kernel = kernel if kernel.shape == (4, 2) else kernel.T
    mean = np.stack([row[: mask.sum()].mean(0) for row, mask in zip(tokens, mask, strict=True)])
    expected = X + mean @ kernel + bias + 0.5
    out = jax.jit(lambda network, params, cond: network(params, T, X, **cond))(
        network, params, cond
    )
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"no condition \['txet'\]; it takes \['text'\]"):
        network(params, T, X, txet=cond["text"], r=T)


@pytest.mark.parametrize("name", ["linen", "nnx", "equinox"])
def test_a_module_of_one_time_says_so(name):
    network, params = linear(name)
    with pytest.raises(ValueError, match="takes no second time: give its call r=None"):
        network(params, T, X, r=T)


MODULES = {"linen": networks.MLP(), "nnx": NNXMap(), "equinox": EquinoxMap()}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", MODULES)
def test_a_module_in_the_wrong_place_is_told_its_adapter(name):
    wrong = {"linen": networks.nnx, "nnx": networks.equinox, "equinox": networks.linen}[name]
    with pytest.raises(ValueError, match=rf"takes modules of .*: networks.{name} takes it"):
        wrong(MODULES[name])
    for take in (networks.function, lambda module: networks.select(module, "v")):
        with pytest.raises(TypeError, match=rf"no network yet: .* by networks\.{name}\(module\)"):
            take(MODULES[name])
    with pytest.raises(ValueError, match=r"got function: networks.function takes plain functions"):
        getattr(networks, name)(lambda params, t, x: x)
    with pytest.raises(ValueError, match=r"got the class (\w+): make one, \1\(\.\.\.\)"):
        getattr(networks, name)(type(MODULES[name]))


def test_a_function_without_parameters_of_its_own():
    with pytest.raises(ValueError, match=r"networks.function\(fn, init\)"):
        networks.function(lambda p, t, x: x).init(KEY, T, X)


def test_modules_whose_structure_cannot_be_compared():
    class Table(nn.Module):
        table: jax.Array

    class Options(flax_nnx.Module):
        def __init__(self):
            self.options = flax_nnx.static({"a": 1})

    with pytest.raises(ValueError, match=r"Table does not hash.*conditions of arrays"):
        networks.linen(Table(jnp.ones(2)))
    with pytest.raises(ValueError, match=r"graph of Options does not hash"):
        networks.nnx(Options())

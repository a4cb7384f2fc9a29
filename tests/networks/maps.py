"""One linear map as every kind of network."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx as flax_nnx

from jaxflow import networks

KEY = jax.random.key(0)
A = np.array([[1.0, -2.0], [0.5, 3.0]], np.float32)
T = jnp.array([0.1, 0.5, 0.9])
X = jnp.arange(6.0).reshape(3, 2)
EXPECTED = np.asarray(X) @ A + np.asarray(T)[:, None]


class LinenMap(nn.Module):
    @nn.compact
    def __call__(self, t, x):
        return nn.Dense(2, use_bias=False)(x) + t[:, None]


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


def linear_map(params, t, x):
    return x @ params + t[:, None]


LINEN, NNX, EQUINOX = LinenMap(), NNXMap(), EquinoxMap()
ADAPTED = {
    "linen": lambda: networks.linen(LINEN),
    "nnx": lambda: networks.nnx(NNX),
    "equinox": lambda: networks.equinox(EQUINOX),
    "function": lambda: networks.function(linear_map, initial),
    "select": lambda: networks.select(networks.function(linear_mapping, initial), "v"),
}
every_adapter = pytest.mark.parametrize("name", ADAPTED)


def initial(key, t, x):
    return jnp.zeros((x.shape[-1], 2))


def linear_mapping(params, t, x):
    return {"v": linear_map(params, t, x)}


def linear(name):
    """A network, and its parameters with the matrix that is known."""
    network = ADAPTED[name]()
    params = network.init(KEY, T, X)
    matrix = A.T if name == "equinox" else A
    return network, jax.tree.map(lambda _: jnp.asarray(matrix), params)

"""The perceptron of `jaxflow.networks.ConcatMLP` as an NNX module."""

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks.moons import Layers
from jaxflow.networks.mlp import selu


class Perceptron(nnx.Module):
    """The layers given, on the last axis of `[x, t]`."""

    def __init__(self, layers: Layers):
        self.layers = nnx.List([_dense(*layer) for layer in layers])

    def __call__(self, t: jax.Array, x: jax.Array) -> jax.Array:
        h = jnp.concatenate([x, jnp.broadcast_to(t, (*x.shape[:-1], 1))], axis=-1)
        for layer in self.layers[:-1]:
            h = selu(layer(h))
        return self.layers[-1](h)


def _dense(kernel: jax.Array, bias: jax.Array) -> nnx.Linear:
    layer = nnx.Linear(*kernel.shape, rngs=nnx.Rngs(0))
    layer.kernel, layer.bias = nnx.Param(jnp.asarray(kernel)), nnx.Param(jnp.asarray(bias))
    return layer

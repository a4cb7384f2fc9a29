"""Perceptrons for any event shape.

(1)  MLP:        h <- h + W2 silu(W1 (norm(h) (1 + scale(c)) + shift(c))),   depth times
(2)  ConcatMLP:  h <- selu(W h),  depth times, from h = [x, t, conditions]
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxflow.arrays import at_least_float32
from jaxflow.networks.embeddings import Conditioning, check_time
from jaxflow.networks.initialisers import lecun, zeros
from jaxflow.networks.layers import check_fields, dense, layer_norm
from jaxflow.types import Array, Data, Float, Int, Time

__all__ = ["MLP", "ConcatMLP", "selu"]


class MLP(nn.Module):
    """A residual perceptron (1), told of time, label and any other condition by modulation.

    Zero at initialisation. `x` may have any event shape; the output has the same.

    Attributes:
        width: of the hidden layers.
        depth: residual blocks.
        num_classes: labels run from 0 to `num_classes - 1`, and `num_classes` is none.
        dropout: share of hidden units dropped in training.
        dtype: of the computation; parameters and output are at least float32.
    """

    width: int = 256
    depth: int = 3
    num_classes: int | None = None
    dropout: float = 0.0
    dtype: Any = None

    def __post_init__(self) -> None:
        check_fields(self, width=1, depth=0)
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        t: Time,
        x: Data,
        *,
        label: Int[Array, "batch"] | None = None,
        deterministic: bool = True,
        **cond: Float[Array, "batch ..."],
    ) -> Data:
        c = Conditioning(self.width, self.num_classes, name="conditioning")(t, x, label)
        projected = [dense(self.width, name=name)(_flat(cond[name])) for name in sorted(cond)]
        c = nn.silu(jnp.concatenate([c, *projected], axis=-1))
        flat = _flat(x)
        h = dense(self.width, dtype=self.dtype, name="inward")(flat)
        for i in range(self.depth):
            block = _Block(self.width, self.dropout, self.dtype, name=f"block_{i}")
            h = block(h, c, deterministic)
        out = dense(flat.shape[-1], kernel_init=zeros, name="outward")
        return out(at_least_float32(layer_norm(h))).reshape(x.shape)


class _Block(nn.Module):
    width: int
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, h: Array, c: Array, deterministic: bool) -> Array:
        shift, scale = jnp.split(
            dense(2 * self.width, dtype=self.dtype, name="modulation")(c), 2, -1
        )
        y = layer_norm(h) * (1 + scale) + shift
        y = nn.silu(dense(self.width, dtype=self.dtype, name="first")(y))
        y = nn.Dropout(self.dropout, deterministic=deterministic)(y)
        return h + dense(self.width, dtype=self.dtype, name="second")(y)


def selu(x: Array) -> Array:
    """The scaled exponential linear unit, by `exp` rather than the slower `expm1`.

    The difference is a rounding of the size of float32's next to 1. Klambauer et al.,
    Self-Normalizing Neural Networks, 2017, arXiv:1706.02515, eq. 2.
    """
    negative = 1.6732632423543772 * (jnp.exp(jnp.minimum(x, 0)) - 1)
    return 1.0507009873554805 * jnp.where(x > 0, x, negative)


class ConcatMLP(nn.Module):
    """A plain perceptron (2) on `x`, `t` and the conditions side by side, for small problems.

    Attributes:
        width: of the hidden layers.
        depth: hidden layers.
        activation: after each hidden layer.
    """

    width: int = 64
    depth: int = 3
    activation: Callable[[Array], Array] = selu

    def __post_init__(self) -> None:
        check_fields(self, width=1, depth=0)
        super().__post_init__()

    @nn.compact
    def __call__(self, t: Time, x: Data, **cond: Float[Array, "batch ..."]) -> Data:
        check_time(t, x)
        flat = _flat(x)
        h = jnp.concatenate([flat, t[:, None], *(_flat(cond[n]) for n in sorted(cond))], axis=-1)
        for _ in range(self.depth):
            h = self.activation(nn.Dense(self.width, kernel_init=lecun, bias_init=zeros)(h))
        out = nn.Dense(flat.shape[-1], kernel_init=lecun, bias_init=zeros)(h)
        return out.reshape(x.shape)


def _flat(x: Data) -> Float[Array, "batch features"]:
    return jnp.reshape(x, (len(x), -1))

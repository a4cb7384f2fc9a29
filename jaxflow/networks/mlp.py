"""Perceptrons for any event shape.

(1)  MLP:        h <- h + W2 silu(W1 (norm(h) (1 + scale(c)) + shift(c))),   depth times
(2)  ConcatMLP:  h <- selu(W h),  depth times, from h = [x, t, conditions, r - t]

Both take a time a frame or a token too, `t [batch, *leading event axes]`, for a fixed number of
them, and a second time `r` of the shape of `t` (see `jaxflow.networks.embeddings`).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.tree_util import all_leaves

from jaxflow.arrays import at_least_float32
from jaxflow.networks.embeddings import Conditioning, check_times, span_of
from jaxflow.networks.initialisers import lecun, zeros
from jaxflow.networks.layers import check_fields, dense, layer_norm, regathering
from jaxflow.types import AnyArray, Array, Data, Float, Labels, Shaped, Time

__all__ = ["MLP", "ConcatMLP", "selu"]


class MLP(nn.Module):
    """A residual perceptron (1), told of times, label and any other condition by modulation.

    Zero at initialisation. `x` may have any event shape; the output has the same. A condition is an
    array, flattened and projected.

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

    gathers = True

    def __post_init__(self) -> None:
        check_fields(self, width=1, depth=0)
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        t: Time,
        x: Data,
        *,
        r: Time | None = None,
        label: Labels | None = None,
        guidance: Float[AnyArray, "batch 3"] | None = None,
        deterministic: bool = True,
        **cond: Shaped[AnyArray, "batch ..."],
    ) -> Data:
        _check_conditions(self, cond)
        c = Conditioning(self.width, self.num_classes, name="conditioning")
        c = c(t, x, label, r, guidance)
        projected = [dense(self.width, name=name)(_flat(cond[name])) for name in sorted(cond)]
        c = nn.silu(jnp.concatenate([c, *projected], axis=-1))
        flat = _flat(x)
        h = dense(self.width, dtype=self.dtype, name="inward")(flat)
        for i in range(self.depth):
            block = regathering(_Block, static_argnums=(3,))(
                self.width, self.dropout, self.dtype, name=f"block_{i}"
            )
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
    """A plain perceptron (2) on `x`, times and conditions side by side, for small problems.

    The weights of `r - t` stand apart, and are there only if the network was initialised with `r`;
    they are zero then.

    Attributes:
        width: of the hidden layers.
        depth: hidden layers.
        activation: after each hidden layer.
    """

    width: int = 64
    depth: int = 3
    activation: Callable[[Array], Array] = selu

    gathers = True

    def __post_init__(self) -> None:
        check_fields(self, width=1, depth=0)
        super().__post_init__()

    @nn.compact
    def __call__(
        self, t: Time, x: Data, *, r: Time | None = None, **cond: Shaped[AnyArray, "batch ..."]
    ) -> Data:
        check_times(t, x, r)
        _check_conditions(self, cond)
        inputs = [_flat(x), _flat(t), *(_flat(cond[name]) for name in sorted(cond))]
        widths = [*[self.width] * self.depth, inputs[0].shape[-1]]
        joined = jnp.concatenate(inputs, axis=-1)
        h = _lecun_dense(widths[0])(joined)
        if r is not None:
            span = _flat(span_of(t, r))
            h = h + dense(widths[0], use_bias=False, kernel_init=zeros, name="span")(span)
        for width in widths[1:]:
            h = _lecun_dense(width)(self.activation(h))
        return h.reshape(x.shape)


_lecun_dense = partial(dense, kernel_init=lecun)


def _flat(x: Data) -> Float[Array, "batch features"]:
    return jnp.reshape(x, (len(x), -1))


def _check_conditions(module: nn.Module, cond: dict[str, Any]) -> None:
    for name, value in cond.items():
        if not all_leaves([value]):
            raise ValueError(
                f"condition {name!r} is a {type(value).__name__}, and {type(module).__name__} "
                "takes arrays [batch, ...]: pool a sequence over its mask before, or pass a module "
                "of your own that attends to it, by jaxflow.networks.linen"
            )

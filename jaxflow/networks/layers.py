"""The layers that the networks are built of.

    (1)  group norm:  (x - mean) / sqrt(variance + eps), over a group of channels and all places
    (2)  layer norm:  (1) over the channels of each place
    (3)  modulation:  x (1 + scale) + shift

Statistics are float32 whatever the network computes in; the result has the dtype of `x`.
"""

from functools import partial
from numbers import Integral
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype

from jaxflow.arrays import at_least_float32
from jaxflow.networks.initialisers import normal, ones, xavier, zeros
from jaxflow.sharding import all_but_gathered, gathered, gathers_here, keeps_gathered
from jaxflow.types import AnyArray, Array, Float, Int

__all__ = [
    "Attention",
    "GroupNorm",
    "Neighbours",
    "beside",
    "check_fields",
    "conv",
    "dense",
    "for_tokens",
    "layer_norm",
    "modulate",
    "rotated",
    "token_table",
]


def at_use(tensor: int | None = None) -> Any:
    """`promote_dtype` of a Flax layer whose parameters are gathered where it uses them.

    Args:
        tensor: the axis of the kernel that the tensor axis of a mesh cuts: -1 by columns, and the
            bias with it, -2 by rows; as in `jaxflow.sharding.cut`.
    """

    def promote(inputs: AnyArray, *params: AnyArray | None, **dtypes: Any) -> list[Any]:
        inputs, *cast = promote_dtype(inputs, *params, **dtypes)
        return [inputs, *(p if p is None else gathered(p, tensor=tensor) for p in cast)]

    return promote


def regathering(block: Any, *, prevent_cse: bool = True, static_argnums: Any = ()) -> Any:
    """A block whose gathered parameters are freed after it, and gathered again on the way back.

    Everything else is kept, and on a mesh that gathers nothing, or where the step keeps what it
    gathered, the block is as it was.
    """
    if keeps_gathered() or not gathers_here():
        return block
    return nn.remat(
        block, policy=all_but_gathered, prevent_cse=prevent_cse, static_argnums=static_argnums
    )


def table_at_use(*tables: AnyArray | None, **dtypes: Any) -> list[Any]:
    """`at_use` for a table of embeddings."""
    cast = promote_dtype(*tables, **dtypes)
    return [None if a is None else gathered(a, table=True) for a in cast]


def token_table(vocabulary: int, features: int, dtype: Any, name: str) -> nn.Embed:
    """A vector of deviation 1 for each token, and for the mask after them."""
    return nn.Embed(
        vocabulary + 1,
        features,
        dtype=dtype,
        embedding_init=normal(1.0),
        promote_dtype=table_at_use,
        name=name,
    )


dense = partial(nn.Dense, kernel_init=xavier, bias_init=zeros, promote_dtype=at_use())
column = partial(dense, promote_dtype=at_use(-1))
row = partial(dense, promote_dtype=at_use(-2))
conv = partial(nn.Conv, kernel_init=xavier, bias_init=zeros, promote_dtype=at_use())


def beside(x: Any, estimate: Any) -> Any:
    """The image with an estimate of its own, if there is one, as more channels.

    Raises:
        ValueError: where the estimate is of another size.
    """
    if estimate is None:
        return x
    if estimate.shape[:-1] != x.shape[:-1]:
        raise ValueError(
            f"estimate has shape {estimate.shape} beside x of {x.shape}: it is what the network "
            "said of x, and differs in channels at most"
        )
    return jnp.concatenate([x, estimate], axis=-1)


def check_fields(module: nn.Module, **least: int) -> None:
    """Refuse sizes that are no whole numbers or too small, and a share or a type that is none.

    Args:
        module: whose `dropout`, `dtype`, `num_classes` and `out_channels`, where it has them, are
            checked too.
        **least: the smallest value of each size, by name; of a tuple, of each in it.

    Raises:
        ValueError: naming the field and what it is.
    """
    name = type(module).__name__
    given = (f for f in ("num_classes", "out_channels") if getattr(module, f, None) is not None)
    least |= dict.fromkeys(given, 1)
    for field, smallest in least.items():
        value = getattr(module, field)
        for size in value if isinstance(value, tuple | list) else (value,):
            if not isinstance(size, Integral) or size < smallest:
                raise ValueError(
                    f"{name} takes whole numbers of at least {smallest} for {field}; got {value!r}"
                )
    dropout = getattr(module, "dropout", 0.0)
    if not 0 <= dropout < 1:
        raise ValueError(f"{name} takes a share in [0, 1) for dropout; got {dropout!r}")
    try:
        jnp.dtype(getattr(module, "dtype", None) or jnp.float32)
    except TypeError:
        raise ValueError(f"{name} knows no dtype {module.dtype!r}") from None  # type: ignore[attr-defined]


def layer_norm(x: Array, *, epsilon: float = 1e-6) -> Array:
    """Equation (2), without learned scale and shift."""
    centred = at_least_float32(x)
    centred = centred - jnp.mean(centred, -1, keepdims=True)
    variance = jnp.mean(centred * centred, -1, keepdims=True)
    return (centred * jax.lax.rsqrt(variance + epsilon)).astype(x.dtype)


def modulate(x: Array, shift: Array, scale: Array) -> Array:
    """Equation (3), for `x [batch, tokens, channels]`, the rest one an example or one a token."""
    return x * (1 + for_tokens(scale)) + for_tokens(shift)


def for_tokens(c: Array) -> Array:
    """`[batch, channels]` for all tokens of an example; `[batch, tokens, channels]` as they are."""
    return c if c.ndim == 3 else c[:, None]


class GroupNorm(nn.Module):
    """Equation (1) with a learned scale and shift a channel, for `[batch, *places, channels]`.

    Where None there are as many groups as divide the channels, 32 at most, and of four channels
    each at least: in a group of one, whatever was added to all places alike (a time, a label) would
    be taken away again.
    """

    groups: int | None = None
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        groups = self.groups or _most_groups(channels)
        if channels % groups:
            raise ValueError(f"{groups} groups do not divide {channels} channels: take a multiple")
        scale = gathered(self.param("scale", ones, (channels,)))
        bias = gathered(self.param("bias", zeros, (channels,)))
        places = at_least_float32(x).reshape(len(x), -1, channels)
        centred = places - _group_mean(places, groups)
        variance = _group_mean(centred * centred, groups)
        gain = jax.lax.rsqrt(variance + self.epsilon) * scale
        return (centred * gain + bias).reshape(x.shape).astype(x.dtype)


def _most_groups(channels: int) -> int:
    most = max(1, min(32, channels // 4))
    return next(n for n in range(most, 0, -1) if channels % n == 0)


def _group_mean(places: Array, groups: int) -> Array:
    """Over places first: reducing over places and group at once is three times slower."""
    channels = jnp.mean(places, axis=1, keepdims=True)
    grouped = channels.reshape(len(places), 1, groups, -1)
    means = jnp.broadcast_to(jnp.mean(grouped, -1, keepdims=True), grouped.shape)
    return means.reshape(channels.shape)


class Attention(nn.Module):
    """Self-attention over `[batch, tokens, channels]`.

    `implementation` is that of `jax.nn.dot_product_attention`; in float32 and beyond it is XLA's,
    for cuDNN's takes half precision alone. The columns of the `qkv` kernel lie head by head, so
    that a cut between heads cuts the kernel. With `rotary` queries and keys are turned by their
    places (`rotated`).

    A `mask`, bools that broadcast to `[batch, heads, queries, keys]`, says what each token sees.
    With a `memory` of the keys and values of other tokens, `[batch, others, heads, features]`,
    these come before those of `x`, which are returned too.
    """

    heads: int
    implementation: str | None = None
    dtype: Any = None
    out_init: Any = xavier
    rotary: bool = False

    @nn.compact
    def __call__(
        self,
        x: Array,
        mask: Array | None = None,
        places: Array | None = None,
        memory: tuple[Array, Array] | None = None,
    ) -> Any:
        batch, tokens, channels = x.shape
        if channels % self.heads:
            raise ValueError(
                f"{self.heads} heads do not divide {channels} channels: take a multiple, "
                "or another number of heads"
            )
        qkv = column(3 * channels, dtype=self.dtype, name="qkv")(x)
        q, k, v = jnp.moveaxis(qkv.reshape(batch, tokens, self.heads, 3, -1), 3, 0)
        if self.rotary:
            q, k = rotated(q, places), rotated(k, places)
        own = k, v
        if memory is not None:
            k, v = (
                jnp.concatenate([m, o.astype(m.dtype)], 1) for m, o in zip(memory, own, strict=True)
            )
        attention: Any = jax.nn.dot_product_attention
        bits = jnp.finfo(q.dtype).bits
        if bits == 64:
            h = _in_float64(q, k, v, mask)
        else:
            by = self.implementation if bits < 32 else None
            h = attention(q, k, v, mask=mask, implementation=by)
        h = h.reshape(batch, tokens, channels)
        h = row(channels, dtype=self.dtype, kernel_init=self.out_init, name="out")(h)
        return h if memory is None else (h, own)


class Neighbours(nn.Module):
    r"""Each token with those beside it, weighed channel by channel; itself alone when initialised.

    (4) $x_i + \sum_j w_j\, x_{i + j}$, $|j| \le r$, for $2 r + 1$ taps, zeros beyond the ends

    What stands beside a token is what attention is slow to learn. So et al., 2021, Primer,
    arXiv:2109.08668, have such a convolution after the projections of attention; this is Allen-Zhu,
    2025, Physics of Language Models: Part 4.1, Canon layers, that of kind A, in both directions.
    """

    taps: int

    @nn.compact
    def __call__(self, x: Float[Array, "batch tokens channels"]) -> Array:
        weights = gathered(self.param("taps", zeros, (self.taps, x.shape[-1])).astype(x.dtype))
        padded = jnp.pad(x, ((0, 0), (self.taps // 2,) * 2, (0, 0)))
        return x + sum(padded[:, j : j + x.shape[1]] * weights[j] for j in range(self.taps))


def _in_float64(q: Array, k: Array, v: Array, mask: Array | None) -> Array:
    """Attention whose softmax is of float64 too, where JAX's is of float32."""
    scores = jnp.einsum("bqhf,bkhf->bhqk", q, k) / np.sqrt(q.shape[-1])
    shares = jax.nn.softmax(scores, axis=-1, where=mask)
    return jnp.einsum("bhqk,bkhf->bqhf", shares, v)


def rotated(
    x: Float[Array, "batch tokens heads features"], places: Int[AnyArray, "tokens"] | None = None
) -> Array:
    """Pairs of features turned by angles that grow with the place, at rates of 1 down to 1e-4.

    The product of a query and a key so turned depends on how far apart they are alone (Su et al.,
    2021, RoFormer, arXiv:2104.09864, eq. 16 and 34, the pairs being halves of the features).
    Places are those of the tokens' order where None.

    Raises:
        ValueError: for an odd number of features.
    """
    half, odd = divmod(x.shape[-1], 2)
    if odd:
        raise ValueError(f"rotary places need an even number of features a head; got {x.shape[-1]}")
    rates = 10000.0 ** (-np.arange(half) / half)
    if places is None:
        angles: Any = np.arange(x.shape[1])[:, None] * rates
        cosine, sine = (jnp.asarray(f(angles), jnp.float32)[:, None] for f in (np.cos, np.sin))
    else:
        angles = places[:, None] * rates.astype(np.float32)
        cosine, sine = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
    a, b = jnp.split(at_least_float32(x), 2, axis=-1)
    turned = jnp.concatenate([a * cosine - b * sine, a * sine + b * cosine], axis=-1)
    return turned.astype(x.dtype)

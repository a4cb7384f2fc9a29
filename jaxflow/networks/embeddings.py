"""Times, spans of time, labels and positions as vectors.

    (1)  time:      [cos(10 t w_k), sin(10 t w_k)],   w_k = 10000^(-k / half),  k < half
    (2)  label:     a row of a table, whose last row, `num_classes`, stands for no label
    (3)  position:  (1) without the 10, of the row and of the column
    (4)  span:      (1) of r - t less (1) of zero, so that no span is no vector
    (5)  guidance:  (1) of 1 - 1 / scale and of the first and last times of guidance, less those of
                    scale 1 at all times, so that no guidance is no vector

after Vaswani et al., 2017, Attention Is All You Need, arXiv:1706.03762, section 3.5, and
Peebles & Xie, 2022, Scalable Diffusion Models with Transformers, arXiv:2212.09748. A network of two
times, which carries `x` from `t` to `r`, is told `t` and the span, the best pair of Geng et al.,
2025, Mean Flows for One-step Generative Modeling, arXiv:2505.13447, table 1c (mirrored: their r is
the earlier time, their noise at 1). Guidance as a condition, and its first number, are of Geng et
al., 2025, Improved Mean Flows, arXiv:2512.02012.

The angles go to 10, not to the 1000 of diffusion's steps: losses of flow maps differentiate a
network by its time, which angles of 1000 make a hundred times its size. A plain flow learns as well
from either; MeanFlow on digits, one step, ends at a Frechet distance of 0.75 or of 21.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jaxflow.arrays import at_least_float32, expand
from jaxflow.networks.initialisers import normal, zeros
from jaxflow.networks.layers import dense, table_at_use
from jaxflow.types import AnyArray, Array, Data, Float, Labels, Time

__all__ = [
    "Conditioning",
    "GuidanceEmbedding",
    "LabelEmbedding",
    "SpanEmbedding",
    "TimeEmbedding",
    "check_one_time",
    "check_times",
    "positions",
    "sinusoidal",
    "span_of",
]

Embedded = Float[Array, "batch *lead features"]


def sinusoidal(t: Time, features: int, *, scale: float = 10.0) -> Embedded:
    """Embed times by (1), in at least float32 whatever the network computes in.

    Args:
        t: times in [0, 1], of any shape.
        features: length of the embedding, even.
        scale: the largest angle, of time 1.

    Raises:
        ValueError: for an odd number of features.

    >>> sinusoidal(jnp.zeros(3), 4)[0]
    Array([1., 1., 0., 0.], dtype=float32)
    """
    if features % 2:
        raise ValueError(f"a sinusoidal embedding needs an even number of features; got {features}")
    angles = scale * at_least_float32(t)[..., None] * _frequencies(features // 2)
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def _frequencies(half: int) -> np.ndarray:
    return np.exp(-np.log(10000.0) * np.arange(half) / half).astype(np.float32)


def positions(height: int, width: int, features: int) -> np.ndarray:
    """The fixed table (3), `[height * width, features]`, row by row.

    Raises:
        ValueError: where the features cannot be shared between two axes of sine and cosine.
    """
    if features % 4:
        raise ValueError(f"positions in 2-D need features divisible by 4; got {features}")
    rows, columns = np.divmod(np.arange(height * width), width)
    angles = np.concatenate(
        [axis[:, None] * _frequencies(features // 4) for axis in (rows, columns)], axis=-1
    )
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1).astype(np.float32)


def check_times(t: Time, x: Data, r: Time | None = None) -> None:
    """One time an example, or one for each place of the leading event axes.

    Raises:
        ValueError: for any other shape of `t`, or another one of `r`.
    """
    expand(t, x)
    if r is not None and jnp.shape(r) != jnp.shape(t):
        raise ValueError(
            f"r has shape {jnp.shape(r)} and t {jnp.shape(t)}: r, the time to which x is carried, "
            "has the shape of t"
        )


def check_one_time(t: Time, x: Data) -> None:
    """One time an example.

    Raises:
        ValueError: for any other shape of `t`.
    """
    if jnp.shape(t) != jnp.shape(x)[:1]:
        raise ValueError(
            f"t has shape {jnp.shape(t)} and x {jnp.shape(x)}: this network takes one time an "
            "example, t [batch]; use jnp.full(len(x), t) for one time for all, and MLP or "
            "ConcatMLP for a time a frame or a token"
        )


def span_of(t: Time, r: Time) -> Time:
    """`r - t`, in at least float32."""
    return at_least_float32(r) - at_least_float32(t)


class TimeEmbedding(nn.Module):
    """A two-layer perceptron on (1), in float32."""

    features: int
    frequencies: int = 256

    @nn.compact
    def __call__(self, t: Time) -> Embedded:
        h = sinusoidal(t, self.frequencies)
        h = nn.silu(dense(self.features, kernel_init=normal(0.02))(h))
        return dense(self.features, kernel_init=normal(0.02))(h)


def _unbiased(h: Array, features: int) -> Array:
    """A two-layer perceptron that keeps zero at zero, and all else there at initialisation."""
    h = nn.silu(dense(features, use_bias=False, kernel_init=normal(0.02))(h))
    return dense(features, use_bias=False, kernel_init=zeros)(h)


class SpanEmbedding(nn.Module):
    """A two-layer perceptron without biases on (4), in float32: zero where the span is.

    Zero at initialisation too, so that a network that was trained on one time and is given a second
    is at first the same for every `r`.
    """

    features: int
    frequencies: int = 256

    @nn.compact
    def __call__(self, span: Time) -> Embedded:
        h = sinusoidal(span, self.frequencies)
        h = h - sinusoidal(jnp.zeros_like(span), self.frequencies)
        return _unbiased(h, self.features)


class GuidanceEmbedding(nn.Module):
    """A two-layer perceptron without biases on (5), in float32: zero where nothing is guided.

    Zero at initialisation too, as `SpanEmbedding` is.
    """

    features: int
    frequencies: int = 256

    @nn.compact
    def __call__(self, guidance: Float[AnyArray, "batch 3"]) -> Float[Array, "batch features"]:
        if guidance.ndim != 2 or guidance.shape[1] != 3:
            raise ValueError(
                f"guidance has shape {guidance.shape}: each example has a scale and the first and "
                "last times at which it is guided, [batch, 3]"
            )
        scale, low, high = at_least_float32(guidance).T
        told = jnp.stack([1 - 1 / scale, low, high], axis=-1)
        h = sinusoidal(told, self.frequencies)
        h = h - sinusoidal(jnp.asarray([0.0, 0.0, 1.0], told.dtype), self.frequencies)
        h = h.reshape(len(h), -1)
        return _unbiased(h, self.features)


class LabelEmbedding(nn.Module):
    """A vector a class, and one for no class: label `num_classes`, which guidance needs."""

    num_classes: int
    features: int

    @nn.compact
    def __call__(self, label: Labels) -> Float[Array, "batch features"]:
        if not jnp.issubdtype(jnp.result_type(label), jnp.integer):
            raise ValueError(
                f"label has dtype {jnp.result_type(label)}: a label is an integer from 0 to "
                f"{self.num_classes - 1}, or {self.num_classes} for none; use label.astype(int)"
            )
        rows = self.num_classes + 1
        table = nn.Embed(
            rows, self.features, embedding_init=normal(0.02), promote_dtype=table_at_use
        )
        return table(label)


class Conditioning(nn.Module):
    """Times, label and guidance as one vector, the sum of theirs.

    Where `t` has leading event axes, the vectors of the times are laid side by side and projected.
    Where `r` is given, each time's span `r - t` adds a vector, and `guidance` (`draws.guidance`)
    one; parameters for either are there only if the network was initialised with it.

    Raises:
        ValueError: for a `t`, `r` or `guidance` of the wrong shape, and a label that is missing or
            not wanted.
    """

    features: int
    num_classes: int | None = None
    frequencies: int = 256

    @nn.compact
    def __call__(
        self,
        t: Time,
        x: Data,
        label: Labels | None = None,
        r: Time | None = None,
        guidance: Float[AnyArray, "batch 3"] | None = None,
    ) -> Float[Array, "batch features"]:
        check_times(t, x, r)
        c = TimeEmbedding(self.features, self.frequencies, name="time")(t)
        if r is not None:
            c = c + SpanEmbedding(self.features, self.frequencies, name="span")(span_of(t, r))
        if c.ndim > 2:
            c = dense(self.features, name="times")(c.reshape(len(c), -1))
        if guidance is not None:
            told = GuidanceEmbedding(self.features, self.frequencies, name="guidance")
            c = c + told(guidance)
        if self.num_classes is None:
            if label is not None:
                raise ValueError("label was given to a network without classes: set num_classes")
            return c
        if label is None:
            raise ValueError(
                f"label is missing: this network has {self.num_classes} classes; pass label "
                f"[batch], with {self.num_classes} where there is none"
            )
        return c + LabelEmbedding(self.num_classes, self.features, name="label")(label)

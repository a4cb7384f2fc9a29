"""Where a flow starts: `sample(keys [batch], event_shape) -> x0` and `log_prob(x0)` in nats."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.arrays import at_least_float32, event_sum, per_sample
from jaxflow.checks import check_made
from jaxflow.records import record, static, traceable
from jaxflow.tokens import at_token, chosen
from jaxflow.types import AnyArray, Array, Data, Float, Keys, Shaped, Source

__all__ = [
    "as_source",
    "data",
    "mask",
    "normal",
    "product",
    "tokens",
    "uniform",
    "uniform_tokens",
]


@record
class Normal:
    """The standard normal distribution."""

    def sample(self, keys: Keys, event_shape: tuple[int, ...]) -> Data:
        """One sample a key."""
        return per_sample(lambda key: jax.random.normal(key, event_shape), keys)

    def log_prob(self, x0: Data) -> Float[Array, "batch"]:
        """Log-density in nats."""
        return event_sum(jax.scipy.stats.norm.logpdf(at_least_float32(x0)))


@record
class Box:
    """The uniform distribution on the box `[low, high)` of every coordinate."""

    low: float = static()
    high: float = static()

    def sample(self, keys: Keys, event_shape: tuple[int, ...]) -> Data:
        """One sample a key."""
        low, high = self.low, self.high
        return per_sample(
            lambda key: jax.random.uniform(key, event_shape, minval=low, maxval=high), keys
        )

    def log_prob(self, x0: Data) -> Float[Array, "batch"]:
        """Log-density in nats; minus infinity outside the box."""
        width = self.high - self.low
        x0 = at_least_float32(x0)
        return event_sum(jax.scipy.stats.uniform.logpdf(x0, self.low, width))


@record
class Mask:
    """Every position holds the mask token."""

    token: int = static()

    def sample(self, keys: Keys, event_shape: tuple[int, ...]) -> Data:
        """The same masked event for every key."""
        return jnp.full((len(keys), *event_shape), self.token, jnp.int32)

    def log_prob(self, x0: Data) -> Float[Array, "batch"]:
        """Log-probability in nats: 0 for the masked event, minus infinity for any other."""
        return event_sum(self.log_probs(x0))

    def log_probs(self, x0: Data) -> Float[Array, "batch *event"]:
        """The log-probability of each token."""
        return jnp.where(jnp.asarray(x0) == self.token, 0.0, -jnp.inf)


@record
class Tokens:
    """Every position holds a token of its own, independent of the others."""

    log_weights: Float[Array, "*event vocabulary"]

    def sample(self, keys: Keys, event_shape: tuple[int, ...]) -> Data:
        """One sample a key.

        Raises:
            ValueError: where weights a position are those of another event.
        """
        self._check(event_shape)
        weights = jnp.exp(self.log_weights)
        return per_sample(
            lambda key: chosen(jax.random.uniform(key, event_shape, weights.dtype), weights), keys
        )

    def log_prob(self, x0: Data) -> Float[Array, "batch"]:
        """Log-probability in nats."""
        return event_sum(self.log_probs(x0))

    def log_probs(self, x0: Data) -> Float[Array, "batch *event"]:
        """The log-probability of each token; minus infinity for one outside the vocabulary."""
        x0 = jnp.asarray(x0)
        self._check(x0.shape[1:])
        if self.log_weights.ndim > 1:
            return jax.vmap(at_token, (None, 0))(self.log_weights, x0)
        last = len(self.log_weights) - 1
        inside = (x0 >= 0) & (x0 <= last)
        return jnp.where(inside, self.log_weights[jnp.clip(x0, 0, last)], -jnp.inf)

    def _check(self, event_shape: tuple[int, ...]) -> None:
        own = self.log_weights.shape[:-1]
        if own and own != tuple(event_shape):
            raise ValueError(
                f"the source has the weights of tokens at places {own}, but the data has "
                f"{tuple(event_shape)}: give weights [vocabulary] for all places alike"
            )


@record
class Rows:
    """Rows of an array, drawn with replacement."""

    rows: Array

    def sample(self, keys: Keys, event_shape: tuple[int, ...]) -> Data:
        """One row a key.

        Raises:
            ValueError: where the rows have another event shape.
        """
        if self.rows.shape[1:] != tuple(event_shape):
            raise ValueError(
                f"the source's rows have event shape {self.rows.shape[1:]}, but the data "
                f"{tuple(event_shape)}: a path needs both alike"
            )
        return self.rows[
            per_sample(lambda key: jax.random.randint(key, (), 0, len(self.rows)), keys)
        ]

    def log_prob(self, x0: Data) -> Float[Array, "batch"]:
        """Raises: ValueError, since a set of rows has no density."""
        raise ValueError(
            f"a source of {len(self.rows)} data rows has no density, so no likelihood follows "
            "from it; train from sources.normal() or sources.uniform() for likelihoods"
        )


@record
class Product:
    """Independent parts, each from a source of its own."""

    parts: Mapping[str, Source]

    def sample(self, keys: Keys, event_shape: Mapping[str, tuple[int, ...]]) -> dict[str, Data]:
        """A mapping of parts, one sample a key.

        Raises:
            ValueError: where the events are not those of the parts.
        """
        if not isinstance(event_shape, Mapping) or sorted(event_shape) != sorted(self.parts):
            raise ValueError(
                f"the source has the parts {sorted(self.parts)}, but the events are {event_shape}"
            )
        return {
            name: part.sample(jax.vmap(lambda k, i=i: jax.random.fold_in(k, i))(keys), shape)
            for i, (name, part, shape) in enumerate(
                (name, self.parts[name], event_shape[name]) for name in sorted(self.parts)
            )
        }

    def log_prob(self, x0: Mapping[str, Data]) -> Float[Array, "batch"]:
        """The sum over the parts, in nats."""
        return sum((part.log_prob(x0[k]) for k, part in self.parts.items()), jnp.zeros(()))


@record
class FromFunction:
    """What a plain function `(keys, event_shape) -> x0` draws."""

    function: Any

    def sample(self, keys: Keys, event_shape: tuple[int, ...]) -> Data:
        """One sample a key."""
        return self.function(keys, event_shape)

    def log_prob(self, x0: Data) -> Float[Array, "batch"]:
        """Raises: ValueError, since a function that draws tells no density."""
        raise ValueError(
            f"the source {self.function!r} is a function that draws and tells no density: for "
            "likelihoods give an object with sample(keys, event_shape) and log_prob(x0)"
        )


def as_source(source: Any) -> Source:
    """The source itself, or that of a plain function `(keys, event_shape) -> x0`.

    Raises:
        TypeError: for anything else.
    """
    check_made("source", source)
    if hasattr(source, "sample"):
        return source
    if callable(source):
        return FromFunction(traceable(source))
    raise TypeError(
        f"a source has sample(keys, event_shape) and log_prob(x0); got {type(source).__name__}: "
        "sources.data(rows) makes one of an array"
    )


def product(parts: Mapping[str, Source | Callable[..., Any]]) -> Source:
    """Independent parts, for samples that are mappings: `{"image": normal(), "label": mask(10)}`.

    Raises:
        ValueError: for no part.
    """
    if not parts:
        raise ValueError("a product needs the source of at least one part")
    return Product({name: as_source(part) for name, part in parts.items()})


def normal() -> Source:
    """The standard normal source, `x0 ~ N(0, I)`.

    >>> normal().log_prob(jnp.zeros((1, 2)))  # -log(2 pi)
    Array([-1.837877], dtype=float32)
    """
    return Normal()


def uniform(low: float = 0.0, high: float = 1.0) -> Source:
    """The uniform source on `[low, high)` in every coordinate.

    Raises:
        ValueError: where `low >= high`.
    """
    if not low < high:
        raise ValueError(f"uniform needs low < high; got low={low}, high={high}")
    return Box(low, high)


def mask(token: int) -> Source:
    """The source of masked diffusion: every position holds `token`."""
    return Mask(token)


def tokens(weights: Float[AnyArray, "*event vocabulary"] | Sequence[float]) -> Source:
    """Independent tokens, each drawn in proportion to its weight.

    Equal weights are the source of uniform diffusion, counts of the data that of its marginal law.

    Args:
        weights: one a token, `[vocabulary]`, or `[*event, vocabulary]` for a law at each place.

    Raises:
        ValueError: where a weight is negative or not finite, or all of a place are zero.

    >>> tokens([1.0, 3.0]).log_prob(jnp.array([[1, 1]]))  # 2 log(3 / 4)
    Array([-0.575...], dtype=float32)
    """
    values = np.asarray(weights, np.result_type(np.asarray(weights), np.float32))
    if not values.ndim or not np.all(np.isfinite(values)) or np.any(values < 0):
        raise ValueError(f"weights of tokens are non-negative and finite; got {weights}")
    total = values.sum(-1, keepdims=True)
    if not np.all(total > 0):
        raise ValueError("the weights of the tokens at a place are all zero: none can be drawn")
    with np.errstate(divide="ignore"):
        return Tokens(jnp.asarray(np.log(values / total)))


def uniform_tokens(vocabulary: int) -> Source:
    """Independent tokens, all of a vocabulary alike: the source of uniform diffusion.

    Raises:
        ValueError: for an empty vocabulary.
    """
    if vocabulary < 1:
        raise ValueError(f"uniform_tokens needs a vocabulary of at least 1; got {vocabulary}")
    return tokens(np.ones(vocabulary, np.float32))


def data(rows: Shaped[Array, "rows *event"]) -> Source:
    """A source that is data too: rows of an array, drawn with replacement.

    Where the pairs are given, put the source into the batch as `"x0"` instead.
    """
    return Rows(jnp.asarray(rows))

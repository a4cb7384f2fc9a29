"""Where a flow starts: `sample(keys [batch], event_shape) -> x0` and `log_prob(x0)` in nats."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.arrays import at_least_float32, event_sum, per_sample
from jaxflow.checks import check_made
from jaxflow.records import record, static, traceable
from jaxflow.types import Array, Data, Float, Keys, Shaped, Source

__all__ = ["as_source", "data", "mask", "normal", "product", "uniform"]


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
        return event_sum(jnp.where(x0 == self.token, 0.0, -jnp.inf))


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


def data(rows: Shaped[Array, "rows *event"]) -> Source:
    """A source that is data too: rows of an array, drawn with replacement.

    Where the pairs are given, put the source into the batch as `"x0"` instead.
    """
    return Rows(jnp.asarray(rows))

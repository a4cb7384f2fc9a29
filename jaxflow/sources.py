"""Where a flow starts: `sample(keys [batch], event_shape) -> x0` and `log_prob(x0)` in nats."""

import jax
import jax.numpy as jnp

from jaxflow.arrays import at_least_float32, event_sum, per_sample
from jaxflow.records import record, static
from jaxflow.types import Array, Data, Float, Keys, Shaped, Source

__all__ = ["data", "mask", "normal", "uniform"]


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
class Uniform:
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
    return Uniform(low, high)


def mask(token: int) -> Source:
    """The source of masked diffusion: every position holds `token`."""
    return Mask(token)


def data(rows: Shaped[Array, "rows *event"]) -> Source:
    """A source that is data too: rows of an array, drawn with replacement.

    Where the pairs are given, put the source into the batch as `"x0"` instead.
    """
    return Rows(jnp.asarray(rows))

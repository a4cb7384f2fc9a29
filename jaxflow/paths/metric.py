r"""The metric path of tokens: near ones are noised first, by a distance between tokens.

(1) $p_t(x \mid x_1) = \prod_i \mathrm{softmax}_x \left( -\beta_t\, d(x, x_1^i) \right)$

with $\beta_0 = 0$, every token alike, and $\beta_1 = \infty$, the data. Of all the rates that have
these marginals the kinetic-optimal ones only ever move a token nearer,

(2) $u_t(y, x \mid x_1) = \dot\beta_t\, p_t(y \mid x_1)\, [d(x, x_1) - d(y, x_1)]_+$, $y \ne x$

for $\sum_x [u_t(y, x)\, p_t(x) - u_t(x, y)\, p_t(y)]
= \dot\beta_t\, p_t(y) \sum_x p_t(x)\, (d(x) - d(y)) = \partial_t p_t(y)$. The marginal rate is

(3) $u_t(y, x) = \sum_{x_1} p_{1 \mid t}(x_1 \mid x)\, u_t(y, x \mid x_1)$

(4) $\beta_t = c\, (t / (1 - t))^a$, whose value is the clock of these rates.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.arrays import at_least_float32, expand, is_concrete
from jaxflow.paths.mixture import ByBlock, check_latent, check_tokens, uniform_numbers
from jaxflow.records import record, static
from jaxflow.sources import Tokens, tokens
from jaxflow.tokens import at_token, chosen, drawn, leapt, log_normaliser
from jaxflow.types import AnyArray, Array, Data, Float, Interval, Key, Keys, PathSample, Time

__all__ = ["Metric", "levels", "metric"]

Logits = Float[Array, "batch *event vocabulary"]
OfTokens = Float[Array, "batch *event"]

_LAST = 1.0 - 1e-4
_LEAST = 1e-18  # a rate that is said to be less costs as much as this


@record
class Metric:
    """The path (1) of a table of distances, on the clock (4)."""

    distances: Float[Array, "vocabulary vocabulary"]
    c: float = static()
    a: float = static()

    @property
    def interval(self) -> Interval:
        """The times where the slope of (4) is finite."""
        return (0.0 if self.a >= 1 else 1 - _LAST), _LAST

    @property
    def source(self) -> Tokens:
        """Every token alike."""
        return tokens(np.ones(len(self.distances)))  # pyright: ignore[reportReturnType]

    def latent(self, key: Key, x0: Data) -> Float[Array, "batch *event"]:
        """A uniform number a token, by which (1) is inverted."""
        return uniform_numbers(key, x0)

    def __call__(self, t: Time, x0: Data, x1: Data, z: Any = None) -> PathSample:
        """The point (1) at the share `z` of its law; it does not depend on `x0`.

        Raises:
            ValueError: as `Mixture`.
        """
        check_tokens(x0, x1)
        check_latent(z, x1)
        x = chosen(z, jnp.exp(self.log_law(t, x1))).astype(x1.dtype)
        inside = expand(at_least_float32(t), x1) < 1
        return PathSample(at_least_float32(t), jnp.where(inside, x, x1), None, x0, x1)

    def known(self, x: Data) -> Array:
        """None: every token may be noise."""
        return jnp.zeros(jnp.shape(x), bool)

    def clock(self, t: Time, x: Data) -> OfTokens:
        r"""$\beta_t$, infinite at `t = 1`."""
        return jnp.broadcast_to(self._beta(expand(at_least_float32(t), x)), x.shape)

    def clock_rate(self, t: Time, x: Data) -> OfTokens:
        r"""$\dot\beta_t$, finite on `interval`; beyond it that of its nearer end."""
        t = expand(jnp.clip(at_least_float32(t), *self.interval), x)
        _, slope = jax.jvp(self._beta, (t,), (jnp.ones_like(t),))
        return jnp.broadcast_to(slope, x.shape)

    def log_law(self, t: Time, x1: Data) -> Logits:
        """The logarithm of (1) for every token, on the last axis."""
        t = jnp.clip(at_least_float32(t), *self.interval)
        return jax.nn.log_softmax(-self.clock(t, x1)[..., None] * self.distances.T[x1], axis=-1)

    def log_prob(self, t: Time, x: Data, x1: Data) -> OfTokens:
        """The logarithm of (1), token by token."""
        return at_token(self.log_law(t, x1), x)

    def log_likelihoods(self, t: Time, x: Data, vocabulary: int) -> Logits:
        """The logarithm of (1) for all data that a token may have: what it tells of its own."""
        t = jnp.clip(at_least_float32(t), *self.interval)
        of_time = jax.nn.logsumexp(-self._beta(t)[..., None, None] * self.distances, axis=-2)
        near = -self.clock(t, x)[..., None] * self.distances[x]
        between = (1,) * (near.ndim - of_time.ndim)
        return near - of_time.reshape(*of_time.shape[:-1], *between, of_time.shape[-1])

    def log_rates(self, t: Time, x: Data, logits: Logits) -> Logits:
        """The logarithm of (3) by clock time, for the tokens that `x` does not hold."""
        return jnp.log(self._marginal(t, x, logits))

    def _marginal(self, t: Time, x: Data, logits: Logits) -> Logits:
        """(3) by clock time; a sum over the vocabulary, one term at a time."""
        posterior = jnp.exp(at_least_float32(logits) - log_normaliser(logits)[..., None])

        def add(total: Array, x1: Array) -> tuple[Array, None]:
            here = jnp.full(x.shape, x1)
            return total + posterior[..., x1, None] * self._by_clock(t, x, here), None

        total, _ = jax.lax.scan(add, jnp.zeros_like(posterior), jnp.arange(len(self.distances)))
        return total

    def rates_by_block(self, t: Time, x: Data, logits: Logits) -> ByBlock:
        """An array, and the function from `(places, block)` of it to (3) there by clock time."""
        return self.log_rates(t, x, logits), lambda places, block: jnp.exp(block)

    def tau_leap(self, keys: Keys, span: OfTokens, t: Time, x: Data, logits: Logits) -> Data:
        """A draw after a clock time with the rates (3) of `t` held."""
        return _leapt(keys, span, x, self._marginal(t, x, logits))

    def leap(self, keys: Keys, t: Time, s: Time, x: Data, x1: Data) -> Data:
        """A draw at `s` with the rates (2) of `t` held, for the data `x1`; `x1` itself at 1."""
        span = self.clock(s, x) - self.clock(t, x)
        moved = _leapt(keys, span, x, self._by_clock(t, x, x1))
        return jnp.where(expand(s, x) < 1, moved, x1)

    def rates(self, t: Time, x: Data, x1: Data, vocabulary: int | None = None) -> Logits:
        """(2) for every token `y`, on the last axis; its sum is zero."""
        rates = self.clock_rate(t, x)[..., None] * self._by_clock(t, x, x1)
        stays = jax.nn.one_hot(x, len(self.distances), dtype=rates.dtype)
        return rates - stays * jnp.sum(rates, axis=-1, keepdims=True)

    def divergence(self, t: Time, x: Data, x1: Data, logits: Logits) -> OfTokens:
        """The generalised Kullback-Leibler divergence of (2) from (3), in nats by time."""
        true, model = self._by_clock(t, x, x1), self._marginal(t, x, logits)
        moves = true > 0
        ratio = jnp.where(moves, true, 1.0) / jnp.where(moves, jnp.maximum(model, _LEAST), 1.0)
        terms = jnp.where(moves, true * jnp.log(ratio), 0.0) - true + model
        return self.clock_rate(t, x) * jnp.sum(terms, axis=-1)

    def _by_clock(self, t: Time, x: Data, x1: Data) -> Logits:
        """(2) by clock time, without what leaves; zero at `y = x`."""
        nearer = self.distances[x, x1][..., None] - self.distances.T[x1]
        return jnp.exp(self.log_law(t, x1)) * jnp.maximum(nearer, 0.0)

    def _beta(self, t: Array) -> Array:
        odds = t / jnp.where(t < 1, 1 - t, 1.0)
        return jnp.where(t < 1, self.c * odds**self.a, jnp.inf)


def _leapt(keys: Keys, span: OfTokens, x: Data, rates: Logits) -> Data:
    return leapt(keys, span, x, jnp.sum(rates, axis=-1), lambda k: drawn(k, jnp.log(rates)))


def metric(
    distances: Float[AnyArray, "vocabulary vocabulary"], *, c: float = 3.0, a: float = 0.9
) -> Metric:
    """The metric path (1) with its kinetic-optimal rates (2).

    Args:
        distances: of every token from every other, zero from itself; of embeddings, say, or of
            pixel levels.
        c, a: of the clock (4): how near data is at half the time, and how it nears its end.

    Raises:
        ValueError: for a table that is no distance, or `c` or `a` not positive.

    Shaul et al., Flow Matching with General Discrete Paths: A Kinetic-Optimal Perspective, 2024,
    arXiv:2412.03487.

    >>> levels = jnp.arange(4.0)
    >>> path = metric(abs(levels[:, None] - levels))
    >>> path.log_law(jnp.zeros(1), jnp.array([[2]])).shape
    (1, 1, 4)
    """
    table = jnp.asarray(distances, jnp.result_type(distances, jnp.float32))
    if table.ndim != 2 or table.shape[0] != table.shape[1]:
        raise ValueError(f"distances are [vocabulary, vocabulary]; got shape {table.shape}")
    if is_concrete(table):
        known = np.asarray(table)
        apart = known[~np.eye(len(known), dtype=bool)]
        if np.any(np.diag(known) != 0) or not np.all((apart > 0) & np.isfinite(apart)):
            raise ValueError(
                "a token is at distance 0 from itself and further, but not infinitely far, from "
                "every other: give embeddings that differ"
            )
    if not (c > 0 and a > 0):
        raise ValueError(f"metric needs c > 0 and a > 0; got c={c} and a={a}")
    return Metric(table, float(c), float(a))


def levels(n: int, *, power: float = 2.0) -> Float[np.ndarray, "n n"]:
    """Distances of levels of grey, `|i - j|^power` of levels from -1 to 1, for `metric`.

    Args:
        n: how many levels.
        power: positive.

    Raises:
        ValueError: for fewer than two levels, or another power.

    >>> levels(3).tolist()
    [[0.0, 1.0, 4.0], [1.0, 0.0, 1.0], [4.0, 1.0, 0.0]]
    """
    if n < 2 or not 0 < power < float("inf"):
        raise ValueError(f"levels needs n of 2 or more and power > 0; got {n} and {power}")
    values = np.linspace(-1.0, 1.0, n)
    return (abs(values[:, None] - values) ** power).astype(np.float32)

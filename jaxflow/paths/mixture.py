r"""The mixture path of tokens: each is the data's with a probability that grows with time.

(1) $p_t(x \mid x_0, x_1) = \prod_i \left[ \kappa_t\, \delta(x^i, x_1^i)
    + (1 - \kappa_t)\, \delta(x^i, x_0^i) \right]$

A token that is not yet the data's becomes it at a rate that depends on $x_1$ alone,

(2) $u_t(y, x \mid x_1) = \dot\tau_t\, [\delta(y, x_1) - \delta(y, x)]$ with the clock
    $\tau_t = -\log(1 - \kappa_t)$

so that over a time from $t$ to $s$ it does with the probability

(3) $1 - e^{-(\tau_s - \tau_t)} = (\kappa_s - \kappa_t) / (1 - \kappa_t)$

and the rate that has the marginals of the data, one token at a time, is

(4) $u_t(y, x) = \dot\tau_t\, [p_{1 \mid t}(y \mid x) - \delta(y, x)]$

With independent source tokens $x_0^i \sim q$, a token $x$ with $q(x) = 0$ is the data's for certain
(all that are not masked, of a mask source), whatever a network says of it. The time-reversed rate
is in the same clock, for $y \ne x$ and with $a = p_{1 \mid t}(x \mid x)$,

(5) $\bar u_t(y, x) = \dot\tau_t\, a\, (1 - \kappa_t)\, q(y)
    \,/\, [(1 - \kappa_t)\, q(x) + \kappa_t]$

A bound on the evidence of a model with logits of $p_{1 \mid t}$ is the integral over time of the
generalised Kullback-Leibler divergence of (2) from (4), tight for masks,

(6) $\dot\tau_t \sum_i \left[ 1(x^i \ne x_1^i)\, (-\log p_{1 \mid t}(x_1^i \mid x))
    + 1(x^i = x_1^i) - p_{1 \mid t}(x^i \mid x) \right]$
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.arrays import at_least_float32, event_shape, expand, per_sample, two_keys
from jaxflow.checks import check_made
from jaxflow.paths.backwards import denoised, divergence, noise_of
from jaxflow.paths.kappas import Kappa, as_kappa, linear
from jaxflow.records import record
from jaxflow.tokens import at_token, but, drawn, leapt, log_normaliser
from jaxflow.types import (
    Array,
    Data,
    Dependent,
    Float,
    Interval,
    Key,
    Keys,
    PathSample,
    Source,
    Time,
)

__all__ = ["Mixture", "mixture"]

Logits = Float[Array, "batch *event vocabulary"]
OfTokens = Float[Array, "batch *event"]
ByBlock = tuple[Logits, Callable[[Array, Logits], Logits]]

_LEAST = 1e-12


@record
class Mixture:
    """The path (1), with the source that it is for where that is known."""

    kappa: Kappa
    source: Source | None

    @property
    def interval(self) -> Interval:
        """Until some 1e-5 of the tokens is noise."""
        return 0.0, self.kappa.last

    def latent(self, key: Key, x0: Data) -> Float[Array, "batch *event"]:
        """A uniform number a token: the token is the data's once kappa exceeds it."""
        return uniform_numbers(key, x0)

    def __call__(self, t: Time, x0: Data, x1: Data, z: Any = None) -> PathSample:
        """The point (1); tokens have no velocity and no score.

        Raises:
            ValueError: where `z` is missing or of another shape, or tokens are not whole numbers.
        """
        check_tokens(x0, x1)
        check_latent(z, x1)
        x = jnp.where(z < self.kappa_at(t, x1), x1, x0)
        return PathSample(at_least_float32(t), x, None, x0, x1)

    def log_prob(self, t: Time, x: Data, x1: Data) -> OfTokens:
        """The logarithm of (1), the source's law in the place of `x0`, token by token.

        Raises:
            ValueError: where the law of the source's tokens is not known.
        """
        kappa = self.kappa_at(t, x)
        share = (1 - kappa) * jnp.exp(self.law.log_probs(x)) + kappa * (x == x1)
        return jnp.where(share > 0, jnp.log(jnp.where(share > 0, share, 1.0)), -jnp.inf)

    def known(self, x: Data) -> Array:
        """Which tokens are the data's for certain."""
        if self.source is None:
            return jnp.zeros(jnp.shape(x), bool)
        return jnp.isneginf(self.law.log_probs(x))

    def clock(self, t: Time, x: Data) -> OfTokens:
        r"""$\tau_t$ of (2), infinite at `t = 1`."""
        return -jnp.log1p(-self.kappa_at(t, x))

    def log_rates(self, t: Time, x: Data, logits: Logits) -> Logits:
        """The logarithm of (4) by clock time, for the tokens that `x` does not hold."""
        rates = but(at_least_float32(logits) - log_normaliser(logits)[..., None], x)
        return jnp.where(self.known(x)[..., None], -jnp.inf, rates)

    def rates_by_block(self, t: Time, x: Data, logits: Logits) -> ByBlock:
        """An array, and the function from `(places, block)` of it to (4) there by clock time."""
        normaliser, stays = log_normaliser(logits)[..., None], self.known(x)[..., None]

        def rates(places: Array, block: Logits) -> Logits:
            none = stays | (places == x[..., None])
            return jnp.where(none, 0.0, jnp.exp(at_least_float32(block) - normaliser))

        return logits, rates

    def leaving(self, x: Data, logits: Logits) -> OfTokens:
        """The rate by clock time at which each token is left, that of (4)."""
        own = at_token(logits, x) - log_normaliser(logits)
        return jnp.where(self.known(x), 0.0, -jnp.expm1(own))

    def tau_leap(self, keys: Keys, span: OfTokens, t: Time, x: Data, logits: Logits) -> Data:
        """A draw after a clock time with the rates (4) of `t` held."""
        return leapt(keys, span, x, self.leaving(x, logits), lambda k: drawn(k, logits, x))

    def leap(self, keys: Keys, t: Time, s: Time, x: Data, x1: Data) -> Data:
        """A draw at `s` of the process (2) that stands at `x` at `t`: exact for the data `x1`."""
        now, then = self.kappa_at(t, x), self.kappa_at(s, x)
        share = jnp.where(now < 1, (then - now) / jnp.where(now < 1, 1 - now, 1.0), 1.0)
        u = per_sample(lambda key: jax.random.uniform(key, jnp.shape(x)[1:]), keys)
        return jnp.where(u < share, x1, x)

    def back_rate(self, t: Time, x: Data, logits: Logits) -> OfTokens:
        """By clock time, (5) is this rate times the law of the source.

        Raises:
            ValueError: where the source is not known, or does not have independent tokens.
        """
        kappa = self.kappa_at(t, x)
        own = jnp.exp(at_token(logits, x) - log_normaliser(logits))
        own = jnp.where(self.known(x), 1.0, own)
        held = (1 - kappa) * jnp.exp(self.law.log_probs(x)) + kappa
        return jnp.where(held > 0, own * (1 - kappa) / jnp.where(held > 0, held, 1.0), 0.0)

    def rates(self, t: Time, x: Data, x1: Data, vocabulary: int) -> Logits:
        """(2) for every token `y` of a vocabulary, on the last axis; its sum is zero."""
        apart = jax.nn.one_hot(x1, vocabulary) - jax.nn.one_hot(x, vocabulary)
        return self.clock_rate(t, x)[..., None] * apart

    def denoise(self, keys: Keys, t: Time, s: Time, x: Data, x1: Data) -> Data:
        """A draw at `s` of noising run backwards (`jaxflow.paths.backwards`) that stands at `x`.

        Raises:
            ValueError: where the source is not known, or does not have independent tokens.
        """
        keys, others = two_keys(keys)
        noise = self.law.sample(others, event_shape(x)).astype(x.dtype)
        then, own = self.kappa_at(s, x), jnp.exp(self.law.log_probs(x))
        kept = self.kappa_at(t, x) / then
        share = {"then": then, "kept": kept, "came": (1 - kept) * own, "own": own}
        return denoised(keys, x, x1, noise, **share)

    def divergence(self, t: Time, x: Data, x1: Data, logits: Logits) -> OfTokens:
        """(6), token by token, in nats by time; of tokens that begin as others that are drawn, that
        of noising run backwards (`jaxflow.paths.backwards`), which is tight.
        """
        if hasattr(self.source, "log_weights"):
            noise = noise_of(self.law, x, logits.shape[-1])
            apart = divergence(noise, self.kappa_at(t, x), x, x1, logits)
            return self.clock_rate(t, x) * jnp.where(self.known(x), 0.0, apart)
        normaliser, right = log_normaliser(logits), x == x1
        missed = jnp.where(right, 0.0, normaliser - at_token(logits, x1))
        kept = jnp.exp(at_token(logits, x) - normaliser)
        apart = jnp.where(self.known(x), 0.0, missed + right - kept)
        return self.clock_rate(t, x) * apart

    def log_likelihoods(self, t: Time, x: Data, vocabulary: int) -> Logits:
        """The logarithm of (1) for all data that a token may have, up to a constant: what it tells
        of its own data. Nothing of one that is the data's for certain.

        Raises:
            ValueError: where the law of the source's tokens is not known.
        """
        noise = jnp.exp(self.law.log_probs(x))
        return likelihoods(self.kappa_at(t, x), noise, x, vocabulary)

    def kappa_at(self, t: Time, x: Data) -> OfTokens:
        """The share of data at each token's time."""
        return jnp.broadcast_to(self.kappa(expand(at_least_float32(t), x)), x.shape)

    def clock_rate(self, t: Time, x: Data) -> OfTokens:
        """The slope of the clock, finite on `interval`; beyond it that of its nearer end."""
        t = expand(jnp.clip(at_least_float32(t), *self.interval), x)
        kappa, slope = jax.jvp(self.kappa, (t,), (jnp.ones_like(t),))
        return jnp.broadcast_to(slope / (1 - kappa), x.shape)

    @property
    def law(self) -> Any:
        """The source, which has a law for each token.

        Raises:
            ValueError: where it has none.
        """
        if not hasattr(self.source, "log_probs"):
            raise ValueError(
                "the law of the source's tokens is needed here: build the path with it, "
                "paths.mixture(kappa, source=sources.mask(token)) or sources.tokens(weights)"
            )
        return self.source


def mixture(kappa: Any = None, *, source: Source | None = None) -> Mixture:
    """The mixture path (1) of tokens, on the clock of kappa.

    Args:
        kappa: the share of data by time, one of `kappas` or a function that rises from 0 to 1;
            linear where None.
        source: that of `draws.standard`, whose law of tokens tells which tokens are known, the
            rates backwards and the exact posterior: `sources.mask(token)` or
            `sources.tokens(weights)`. None where it is data too.

    Raises:
        TypeError: for a kappa that is no function.
        ValueError: for one whose ends are not 0 and 1, or that falls.

    Gat et al., Discrete Flow Matching, 2024, arXiv:2407.15595, for (1) to (5), the posterior of the
    source in (5) in closed form; Shaul et al., Flow Matching with General Discrete Paths, 2024,
    arXiv:2412.03487, for the bound (6).

    >>> path = mixture()
    >>> x0, x1, z = jnp.zeros((1, 3), int), jnp.ones((1, 3), int), jnp.array([[0.1, 0.4, 0.9]])
    >>> path(jnp.array([0.5]), x0, x1, z).x
    Array([[1, 1, 0]], dtype=int32)
    """
    check_made("kappa", kappa)
    check_made("source", source)
    return Mixture(linear() if kappa is None else as_kappa(kappa), source)


def likelihoods(kappa: Array, noise: Array, x: Data, vocabulary: int) -> Logits:
    """`log(1 + kappa / ((1 - kappa) noise))` at the token itself, finite at `kappa = 1`, and 0
    without noise and elsewhere.
    """
    some = noise > 0
    missing = jnp.maximum((1 - kappa) * jnp.where(some, noise, 1.0), _LEAST)
    own = jnp.where(some, jnp.log1p(kappa / missing), 0.0)
    return jnp.where(jnp.arange(vocabulary) == jnp.asarray(x)[..., None], own[..., None], 0.0)


def uniform_numbers(key: Key, x: Data) -> Float[Array, "batch *event"]:
    """One a token, by a key a sample."""
    keys = jax.random.split(key, len(x))
    return per_sample(lambda k: jax.random.uniform(k, x.shape[1:]), keys)


def check_tokens(*xs: Any) -> None:
    """Refuse what is not whole numbers, or of shapes that differ.

    Raises:
        ValueError: naming what was given.
    """
    kinds = [str(jnp.result_type(x)) for x in xs]
    if not all(jnp.issubdtype(kind, jnp.integer) for kind in kinds):
        raise ValueError(f"tokens are whole numbers; got {' and '.join(kinds)}")
    if len({jnp.shape(x) for x in xs}) > 1:
        raise ValueError(f"x0 and x1 have shapes {[jnp.shape(x) for x in xs]}: give them alike")


def check_latent(z: Any, x: Data, *each: int) -> None:
    """Refuse a point of a path without its random numbers, of a shape `each` a token.

    Raises:
        ValueError: saying where they come from.
    """
    if z is None or isinstance(z, Dependent):
        raise ValueError(
            "a path of tokens draws which of them are data: give z=path.latent(key, x0), or "
            "complete the batch by draws.standard(path)"
        )
    if jnp.shape(z) != (*jnp.shape(x), *each):
        wanted = f" and {each} of it a token" if each else ""
        raise ValueError(f"z has shape {jnp.shape(z)}, but the tokens {jnp.shape(x)}{wanted}")

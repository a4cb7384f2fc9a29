r"""Tokens between masks and data with other tokens among the noise on the way.

(1) $p_t(x \mid x_1) = \kappa_t\, \delta(x, x_1) + m_t\, \delta(x, \mathrm{mask}) + \frac{c_t}{V}$,
    $\quad \kappa_t = \frac{t}{1 + b_t},\ m_t = \frac{1 - t}{1 + b_t},\ c_t = \frac{b_t}{1 + b_t}$

(2) $b_t = \frac{p\, 2^\gamma}{1 - p}\, [t (1 - t)]^{\gamma / 2}$

so that all is masked at first, and half-way a share $p$ of the tokens are any of the vocabulary:
what was drawn wrongly may be mended, where masks alone would keep it. Noise of the share $n_t(x)$,
$m_t$ or $c_t / V$, stays Markov as time runs back, where what comes in at the rate $\dot\kappa_t /
\kappa_t$ has the law $q_t = n_t - \kappa_t \dot n_t / \dot\kappa_t$, as long as $\gamma \le 2$. Run
backwards (`jaxflow.paths.backwards`) its rates and its divergence have the factor

(3) $\dot\kappa_t\, \frac{q_t(x)}{n_t(x)} = \frac{1}{(1 + b_t)(1 - t)}$ at a mask, and
    $\frac{1}{1 + b_t} \left[1 - \frac\gamma2 + \frac\gamma2\, \frac{t}{1 - t}\right]$ elsewhere

and over a time from $s$ back to $t$ the noise $n_t - \frac{\kappa_t}{\kappa_s}\, n_s$ comes in.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.arrays import at_least_float32, event_shape, expand, per_sample, two_keys
from jaxflow.checks import check_made
from jaxflow.paths.backwards import Noise, denoised, divergence
from jaxflow.paths.mixture import check_latent, check_tokens, likelihoods
from jaxflow.records import record, static
from jaxflow.sources import Mask
from jaxflow.types import Array, Data, Float, Key, Keys, PathSample, Source, Time

__all__ = ["Gidd", "gidd"]

OfTokens = Float[Array, "batch *event"]

_FIRST, _LAST = 1e-6, 1.0 - 1e-5


@record
class Gidd:
    """The path (1) from a source of masks."""

    source: Mask
    uniform: float = static()
    gamma: float = static()

    interval = (0.0, _LAST)

    def latent(self, key: Key, x0: Data) -> Float[Array, "batch *event 3"]:
        """Uniform numbers: whether a token is data, whether its noise is a mask, and which."""
        keys = jax.random.split(key, len(x0))
        return per_sample(lambda k: jax.random.uniform(k, (*x0.shape[1:], 3)), keys)

    def __call__(self, t: Time, x0: Data, x1: Data, z: Any = None) -> PathSample:
        """The point (1); tokens have no velocity and no score.

        Raises:
            ValueError: where `z` is missing or of another shape, or tokens are not whole numbers.
        """
        check_tokens(x0, x1)
        check_latent(z, x1, 3)
        u = jnp.asarray(z)
        noise = jnp.where(x0 == self.source.token, self._noise_by(u[..., 1:], t, x0), x0)
        x = jnp.where(u[..., 0] < self.kappa_at(t, x1), x1, noise)
        return PathSample(at_least_float32(t), x, None, x0, x1)

    def log_prob(self, t: Time, x: Data, x1: Data) -> OfTokens:
        """The logarithm of (1), token by token."""
        share = self._noise(t, x) + self.kappa_at(t, x) * (x == x1)
        return jnp.where(share > 0, jnp.log(jnp.where(share > 0, share, 1.0)), -jnp.inf)

    def known(self, x: Data) -> Array:
        """No token is the data's for certain."""
        return jnp.zeros(jnp.shape(x), bool)

    def leap(self, keys: Keys, t: Time, s: Time, x: Data, x1: Data) -> Data:
        """`denoise`, the process that leads to the data `x1`."""
        return self.denoise(keys, t, s, x, x1)

    def denoise(self, keys: Keys, t: Time, s: Time, x: Data, x1: Data) -> Data:
        """A draw at `s` of noising run backwards that stands at `x` at `t`, given the data."""
        keys, others = two_keys(keys)
        now, then = self.kappa_at(t, x), self.kappa_at(s, x)
        kept, own = now / then, self._noise(s, x)
        came = jnp.maximum(self._noise(t, x) - kept * own, 0.0)
        of_noise = jnp.where(then < 1, 1 - then, 1.0)
        u = per_sample(lambda key: jax.random.uniform(key, (*event_shape(x), 2)), others)
        noise = self._noise_by(u, s, x)
        return denoised(keys, x, x1, noise, then=then, kept=kept, came=came, own=own / of_noise)

    def divergence(self, t: Time, x: Data, x1: Data, logits: Array) -> OfTokens:
        """Of the data's rates from the model's, token by token, in nats by time; it is tight."""
        kappa, masks, others = self.shares(t, x)
        of_noise = jnp.where(kappa < 1, 1 - kappa, 1.0)
        even = others / of_noise / self.source.token
        noise = Noise(self._noise(t, x) / of_noise, even[..., None], masks / of_noise)
        return self._factor(t, x) * divergence(noise, kappa, x, x1, logits)

    def rates(self, t: Time, x: Data, x1: Data, vocabulary: int) -> Float[Array, "..."]:
        """Those of noising run backwards to every token `y`, on the last axis; they sum to zero.

        At the ends of time those near them.
        """
        y, t = jnp.arange(vocabulary), jnp.clip(at_least_float32(t), _FIRST, _LAST)
        kappa, masks, others = (a[..., None] for a in self.shares(t, x))
        letter = jnp.where(y == self.source.token, masks, others / self.source.token)
        there = letter + kappa * (y == x1[..., None])
        own = self._noise(t, x)
        share = own / (own + self.kappa_at(t, x) * (x == x1)) * self._factor(t, x)
        each = jnp.where(y == x[..., None], 0.0, share[..., None] * there / kappa)
        return each - (y == x[..., None]) * jnp.sum(each, axis=-1, keepdims=True)

    def log_likelihoods(self, t: Time, x: Data, vocabulary: int) -> Float[Array, "..."]:
        """As of `Mixture`."""
        kappa = self.kappa_at(t, x)
        noise = self._noise(t, x) / jnp.maximum(1 - kappa, 1e-12)
        return likelihoods(kappa, noise, x, vocabulary)

    def kappa_at(self, t: Time, x: Data) -> OfTokens:
        """The share of data at each token's time."""
        return self.shares(t, x)[0]

    def shares(self, t: Time, x: Data) -> tuple[OfTokens, OfTokens, OfTokens]:
        """Those of the data, of masks and of other noise at each token's time, (1)."""
        t = jnp.broadcast_to(expand(at_least_float32(t), x), jnp.shape(x))
        b = self._others(t)
        return t / (1 + b), (1 - t) / (1 + b), b / (1 + b)

    def _others(self, t: Array) -> Array:
        """(2)."""
        inside = (t > 0) & (t < 1)
        grows = jnp.where(inside, t * (1 - t), 1.0) ** (self.gamma / 2)
        scale = self.uniform / (1 - self.uniform) * 2**self.gamma
        return scale * jnp.where(inside, grows, 0.0)

    def _noise(self, t: Time, x: Data) -> OfTokens:
        """The share of noise that is the token of `x`."""
        _, masks, others = self.shares(t, x)
        letters = jnp.where((x >= 0) & (x < self.source.token), others / self.source.token, 0.0)
        return jnp.where(x == self.source.token, masks, letters)

    def _factor(self, t: Time, x: Data) -> OfTokens:
        """(3), finite on `interval`; beyond it that of its nearer end."""
        t = jnp.broadcast_to(expand(jnp.clip(at_least_float32(t), *self.interval), x), x.shape)
        half = self.gamma / 2
        letter = 1 - half + half * t / (1 - t)
        return jnp.where(x == self.source.token, 1 / (1 - t), letter) / (1 + self._others(t))

    def _noise_by(self, u: Array, t: Time, x: Data) -> Data:
        """A token of the noise at `t` at each place, by two uniform numbers."""
        kappa, masks, _ = self.shares(t, x)
        letter = jnp.minimum((u[..., 1] * self.source.token).astype(x.dtype), self.source.token - 1)
        return jnp.where((1 - kappa) * u[..., 0] < masks, self.source.token, letter)


def gidd(uniform: float = 0.1, gamma: float = 1.0, *, source: Source) -> Gidd:
    """The path (1) between masks and data by way of other tokens: generalised interpolation.

    Its leaps are `ancestral` and `euler`, which is the same here.

    Args:
        uniform: $p$, the share of tokens half-way that are drawn evenly from the vocabulary.
        gamma: how fast that share comes and goes at the ends.
        source: `sources.mask(vocabulary)`.

    Raises:
        TypeError: for a source that is none of masks.
        ValueError: for a share that is not between 0 and 1, or a gamma that is not in (0, 2].

    von Rütte et al., Generalized Interpolating Discrete Diffusion, 2025, arXiv:2503.04482. (3) is
    ours.

    >>> from jaxflow import sources
    >>> path = gidd(0.2, source=sources.mask(27))
    >>> [round(a.item(), 3) for a in path.shares(jnp.array([0.5]), jnp.zeros((1, 1), int))]
    [0.4, 0.4, 0.2]
    """
    check_made("source", source)
    if not isinstance(source, Mask):
        raise TypeError(
            "gidd begins at masks: give source=sources.mask(vocabulary); got "
            f"{type(source).__name__}"
        )
    if not 0 < uniform < 1:
        raise ValueError(
            f"gidd needs 0 < uniform < 1, the share half-way; got {uniform}: paths.mixture has "
            "masks alone, or other tokens alone"
        )
    if not 0 < gamma <= 2:
        raise ValueError(f"gidd needs 0 < gamma <= 2, for noise to be Markov; got {gamma}")
    return Gidd(source, float(uniform), float(gamma))

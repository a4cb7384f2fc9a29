r"""Noising tokens, run backwards: the rates that a tight bound on the evidence is of.

A token that is drawn anew from the law $q$ of the source, at the rate $\beta_t = \dot\kappa_t /
\kappa_t$ as time runs back to 0, has the marginals of the mixture path. This noising is Markov, and
what runs it backwards,

(1) $u_t(y, x \mid x_1) = \beta_t\, q(x)\, \dfrac{p_t(y \mid x_1)}{p_t(x \mid x_1)}$ for $y \ne x$,

has at $s > t$, with $a = \kappa_t / \kappa_s$, the law

(2) $p(x_s \mid x_t, x_1) \propto [a\, \delta(x_s, x_t) + (1 - a)\, q(x_t)]\,
    [\kappa_s\, \delta(x_s, x_1) + (1 - \kappa_s)\, q(x_s)]$

of which a third is the data, one stays, and one is noise anew. A model with the posterior $p$ has
the rates of its mean. With $A = \kappa + (1 - \kappa)\, q(x)$ and $v = 1 - \kappa\, p(x) / A$ both
are, over $\dot\kappa / (\kappa (1 - \kappa))$,

(3) $M_y = (1 - \kappa)\, q(y)\, v + \kappa\, p(y)$ of the model, and of the data $S_y = M_y +
    \kappa\, e_y$,

    $e_y = \delta(y, x_1) - p(y) + (1 - \kappa)\, q(y)\, [p(x) - \delta(x, x_1)] / A$

and the divergence of (1) from the model's is, $z_y = \kappa e_y / M_y$,

(4) $\dfrac{\dot\kappa}{1 - \kappa} \sum_{y \ne x} e_y\, h(z_y)$,
    $h(z) = (1 + z) \log(1 + z) / z - 1$

Because the noising is Markov its integral is, at the exact posterior, the entropy of the data: the
bound is tight, where that of rates which only share the marginals is not. Where the law of the
noise changes in time, $\pi_t$ in the place of $q$ but for the law $q_t$ of what comes in, (1) and
(4) have the factor $q_t(x) / \pi_t(x)$ more, and (2) the law of all that came in from $s$ to $t$
(`jaxflow.paths.gidd`).

Austin et al., Structured Denoising Diffusion Models in Discrete State-Spaces, 2021,
arXiv:2107.03006, for (2); Lou et al., 2023, arXiv:2310.16834, and Schiff et al., Simple Guidance
Mechanisms for Discrete Diffusion Models, 2024, arXiv:2412.10193, for (4) of even tokens.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.arrays import at_least_float32, per_sample
from jaxflow.records import record
from jaxflow.tokens import at_token, log_normaliser
from jaxflow.types import Array, Data, Keys

__all__ = ["Noise", "denoised", "divergence", "noise_of"]

_LEAST = 1e-18  # whose square is a number in float32


@record
class Noise:
    """The law of tokens that are noise: of the one that stands, of the vocabulary, of the mask.

    `own [batch, *event]`; `letters` and `mask` broadcast to `[batch, *event, vocabulary]` and to
    `[batch, *event]`.
    """

    own: Array
    letters: Array
    mask: Array


def noise_of(law: Any, x: Data, vocabulary: int) -> Noise:
    """That of a source of independent tokens."""
    weights = jnp.exp(law.log_weights)
    missing = vocabulary + 1 - weights.shape[-1]
    weights = jnp.pad(weights, (*[(0, 0)] * (weights.ndim - 1), (0, missing)))
    return Noise(jnp.exp(law.log_probs(x)), weights[..., :-1], weights[..., -1])


def divergence(noise: Noise, kappa: Array, x: Data, x1: Data, logits: Array) -> Array:
    r"""The sum of (4), token by token, for tokens that may be noise.

    Args:
        noise: the law of those that are.
        kappa: the share of data at each token, `[batch, *event]`.
        x: where they stand.
        x1: their data.
        logits: `[batch, *event, vocabulary]`, of the posterior.
    """
    vocabulary, right = logits.shape[-1], x == x1
    normaliser = log_normaliser(logits)
    own = jnp.exp(at_token(logits, x) - normaliser)
    held = kappa + (1 - kappa) * noise.own
    stays = 1 - kappa * own / held
    shift = (1 - kappa) * (own - right) / held

    def term(noise: Array, said: Array, true: Any, axes: int) -> Array:
        k, v, s = (a[(..., *(None,) * axes)] for a in (kappa, stays, shift))
        mean = (1 - k) * noise * v + k * said
        apart = true - said + noise * s
        return apart * _h(k * apart / jnp.maximum(mean, _LEAST))

    places = jnp.arange(vocabulary)
    said = jnp.exp(at_least_float32(logits) - normaliser[..., None])
    each = term(noise.letters, said, places == x1[..., None], 1)
    total = jnp.sum(jnp.where(places == x[..., None], 0.0, each), axis=-1)
    beyond = term(noise.mask, jnp.zeros_like(kappa), 0.0, 0)
    return total + jnp.where((x == vocabulary) | (noise.mask == 0), 0.0, beyond)


def _h(z: Array) -> Array:
    """The function h of (4), from -1 at z = -1 on, and z / 2 near 0."""
    small = abs(z) < 1e-3
    inside = jnp.where(small | (z <= -1), 1.0, z)
    far = (1 + inside) * jnp.log1p(inside) / inside - 1
    return jnp.where(small, z / 2 - z**2 / 6 + z**3 / 12, jnp.where(z <= -1, -1.0, far))


def denoised(
    keys: Keys,
    x: Data,
    x1: Data,
    noise: Data,
    *,
    then: Array,
    kept: Array,
    came: Array,
    own: Array,
) -> Data:
    """A draw of (2): the data, what stands, or noise anew.

    Args:
        keys: `[batch]`.
        x: where tokens stand.
        x1: their data.
        noise: draws of the noise at `s`.
        then: the share of data at `s`, `[batch, *event]`.
        kept: the share $a$ of the tokens at `s` that noising leaves as they are.
        came: the share of them that it turns into the token of `x`.
        own: the probability of that token among the noise at `s`.
    """
    u = per_sample(lambda key: jax.random.uniform(key, x.shape[1:]), keys)
    data = then * (came + kept * (x == x1))
    stays, anew = kept * (1 - then) * own, came * (1 - then)
    u = u * (data + stays + anew)
    return jnp.where(u < data, x1, jnp.where(u < data + stays, x, noise))

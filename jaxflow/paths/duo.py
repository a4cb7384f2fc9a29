r"""Tokens as the largest entries of Gaussian noise: uniform noise whose tokens move smoothly.

(1) $w_t = r_t\, e_{x_1} + \epsilon$ with $\epsilon \sim N(0, I)$ of the vocabulary's $V$ entries

The place of its largest entry is a token of the mixture path between data and even tokens,

(2) $P(\arg\max w_t = x_1) = \int \varphi(z - r_t)\, \Phi(z)^{V - 1} dz = \kappa_t + \frac{1 -
    \kappa_t}{V}$

and any other alike. Here $\kappa$ is chosen and $r_t$ follows by (2). A network that is trained on

(3) $\operatorname{softmax}\left( \frac{w_t}{\tau \sqrt{1 + r_t^2}} \right)$

in the place of its token sees which others are near, so that the target varies less; as $\tau$
falls to 0 that is the token itself.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import log_ndtr

from jaxflow.arrays import at_least_float32, per_sample
from jaxflow.checks import check_made
from jaxflow.paths.mixture import Mixture, check_latent, check_tokens, mixture
from jaxflow.records import record, static
from jaxflow.types import Array, Data, Float, Key, PathSample, Source, Time

__all__ = ["Duo", "duo"]

OfTokens = Float[Array, "batch *event"]
Soft = Float[Array, "batch *event vocabulary"]

_KNOTS, _LARGEST = 2049, 12.0


@record
class Duo:
    """The path (1) of soft tokens (3), beside the one of tokens that it is of, `hard`."""

    hard: Mixture
    clocks: Float[Array, "knots"]
    vocabulary: int = static()
    temperature: float = static()

    def __repr__(self) -> str:
        return f"Duo({self.hard.kappa!r}, {self.vocabulary} tokens, {self.temperature})"

    @property
    def interval(self) -> tuple[float, float]:
        """That of the tokens."""
        return self.hard.interval

    @property
    def source(self) -> Source | None:
        """Even tokens."""
        return self.hard.source

    def latent(self, key: Key, x0: Data) -> Soft:
        """The noise of (1)."""
        keys = jax.random.split(key, len(x0))
        shape = (*x0.shape[1:], self.vocabulary)
        return per_sample(lambda k: jax.random.normal(k, shape), keys)

    def __call__(self, t: Time, x0: Data, x1: Data, z: Any = None) -> PathSample:
        """The point (3), or the token itself where the temperature is 0.

        Tokens of `x0` have no part in it: at `t = 0` there are others of the same law.

        Raises:
            ValueError: where `z` is missing or of another shape, or tokens are not whole numbers.
        """
        check_tokens(x0, x1)
        check_latent(z, x1, self.vocabulary)
        ratio, noise = self.ratio(t, x1)[..., None], jnp.asarray(z)
        w = ratio * jax.nn.one_hot(x1, self.vocabulary, dtype=noise.dtype) + noise
        if self.temperature:
            x = jax.nn.softmax(w / (self.temperature * jnp.sqrt(1 + ratio**2)), axis=-1)
        else:
            x = jnp.argmax(w, axis=-1).astype(jnp.asarray(x1).dtype)
        return PathSample(at_least_float32(t), x, None, x0, x1)

    def divergence(self, t: Time, x: Any, x1: Data, logits: Soft) -> OfTokens:
        """That of the tokens (`Mixture.divergence`), each where its soft one is largest."""
        hard = jnp.argmax(x, axis=-1).astype(jnp.asarray(x1).dtype) if x.ndim > x1.ndim else x
        return self.hard.divergence(t, hard, x1, logits)

    def ratio(self, t: Time, x: Data) -> OfTokens:
        """$r_t$ of (2) at each token's time."""
        return jnp.interp(self.hard.clock(t, x), self.clocks, jnp.linspace(0.0, _LARGEST, _KNOTS))


def clock_of(ratio: np.ndarray, vocabulary: int) -> np.ndarray:
    r"""$-\log(1 - \kappa)$ by (2), in float64, by the trapezoidal rule, which is exact here."""
    z = np.linspace(-9.0, 9.0, 721)
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi) * (z[1] - z[0])
    missed = -np.expm1((vocabulary - 1) * log_ndtr(z + ratio[:, None])) @ density
    return -np.log(missed * vocabulary / (vocabulary - 1))


def duo(kappa: Any = None, *, source: Source, temperature: float = 1e-3) -> Duo:
    r"""The path (1) of soft tokens, to begin a training from even tokens with.

    With it `losses.generalised_kl` is no bound, but varies less. The run is then finished, sampled
    from and measured on `path.hard`, which is `paths.mixture(kappa, source=source)`.

    Args:
        kappa: as of `mixture`.
        source: `sources.uniform_tokens(vocabulary)`.
        temperature: $\tau$, at least 0; at 0 its points are tokens, by Gaussian noise.

    Raises:
        TypeError: for a kappa that is no function.
        ValueError: for a source that is not of even tokens, or a negative temperature.

    Sahoo et al., The Diffusion Duality, 2025, arXiv:2506.10892, for (2) and, in section 4.1, (3).
    There the Gaussian's schedule is chosen, and kappa follows.

    >>> from jaxflow import sources
    >>> path = duo(source=sources.uniform_tokens(2))
    >>> round(path.ratio(jnp.array([0.5]), jnp.zeros((1, 1), int)).item(), 3)  # 2 erfinv(1 / 2)
    0.954
    """
    check_made("source", source)
    weights = np.atleast_1d(getattr(source, "log_weights", 0.0))
    if weights.ndim > 1 or len(weights) < 2 or np.ptp(weights) > 1e-6:
        raise ValueError(
            "the largest of Gaussian entries is any token alike: give "
            f"source=sources.uniform_tokens(vocabulary); got {type(source).__name__}"
        )
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"duo needs a temperature of 0 or more; got {temperature}")
    hard, n = mixture(kappa, source=source), len(weights)
    clocks = clock_of(np.linspace(0.0, _LARGEST, _KNOTS), n)
    return Duo(hard, jnp.asarray(np.maximum(clocks, 0.0)), n, float(temperature))

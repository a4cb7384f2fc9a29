r"""Tokens as points of a sphere: the geodesics of the Fisher-Rao metric.

A law over a vocabulary is a point of the sphere by the roots of its probabilities, all of them
positive, and a token $y$ the corner $e_y$. From noise, uniform over that orthant, the path goes
straight there along the sphere,

(1) $x_t = \frac{\sin((1 - \kappa_t)\, \theta)}{\sin \theta}\, x_0
    + \frac{\sin(\kappa_t\, \theta)}{\sin \theta}\, e_y$ with $\cos \theta = x_0^y$

(2) $u_t(x \mid e_y) = \frac{\dot\kappa_t}{1 - \kappa_t}\, \frac{\theta}{\sin\theta}\,
    (e_y - x^y x)$ with $\cos\theta = x^y$

so that a posterior of the token gives the velocity of the flow,

(3) $u_t(x) = \sum_y p_{1 \mid t}(y \mid x)\, u_t(x \mid e_y)$

Angles to the corner shrink to the share $1 - \kappa_t$ of theirs, so that on the sphere of a
vocabulary of $V$ and with data of law $p_1$

(4) $p_{1 \mid t}(y \mid x) \propto p_1(y)\, \left[ \sin \tfrac{\theta_y}{1 - \kappa_t}
    \,/\, \sin \theta_y \right]^{V - 2} 1\!\left[ \theta_y \le (1 - \kappa_t)\, \tfrac\pi2 \right]$
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.arrays import at_least_float32, expand, per_sample
from jaxflow.checks import check_made
from jaxflow.paths.kappas import Kappa, as_kappa, linear
from jaxflow.records import record, static
from jaxflow.types import Array, Float, Interval, Keys, PathSample, Time

__all__ = ["Fisher", "Orthant", "check_soft", "fisher"]

Points = Float[Array, "batch *event vocabulary"]

_LAST = 1.0 - 1e-3


@record
class Orthant:
    """Every place a point of the sphere, uniform over its positive orthant."""

    vocabulary: int = static()

    def sample(self, keys: Keys, event_shape: tuple[int, ...]) -> Points:
        """One sample a key, `[batch, *event_shape, vocabulary]`."""
        shape = (*event_shape, self.vocabulary)
        z = per_sample(lambda key: jnp.abs(jax.random.normal(key, shape)), keys)
        return z / jnp.linalg.norm(z, axis=-1, keepdims=True)

    def log_prob(self, x0: Points) -> Float[Array, "batch"]:
        """Its logarithm by the area of the sphere, in nats."""
        v = self.vocabulary / 2
        area = jnp.log(2) + v * jnp.log(jnp.pi) - jax.scipy.special.gammaln(v)
        places = x0[0, ..., 0].size
        return jnp.full(len(x0), places * (self.vocabulary * jnp.log(2) - area))


@record
class Fisher:
    """The path (1) of a vocabulary."""

    kappa: Kappa
    vocabulary: int = static()

    @property
    def interval(self) -> Interval:
        """Until the noise that is left is too little to tell."""
        return 0.0, min(_LAST, self.kappa.last)

    @property
    def source(self) -> Orthant:
        """The noise that it begins at."""
        return Orthant(self.vocabulary)

    def __call__(self, t: Time, x0: Any, x1: Any, z: Any = None) -> PathSample:
        """The point (1) of tokens `x1 [batch, *event]`, with its velocity (2).

        Raises:
            ValueError: for data that is no tokens, or noise that is no points of their sphere.
        """
        x1 = jnp.asarray(x1)
        check_soft(x0, x1, self.vocabulary, "sphere")

        def at(t: Array) -> Points:
            corner = jax.nn.one_hot(x1, self.vocabulary, dtype=x0.dtype)
            theta = _angle(jnp.sum(corner * x0, axis=-1, keepdims=True))
            kappa = self.kappa(expand(t, x0))
            share = jnp.sin((1 - kappa) * theta) * x0 + jnp.sin(kappa * theta) * corner
            return share / jnp.sin(theta)

        t = at_least_float32(t)
        x, u = jax.jvp(at, (t,), (jnp.ones_like(t),))
        return PathSample(t, x, u, x0, x1)

    def velocity(self, t: Time, x: Points, logits: Points) -> Points:
        """(3) of a posterior, by its logits; at `x` that are no unit vectors, that of their own."""
        norm = jnp.linalg.norm(x, axis=-1, keepdims=True)
        x = x / jnp.where(norm > 0, norm, 1.0)
        t = expand(jnp.clip(at_least_float32(t), *self.interval), x)
        kappa, slope = jax.jvp(self.kappa, (t,), (jnp.ones_like(t),))
        theta = _angle(x)
        pull = jax.nn.softmax(at_least_float32(logits)) * theta / jnp.sin(theta)
        toward = pull - jnp.sum(pull * x, axis=-1, keepdims=True) * x
        return slope / (1 - kappa) * toward


def _angle(cosine: Array) -> Array:
    """That of a cosine, at least 1e-4, so that its sine divides."""
    return jnp.maximum(jnp.arccos(jnp.clip(cosine, -1.0, 1.0)), 1e-4)


def check_soft(x0: Any, x1: Array, vocabulary: int, space: str) -> None:
    """Refuse what are no tokens and points of a space for each.

    Raises:
        ValueError: naming what was given.
    """
    if not jnp.issubdtype(x1.dtype, jnp.integer):
        raise ValueError(f"data is tokens, whole numbers; got {x1.dtype}")
    if jnp.shape(x0) != (*x1.shape, vocabulary):
        raise ValueError(
            f"x0 has shape {jnp.shape(x0)} for tokens of shape {x1.shape}: it is a point of the "
            f"{space} a token, [..., {vocabulary}], as path.source draws"
        )


def fisher(vocabulary: int, kappa: Any = None) -> Fisher:
    """The path (1) of soft tokens, for `losses.cross_entropy`; a flow, where `mixture` jumps.

    A network reads points `x [batch, *event, vocabulary]` of the sphere, and says the logits of
    their tokens. `velocities.from_logits(network, path)` is the flow, which any solver follows, and
    the largest entry of each place the token that it ends at.

    Args:
        vocabulary: how many tokens there are.
        kappa: how far along by time, one of `kappas`; linear where None.

    Raises:
        TypeError: for a kappa that is no function.
        ValueError: for fewer than two tokens, or a kappa that does not rise from 0 to 1.

    Davis et al., Fisher Flow Matching for Generative Modeling over Discrete Data, 2024,
    arXiv:2405.14664; with a classifier in the place of the velocity as Stark et al., Dirichlet Flow
    Matching, 2024, arXiv:2402.05841. (4) is ours.

    >>> path = fisher(2)
    >>> x0 = jnp.full((1, 1, 2), 0.5**0.5)
    >>> half_way = path(jnp.array([0.5]), x0, jnp.array([[1]])).x
    >>> [round(float(a), 3) for a in half_way[0, 0]]
    [0.383, 0.924]
    """
    check_made("kappa", kappa)
    if vocabulary < 2:
        raise ValueError(f"fisher needs a vocabulary of 2 or more; got {vocabulary}")
    return Fisher(linear() if kappa is None else as_kappa(kappa), vocabulary)

r"""Guidance of tokens by a predictor: what a classifier says of each jump.

(1) $\log r_s(y, x) = \log r(y, x) + s\,[\log p_t(c \mid x^{i \to y}) - \log p_t(c \mid x)]$

with $x^{i \to y}$ the sequence whose token $i$ has become $y$. At $s = 1$ and for a mask source
these are the rates of the process given $c$, by Bayes' rule and exactly; of other sources nearly,
whose rates are not those of noising run backwards. With every $x^{i \to y}$ tried it costs the
predictor a call for each token and symbol; by the slope $\nabla$ of its one-hot tokens

(2) $\log p_t(c \mid x^{i \to y}) - \log p_t(c \mid x) \approx
    [\nabla \log p_t(c \mid x)]_{i, y} - [\nabla \log p_t(c \mid x)]_{i, x^i}$

it costs one, forwards and backwards.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.arrays import at_least_float32
from jaxflow.records import record, static, traceable
from jaxflow.types import Array, Interval, Path, Velocity
from jaxflow.velocities.function import as_velocity
from jaxflow.velocities.guidance.rows import without
from jaxflow.velocities.guidance.scales import Scale, as_scale, scale_at

__all__ = ["tilted"]


@record
class Tilted:
    """Logits of a mixture path, and a predictor's word on each of them."""

    velocity: Velocity
    log_prob: Callable[..., Any]
    scale: Any
    withheld: tuple[str, ...] = static()
    each: bool = static()

    @property
    def evaluations(self) -> int:
        """Those of the logits, and of `log_prob` where it names some."""
        return self.velocity.evaluations + getattr(self.log_prob, "evaluations", 0)

    @property
    def interval(self) -> Interval:
        """That of the logits."""
        return self.velocity.interval

    @property
    def path(self) -> Path | None:
        """That of the logits."""
        return self.velocity.path

    def __call__(self, t: Any, x: Any, **cond: Any) -> Array:
        own = without(cond, self.withheld)
        logits = self.velocity(t, x, **own)
        vocabulary = logits.shape[-1]
        known = jax.nn.one_hot(x, vocabulary + 1)
        change = (self._tried if self.each else self._slope)(t, x, known, cond)
        law = jax.nn.log_softmax(at_least_float32(logits))
        return law + scale_at(self.scale, t, law) * change[..., :vocabulary]

    def _slope(self, t: Any, x: Any, known: Array, cond: Any) -> Array:
        value, pull = jax.vjp(lambda hot: self._said(t, hot, cond), known)
        slope = pull(jnp.ones_like(value))[0]
        return slope - jnp.sum(slope * known, axis=-1, keepdims=True)

    def _tried(self, t: Any, x: Any, known: Array, cond: Any) -> Array:
        symbols = known.shape[-1]
        flat = known.reshape(len(x), -1, symbols)

        def tried(i: Array) -> Array:
            place, symbol = i // symbols, i % symbols
            moved = flat.at[:, place].set(jax.nn.one_hot(symbol, symbols))
            return self._said(t, moved.reshape(known.shape), cond)

        values = jax.lax.map(tried, jnp.arange(flat.shape[1] * symbols))
        change = values.T.reshape(known.shape)
        return change - jnp.sum(change * known, axis=-1, keepdims=True)

    def _said(self, t: Any, hot: Array, cond: Any) -> Array:
        value = self.log_prob(t, hot, **cond)
        if jnp.shape(value) != (len(hot),):
            raise ValueError(
                f"log_prob returns shape {jnp.shape(value)} for a batch of {len(hot)}: it is "
                "(t, one_hot, **cond) -> log-density, one number a sample"
            )
        return value


def tilted(
    logits: Velocity | Callable[..., Any],
    log_prob: Callable[..., Any],
    *,
    scale: Scale = 1.0,
    withheld: Sequence[str] = (),
    each: bool = False,
) -> Velocity:
    """Logits guided by a predictor of noisy tokens: (1) by every jump, or (2) by its slope.

    Args:
        logits: `(t, x, **cond) -> logits [batch, *event, vocabulary]`, of a network trained on
            `paths.mixture`.
        log_prob: `(t, one_hot, **cond) -> [batch]`, what is said of `one_hot [batch, *event,
            vocabulary + 1]`, the last symbol being the mask; differentiated here for (2). Arrays
            that it needs are fields of a record or arguments of a `jax.tree_util.Partial`.
        scale: $s$, one number, one a sample, `[batch]`, or a function of `t`; 0 changes nothing.
        withheld: conditions that `log_prob` alone takes.
        each: try every jump, `length * (vocabulary + 1)` calls of `log_prob`, which is exact, and
            not only for a predictor that is nearly linear.

    Returns:
        Logits whose normaliser is the whole rate: `leaps.by_rates` follows it, and every other leap
        normalises them, which of masks and at scale 1 is the same.

    Raises:
        ValueError: where a log-density is not one number a sample, or a withheld condition missing.

    Nisonoff et al., Unlocking Guidance for Discrete State-Space Diffusion and Flow Models, 2024,
    arXiv:2406.01572, eq. 2 and 5.
    """
    if not callable(log_prob):
        raise TypeError(
            f"log_prob is a function (t, one_hot, **cond) -> [batch]; got {type(log_prob).__name__}"
        )
    return Tilted(as_velocity(logits), traceable(log_prob), as_scale(scale), tuple(withheld), each)

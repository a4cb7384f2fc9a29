r"""Logits made surer of themselves, for samplers of tokens.

(1) temperature: $p'(y) \propto p(y)^{1 / \tau}$, logits over $\tau$

(2) top-p: $p'(y) \propto p(y)\, 1[p(y) \ge c]$ with the largest $c$ that leaves at least the mass
    $p$

Samples are then of another law than the data's: likelier, and less diverse.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxflow.arrays import as_floats, at_least_float32, is_concrete
from jaxflow.records import record
from jaxflow.types import Array, Interval, Path, Velocity
from jaxflow.velocities.function import as_velocity

__all__ = ["temperature", "top_p"]

_SPAN = 60.0  # what is less likely than the likeliest by more, in nats, has no mass
_HALVINGS = 24  # to 4e-6 of it


@record
class Sharpened:
    """Logits, and what is made of them by a number."""

    velocity: Velocity
    rule: Callable[..., Any]
    size: Array

    @property
    def evaluations(self) -> int:
        """Those of the velocity."""
        return self.velocity.evaluations

    @property
    def interval(self) -> Interval:
        """That of the velocity."""
        return self.velocity.interval

    @property
    def path(self) -> Path | None:
        """That of the velocity."""
        return self.velocity.path

    def __call__(self, t: Any, x: Any, **cond: Any) -> Array:
        return self.rule(self.velocity(t, x, **cond), self.size)


@record
class Over:
    """The rule (1)."""

    def __call__(self, logits: Array, size: Array) -> Array:
        return (at_least_float32(logits) / size).astype(logits.dtype)


@record
class Nucleus:
    """The rule (2)."""

    def __call__(self, logits: Array, mass: Array) -> Array:
        wide = at_least_float32(logits)
        top = jnp.max(wide, axis=-1, keepdims=True)
        wanted = mass * jnp.sum(jnp.exp(wide - top), axis=-1, keepdims=True)

        def halve(_: Any, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = bounds
            middle = (low + high) / 2
            kept = jnp.where(wide >= middle, jnp.exp(wide - top), 0.0)
            enough = jnp.sum(kept, axis=-1, keepdims=True) >= wanted
            return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

        low, _ = jax.lax.fori_loop(0, _HALVINGS, halve, (top - _SPAN, top))
        kept = jnp.where(mass < 1, wide >= low, True)
        return jnp.where(kept, logits, -jnp.inf)


def temperature(logits: Velocity | Callable[..., Any], size: ArrayLike) -> Velocity:
    r"""Logits over a temperature (1): below 1 the likely becomes likelier.

    Args:
        logits: `(t, x, **cond) -> logits [batch, *event, vocabulary]`.
        size: $\tau$, positive; 1 changes nothing.

    Raises:
        ValueError: for a temperature that is not positive.

    >>> hot = temperature(lambda t, x: jnp.array([[2.0, 0.0]]), 2.0)
    >>> hot(jnp.zeros(1), jnp.zeros(1, int))
    Array([[1., 0.]], dtype=float32)
    """
    if is_concrete(size) and not 0 < float(np.asarray(size)) < float("inf"):
        raise ValueError(
            f"a temperature is positive; got {size}: for the likeliest token alone take top_p "
            "of a small mass"
        )
    return Sharpened(as_velocity(logits), Over(), as_floats(size))


def top_p(logits: Velocity | Callable[..., Any], mass: ArrayLike) -> Velocity:
    """The likeliest tokens that hold a mass (2), and minus infinity for the others.

    The bound is found by halving, so that nothing is sorted and no second array held. Tokens whose
    probabilities are within 4e-6 of each other, as ratios, stay or go together.

    Args:
        logits: `(t, x, **cond) -> logits [batch, *event, vocabulary]`.
        mass: $p$, in (0, 1]; 1 changes nothing, and a small one leaves the likeliest token.

    Raises:
        ValueError: for a mass outside (0, 1].

    Holtzman et al., The Curious Case of Neural Text Degeneration, 2020, arXiv:1904.09751.

    >>> nucleus = top_p(lambda t, x: jnp.log(jnp.array([[0.5, 0.3, 0.2]])), 0.6)
    >>> jnp.isneginf(nucleus(jnp.zeros(1), jnp.zeros(1, int))).tolist()
    [[False, False, True]]
    """
    if is_concrete(mass) and not 0 < float(np.asarray(mass)) <= 1:
        raise ValueError(f"top_p needs a mass in (0, 1]; got {mass}")
    return Sharpened(as_velocity(logits), Nucleus(), as_floats(mass))

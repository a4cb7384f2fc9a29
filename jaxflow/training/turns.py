"""An optimiser that waits while its parameters have no gradient."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

__all__ = ["in_turn"]


def in_turn(optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """The optimiser, whose moments and counts stay where the whole gradient is 0.

    For a part that takes one of several steps, as the generator of
    `losses.distribution_matching`: an optimiser would take the zeros between for gradients.

    Raises:
        TypeError: for what is no optimiser.

    >>> waiting = in_turn(optax.sgd(1.0, momentum=0.9))
    >>> state = waiting.init(jnp.ones(2))
    >>> _, state = waiting.update(jnp.ones(2), state)
    >>> waiting.update(jnp.zeros(2), state)[0]
    Array([0., 0.], dtype=float32)
    """
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(f"the optimizer is {optimizer!r}, but must be an Optax transformation")
    inner = optax.with_extra_args_support(optimizer)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        leaves = jax.tree.leaves(updates)
        some = jnp.any(jnp.stack([jnp.any(leaf != 0) for leaf in leaves]))
        found, moved = inner.update(updates, state, params, **extra)
        found = jax.tree.map(lambda a: jnp.where(some, a, jnp.zeros_like(a)), found)
        kept = jax.tree.map(lambda a, b: jnp.where(some, a, b), moved, state)
        return found, kept

    return optax.GradientTransformationExtraArgs(inner.init, update)

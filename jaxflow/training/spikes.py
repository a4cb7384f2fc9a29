r"""A guard against steps whose loss jumps out of its recent course.

(1) $\ell_n > m_n + k\, s_n$, with $m$ and $s^2$ the running mean and variance of accepted losses,

(2) $m' = d\, m + (1 - d)\, \ell$ and $s'^2 = d\,(s^2 + (1 - d)(\ell - m)^2)$,
with $d = \min(d_0, n / (n + 1))$.

A step for which (1) holds changes neither the parameters nor the optimiser, and is counted. A jump
that lasts is no spike but a new course: after as many refusals in a row as the guard took to warm
up, it begins anew from the next loss.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxflow.types import Array, PyTree

__all__ = ["WithoutSpikes", "without_spikes"]


class WithoutSpikes(NamedTuple):
    """The state of `without_spikes`; `spikes` counts the steps left out, `refused` the last ones
    in a row.
    """

    inner: PyTree
    mean: Array
    variance: Array
    accepted: Array
    spikes: Array
    refused: Array


def without_spikes(
    optimizer: optax.GradientTransformation,
    *,
    deviations: float = 6.0,
    decay: float = 0.99,
    warmup: int = 100,
) -> optax.GradientTransformationExtraArgs:
    """An optimiser that leaves out the steps of which (1) holds.

    Args:
        optimizer: what takes the other steps.
        deviations: $k$ of (1).
        decay: $d_0$ of (2); the guard remembers about `1 / (1 - decay)` losses.
        warmup: accepted steps before the guard says anything, and refused ones before it gives in.

    Returns:
        A transformation whose update takes the loss as `value`, as `training.trainer` gives it.

    Raises:
        ValueError: for numbers outside their range.
    """
    if not (deviations > 0 and 0 < decay < 1 and warmup >= 2):
        raise ValueError(
            "deviations must be positive, decay between 0 and 1, and warmup at least 2; got "
            f"{deviations}, {decay} and {warmup}"
        )
    inner = optax.with_extra_args_support(optimizer)

    def init(params: PyTree) -> WithoutSpikes:
        none = jnp.zeros((), jnp.int32)
        return WithoutSpikes(inner.init(params), jnp.zeros(()), jnp.zeros(()), *3 * [none])

    def update(
        updates: PyTree, state: Any, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, WithoutSpikes]:
        value = extra["value"]
        spike = _is_spike(state, value, deviations, warmup)
        updates, taken = inner.update(updates, state.inner, params, **extra)
        updates = jax.tree.map(lambda u: jnp.where(spike, 0, u).astype(u.dtype), updates)
        accepted = state._replace(inner=taken, refused=jnp.zeros_like(state.refused))
        accepted = accepted._replace(**_moments(state, value, decay, warmup))
        left_out = state._replace(spikes=state.spikes + 1, refused=state.refused + 1)
        return updates, jax.tree.map(lambda a, b: jnp.where(spike, a, b), left_out, accepted)

    return optax.GradientTransformationExtraArgs(init, update)


def _is_spike(state: WithoutSpikes, value: Array, deviations: float, warmup: int) -> Array:
    limit = state.mean + deviations * jnp.sqrt(state.variance)
    return (state.accepted >= warmup) & (state.refused < warmup) & (value > limit)


def _moments(state: WithoutSpikes, value: Array, decay: float, warmup: int) -> dict[str, Array]:
    """Mean, variance and count of (2) after one loss more."""
    accepted = jnp.where(state.refused < warmup, state.accepted, 0)
    n = accepted.astype(value.dtype)
    d = jnp.minimum(decay, n / (n + 1))
    off = value - state.mean
    mean = d * state.mean + (1 - d) * value
    variance = d * (state.variance + (1 - d) * off**2)
    return {"mean": mean, "variance": variance, "accepted": accepted + 1}

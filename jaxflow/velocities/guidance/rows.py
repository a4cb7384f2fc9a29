"""Conditions of a velocity, and several calls of it as one, each example beside its twins.

Row `i` of a batch becomes the rows `k i, ..., k i + k - 1`, so that a batch split over devices
stays where it is.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.arrays import null_like
from jaxflow.types import Array, Cond, Velocity

__all__ = ["call_beside", "nulls_of", "without"]


def call_beside(velocity: Velocity, t: Any, x: Any, *conds: Cond) -> list[Any]:
    """The velocity at `(t, x)` under each of several conditions, in one call."""
    k = len(conds)
    t, x, cond = jax.tree.map(_twins, *((t, x, dict(cond)) for cond in conds))
    v = velocity(t, x, **cond)
    return [jax.tree.map(lambda a, i=i: _apart(a, k)[i], v) for i in range(k)]


def nulls_of(null: Mapping[str, Any], cond: Cond) -> dict[str, Any]:
    """The null of each condition that has one, in its shape.

    Raises:
        ValueError: for a null of a condition that is not there, or of another shape.
    """
    missing = sorted(set(null) - set(cond))
    if missing:
        raise ValueError(
            f"guidance has a null value for {missing[0]!r}, but the conditions are "
            f"{sorted(cond)}: pass cond={{{missing[0]!r}: ...}} to the sampler"
        )
    return {name: null_like(name, value, cond[name]) for name, value in null.items()}


def without(cond: Mapping[str, Any], withheld: Sequence[str]) -> dict[str, Any]:
    """The conditions but those that are withheld from the velocity.

    Raises:
        ValueError: where one of them is missing.
    """
    missing = [name for name in withheld if name not in cond]
    if missing:
        raise ValueError(
            f"guidance withholds the condition {missing[0]!r} from the velocity, but the "
            f"conditions are {sorted(cond)}"
        )
    return {name: value for name, value in cond.items() if name not in withheld}


def _twins(*copies: Any) -> Array:
    stacked = jnp.stack([jnp.asarray(a) for a in copies], axis=1)
    return stacked.reshape(-1, *stacked.shape[2:])


def _apart(v: Array, k: int) -> Array:
    return jnp.moveaxis(v.reshape(-1, k, *v.shape[1:]), 1, 0)

r"""The squared error of each example, over the entries of its data that count.

(1) $e_i = \sum_k m_{ik} w_{ik} (a_{ik} - b_{ik})^2 / \sum_k m_{ik}$, 0 where no entry counts

Of a sample of several parts the errors (1) of all parts are added.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxflow.arrays import event_mean, event_sum, expand
from jaxflow.types import Array, Time

__all__ = ["mean_error", "squared_error"]


def squared_error(
    predicted: Any,
    target: Any,
    *,
    t: Any = None,
    weight: Callable[[Time], Array] | None = None,
    mask: Any = None,
) -> Array:
    """The error (1) of each example.

    Args:
        predicted: an array, or a mapping of parts.
        target: the same.
        t: the times that `weight` takes, one for all parts or a mapping.
        weight: one a time, or None for 1.
        mask: bools, True for an entry that counts, `[batch, *leading event axes]`, each axis as
            long as that of the data or 1; of several parts a mapping, in which a part that is not
            named counts whole. All counts where None.

    Raises:
        ValueError: for a weight or mask of another shape.

    >>> squared_error(jnp.ones((2, 2)), jnp.zeros((2, 2)), mask=jnp.array([True, False]))
    Array([1., 0.], dtype=float32)
    """
    if isinstance(predicted, Mapping):
        times = t if isinstance(t, Mapping) else dict.fromkeys(predicted, t)
        masks = _of_parts(mask, predicted)
        parts = [
            squared_error(predicted[k], target[k], t=times[k], weight=weight, mask=masks.get(k))
            for k in sorted(predicted)
        ]
        return jnp.sum(jnp.stack(parts), axis=0)
    difference = predicted - target
    if mask is not None:
        mask = _checked_mask(mask, difference)
        difference = jnp.where(mask, difference, 0)
    return mean_error(jnp.square(difference), t=t, weight=weight, mask=mask)


def mean_error(
    error: Array, *, t: Any = None, weight: Callable[[Time], Array] | None = None, mask: Any = None
) -> Array:
    """The mean of each example's errors `[batch, *event]` over the entries that count, weighted.

    Args:
        error: finite where an entry counts.
        t, weight, mask: as for `squared_error`.

    Raises:
        ValueError: for a weight or mask of another shape.
    """
    if weight is not None:
        error = expand(_checked_weight(weight(t), t), error) * error
    if mask is None:
        return event_mean(error)
    mask = _checked_mask(mask, error)
    count = event_sum(mask) * (error.size // mask.size)
    return event_sum(jnp.where(mask, error, 0)) / jnp.maximum(count, 1)


def _of_parts(mask: Any, parts: Mapping[str, Any]) -> Mapping[str, Any]:
    """The masks of those parts that have one."""
    if mask is None:
        return {}
    if not isinstance(mask, Mapping) or not set(mask) <= set(parts):
        found = sorted(mask) if isinstance(mask, Mapping) else "one array"
        raise ValueError(f"data of the parts {sorted(parts)} has a mask by part; got {found}")
    return mask


def _checked_mask(mask: Any, data: Array) -> Array:
    """The mask in the rank of the data."""
    shape, kind = np.shape(mask), getattr(mask, "dtype", type(mask).__name__)
    axes = shape + (1,) * (data.ndim - len(shape))
    alike = len(axes) == data.ndim and shape[:1] == data.shape[:1]
    fits = alike and all(m in (1, n) for m, n in zip(axes, data.shape, strict=True))
    if str(kind) != "bool" or not fits:
        raise ValueError(
            f"the mask is {kind} of shape {shape} for data of shape {data.shape}: it is bool, True "
            "for what counts, [batch, *leading event axes], each as long as that of the data or 1"
        )
    return jnp.asarray(mask).reshape(axes)


def _checked_weight(weight: Any, t: Any) -> Array:
    """The weight, known to be one a time."""
    if jnp.shape(weight) != jnp.shape(t):
        raise ValueError(
            f"the weight of times of shape {jnp.shape(t)} has shape {jnp.shape(weight)}: a weight "
            "is a function of t alone, one a time"
        )
    return jnp.asarray(weight)

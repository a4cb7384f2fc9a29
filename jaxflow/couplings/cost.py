"""What a pair costs: the matrix that every transport here is solved for.

(1) $C_{ij} = c(x_0^i, x_1^j)$, source by row and datum by column; $|x_0^i - x_1^j|^2$ unless given
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Inexact

from jaxflow.arrays import batch_size, event_shape, is_concrete, squared_distances
from jaxflow.checks import check_made
from jaxflow.types import AnyArray, Sample

__all__ = [
    "Cost",
    "check_cost",
    "check_finite",
    "check_pairs",
    "cost_matrix",
    "on_the_host",
    "reordered",
]

Cost = Callable[[Sample, Sample], Any]


def check_cost(cost: Any) -> None:
    """Refuse what is no function of two batches.

    Raises:
        TypeError: naming what a cost is.
    """
    check_made("cost", cost)
    if cost is not None and not callable(cost):
        raise TypeError(
            "a cost is a function (x0, x1) -> [n, m], or None for the squared distance; got "
            f"{type(cost).__name__}"
        )


def check_pairs(x0: Sample, x1: Sample) -> None:
    """Refuse two batches that cannot be paired one to one.

    Raises:
        ValueError: with their shapes.
    """
    if event_shape(x0) != event_shape(x1) or batch_size(x0) != batch_size(x1):
        shapes = [jax.tree.map(jnp.shape, x) for x in (x0, x1)]
        raise ValueError(f"x0 has shape {shapes[0]} but x1 {shapes[1]}: they are paired one to one")


def cost_matrix(cost: Cost | None, x0: Sample, x1: Sample) -> Inexact[AnyArray, "n m"]:
    """The matrix (1) without its gradient, in at least float32; two in NumPy stay there.

    Raises:
        ValueError: where a cost returns another shape, or no real numbers.
    """
    on_host = all(isinstance(a, np.ndarray) for a in jax.tree.leaves((x0, x1)))
    if cost is None:
        xp = np if on_host else jnp
        found = squared_distances(_rows(xp, x0), _rows(xp, x1))
    else:
        found = (np.asarray if on_host else jnp.asarray)(cost(x0, x1))
        shape = (batch_size(x0), batch_size(x1))
        if found.shape != shape or not jnp.issubdtype(found.dtype, jnp.floating):
            raise ValueError(
                f"the cost returned {found.dtype}{list(found.shape)}, but of {shape[0]} sources "
                f"and {shape[1]} data it is floating {list(shape)}: row i for source i"
            )
    if on_host:
        return found.astype(np.float64, copy=False)
    found = found.astype(jnp.promote_types(found.dtype, jnp.float32))
    return jax.lax.stop_gradient(found)


def on_the_host(factory: str, tree: Any) -> Any:
    """The tree in NumPy, what floats of it in float64.

    Raises:
        ValueError: where it is traced.
    """
    if not all(map(is_concrete, jax.tree.leaves(tree))):
        raise ValueError(
            f"{factory}(on_host=True) cannot be traced: complete batches ahead of the "
            f"step by training.ahead, or couple inside jit with {factory}()"
        )
    return jax.tree.map(_float64, tree)


def reordered(x: Sample, order: AnyArray) -> Sample:
    """The samples in another order: in NumPy by the host's, which needs no device yet."""
    xp: Any = np if isinstance(order, np.ndarray) else jnp
    return jax.tree.map(lambda a: xp.asarray(a)[order], x)


def check_finite(what: str, tree: Any) -> None:
    """Refuse values from which no transport follows.

    Raises:
        ValueError: where one is not finite.
    """
    if not all(np.all(np.isfinite(a)) for a in jax.tree.leaves(tree)):
        raise ValueError(f"optimal transport met a value that is not finite in {what}")


def _float64(a: Any) -> np.ndarray:
    a = np.asarray(a)
    return a.astype(np.float64) if jnp.issubdtype(a.dtype, jnp.floating) else a


def _rows(xp: Any, x: Sample) -> Any:
    """`[batch, d]`: every sample with all its parts."""
    leaves = [xp.asarray(a) for a in jax.tree.leaves(x)]
    return xp.concatenate([a.reshape(len(a), -1) for a in leaves], axis=1)

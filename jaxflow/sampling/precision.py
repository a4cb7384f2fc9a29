r"""What a solve computes in: it cannot be more exact than the velocity that it is given.

An adaptive solver estimates its error by the difference of two results. Where the velocity is
rounded to a unit $\epsilon$, differences below $\epsilon$ are rounding: a tolerance below it makes
steps shrink, and the solution no more exact.

| name | networks compute in | products of float32 |
|---|---|---|
| `network` | what they were made with | JAX's default: bfloat16 on a TPU, TF32 on a recent GPU |
| `bfloat16` | bfloat16 | the same |
| `tensorfloat32` | float32 | TF32 on a GPU, three passes of bfloat16 on a TPU |
| `float32` | float32 | float32 |

By default adaptive solves and likelihoods take `float32`, and methods on a fixed grid `network`.
Float64 stays float64. A network says how it computes otherwise by `computing(dtype)`, which
returns it so; those of `networks.linen` do where their module has a field `dtype`.
"""

import contextlib
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxflow.arrays import is_concrete
from jaxflow.names import check_known
from jaxflow.types import PyTree

__all__ = ["PRECISIONS", "computing"]

PRECISIONS = {
    "network": None,
    "bfloat16": None,
    "tensorfloat32": "tensorfloat32",
    "float32": "highest",
}


def computing(
    velocity: PyTree, precision: str, *tolerances: ArrayLike, state: PyTree = None
) -> tuple[PyTree, contextlib.AbstractContextManager[Any]]:
    """A velocity that computes as a resolved precision says, and the context to trace it in.

    Warns where a tolerance lies below what the computation can tell apart.

    Args:
        velocity: or a flow map, or any tree that holds networks.
        precision: one of `PRECISIONS`.
        *tolerances: of an adaptive solve; the largest counts, where their values are known.
        state: what is solved for.

    Raises:
        ValueError: for another precision.
    """
    check_known("precision", precision, PRECISIONS)
    if precision == "network":
        computed = velocity
    else:
        computed = _networks_in(velocity, jnp.bfloat16 if precision == "bfloat16" else None)
    if tolerances and all(map(is_concrete, tolerances)):
        _check_tolerance(_largest(tolerances), computed, state)
    products = PRECISIONS[precision]
    return computed, (
        jax.default_matmul_precision(products) if products else contextlib.nullcontext()
    )


def _check_tolerance(tolerance: float, velocity: PyTree, state: PyTree) -> None:
    leaves = jax.tree.leaves(state)
    dtype, remedy = jnp.result_type(jnp.float32, *leaves), "a larger tolerance"
    if tolerance >= _unit(jnp.bfloat16):
        return
    if jax.tree.structure(velocity) != jax.tree.structure(_networks_in(velocity, None)):
        dtype, remedy = jnp.dtype(jnp.bfloat16), "precision='float32'"
    if tolerance < _unit(dtype):
        warnings.warn(
            f"a tolerance of {tolerance:g} lies below what {dtype.name} tells apart "
            f"({_unit(dtype):.1e}): steps shrink and the solution is no more exact; take {remedy}",
            stacklevel=4,
        )


def _networks_in(tree: PyTree, dtype: Any) -> PyTree:
    """The tree with networks that compute in `dtype`; in that of their parameters where None."""

    def says_how(node: Any) -> bool:
        return hasattr(node, "computing")

    return jax.tree.map(lambda a: a.computing(dtype) if says_how(a) else a, tree, is_leaf=says_how)


def _largest(tolerances: tuple[ArrayLike, ...]) -> float:
    return max(float(np.max(a)) for a in tolerances)


def _unit(dtype: Any) -> float:
    return float(jnp.finfo(dtype).eps)

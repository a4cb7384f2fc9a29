"""Floating-point operations of a function, by walking what it traces to.

Matrix products and convolutions are counted, the body of a scan as often as it runs. The
compiler's own figure counts such a body once.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax

__all__ = ["flops"]


def flops(fn: Callable[..., Any], *args: Any) -> int:
    """Operations of the matrix products and convolutions in one call, a multiply-add being two.

    Loops of unknown length count once; of the branches of a condition, the dearest counts.

    >>> import jax.numpy as jnp
    >>> flops(lambda a, b: a @ b, jnp.ones((2, 3)), jnp.ones((3, 5)))
    60
    """
    return _count(jax.make_jaxpr(fn)(*args).jaxpr)


def _count(jaxpr: Any) -> int:
    return sum(_equation(equation) for equation in jaxpr.eqns)


def _equation(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        out = equation.outvars[0].aval.shape
        return 2 * math.prod(out) * math.prod(left[i] for i in contracted)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        features = kernel[params["dimension_numbers"].rhs_spec[0]]
        return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // features
    if name == "cond":
        return max((_count(branch.jaxpr) for branch in params["branches"]), default=0)
    times = params["length"] if name == "scan" else 1
    return times * sum(_count(inner) for inner in _inner(params))


def _inner(params: Any) -> Iterator[Any]:
    """The jaxprs among the parameters of an equation."""
    for value in params.values():
        for part in value if isinstance(value, (tuple, list)) else (value,):
            if hasattr(part, "jaxpr") or hasattr(part, "eqns"):
                yield getattr(part, "jaxpr", part)

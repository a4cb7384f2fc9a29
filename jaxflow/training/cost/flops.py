"""Floating-point operations of a function, read from its trace.

Matrix products and convolutions are counted, a multiplication and an addition each; the body of a
scan as often as it runs, and of a conditional the dearest branch.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax

__all__ = ["flops"]


def flops(f: Callable[..., Any], *args: Any) -> int:
    """Operations of `f(*args)`; the arguments may be `jax.ShapeDtypeStruct`s.

    >>> import jax.numpy as jnp
    >>> twice = lambda w, x: jax.lax.fori_loop(0, 2, lambda _, x: x @ w, x)
    >>> flops(twice, jnp.ones((4, 4)), jnp.ones((3, 4))) == 2 * (2 * 3 * 4 * 4)
    True

    Raises:
        ValueError: for a loop whose length is not known, which holds operations to count.
    """
    return _count(jax.make_jaxpr(f)(*args).jaxpr)


def _count(jaxpr: Any) -> int:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> int:
    name = equation.primitive.name
    if name == "dot_general":
        return _of_product(equation)
    if name == "conv_general_dilated":
        return _of_convolution(equation)
    inner = [_count(jaxpr) for jaxpr in _inside(list(equation.params.values()))]
    if name == "cond":
        return max(inner)
    if name == "while" and sum(inner):
        raise ValueError("a while loop runs for a time that its trace does not tell; use a scan")
    return sum(inner) * (equation.params["length"] if name == "scan" else 1)


def _inside(value: Any) -> Iterator[Any]:
    """The traces held in the parameters of an equation."""
    if hasattr(value, "eqns"):
        yield value
    elif hasattr(value, "jaxpr"):
        yield from _inside(value.jaxpr)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _inside(part)


def _of_product(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    return 2 * math.prod(out) * math.prod(left[i] for i in contracted)


def _of_convolution(equation: Any) -> int:
    """Zeros that are put between the places of the input (`lhs_dilation`) cost nothing."""
    kernel, out = equation.invars[1].aval.shape, equation.outvars[0].aval.shape
    features = equation.params["dimension_numbers"].rhs_spec[0]
    products = math.prod(out) * math.prod(kernel) // kernel[features]
    return 2 * products // math.prod(equation.params["lhs_dilation"])

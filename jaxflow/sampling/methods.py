r"""One step of a fixed-step solver each, from $t$ to $t + h$.

| method | calls | order | step |
|---|---|---|---|
| euler | 1 | 1 | $x + h\,v(t, x)$ |
| midpoint | 2 | 2 | $x + h\,v(t + h/2,\, x + \frac h2 v)$ |
| heun | 2 | 2 | $x + \frac h2 (v + v(t + h, x + h v))$ |
| rk4 | 4 | 4 | the classical Runge-Kutta method |
| ab2 | 1 | 2 | $x + h\,((1 + \frac{h}{2 h'}) v - \frac{h}{2 h'} v')$; $v', h'$ of the last step |

Times are `[batch]`, or `[batch, *lead]` for a grid of leading axes; states any pytree of arrays
that lead with the batch. `keys` serve stochastic methods alone.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxflow.arrays import expand
from jaxflow.types import Keys, Method, PyTree, Time

__all__ = ["ab2", "euler", "heun", "midpoint", "rk4"]

Field = Callable[[Time, PyTree], PyTree]


def _move(x: PyTree, *terms: tuple[Time, PyTree]) -> PyTree:
    """`x + sum_i h_i v_i`, in the dtype of `x`.

    Raises:
        ValueError: for a state that is not floating, which no small step would move.
    """
    whole = [a.dtype for a in jax.tree.leaves(x) if not jnp.issubdtype(a.dtype, jnp.inexact)]
    if whole:
        raise ValueError(
            f"the state is {whole[0]}, but this method adds small steps to real numbers: start "
            "from floats, as x0.astype(float), or give a method for tokens"
        )
    for h, v in terms:
        x = jax.tree.map(lambda a, b, h=h: (a + expand(h, a) * b).astype(a.dtype), x, v)
    return x


def _no_memory(v: Field, t: Time, x: PyTree) -> tuple[()]:
    return ()


def _euler(
    v: Field, t: Time, s: Time, x: PyTree, memory: Any, keys: Keys | None = None
) -> tuple[PyTree, Any]:
    return _move(x, (s - t, v(t, x))), memory


def _midpoint(
    v: Field, t: Time, s: Time, x: PyTree, memory: Any, keys: Keys | None = None
) -> tuple[PyTree, Any]:
    h = s - t
    return _move(x, (h, v(t + h / 2, _move(x, (h / 2, v(t, x)))))), memory


def _heun(
    v: Field, t: Time, s: Time, x: PyTree, memory: Any, keys: Keys | None = None
) -> tuple[PyTree, Any]:
    h = s - t
    first = v(t, x)
    second = v(s, _move(x, (h, first)))
    return _move(x, (h / 2, first), (h / 2, second)), memory


def _rk4(
    v: Field, t: Time, s: Time, x: PyTree, memory: Any, keys: Keys | None = None
) -> tuple[PyTree, Any]:
    h = s - t
    k1 = v(t, x)
    k2 = v(t + h / 2, _move(x, (h / 2, k1)))
    k3 = v(t + h / 2, _move(x, (h / 2, k2)))
    k4 = v(s, _move(x, (h, k3)))
    return _move(x, (h / 6, k1), (h / 3, k2), (h / 3, k3), (h / 6, k4)), memory


def _ab2_init(v: Field, t: Time, x: PyTree) -> tuple[PyTree, Time]:
    return jax.tree.map(jnp.zeros_like, x), jnp.full_like(t, jnp.inf)


def _ab2(
    v: Field, t: Time, s: Time, x: PyTree, memory: Any, keys: Keys | None = None
) -> tuple[PyTree, Any]:
    before, h_before = memory
    h = s - t
    now = v(t, x)
    share = h / (2 * h_before)
    x = _move(x, (h * (1 + share), now), (-h * share, before))
    memory = jax.tree.map(lambda a, b: a.astype(b.dtype), now, before)
    return x, (memory, jnp.where(h == 0, jnp.inf, h))


def _method(init: Callable[..., Any], step: Callable[..., Any], calls: int, order: int) -> Method:
    return Method(Partial(init), Partial(step), calls, order)


def euler() -> Method:
    """Euler's method: one call, order 1."""
    return _method(_no_memory, _euler, calls=1, order=1)


def midpoint() -> Method:
    """The midpoint method: two calls, order 2; the end of a step is never evaluated."""
    return _method(_no_memory, _midpoint, calls=2, order=2)


def heun() -> Method:
    """Heun's method, the trapezoidal rule with a predictor: two calls, order 2."""
    return _method(_no_memory, _heun, calls=2, order=2)


def rk4() -> Method:
    """The classical Runge-Kutta method: four calls, order 4."""
    return _method(_no_memory, _rk4, calls=4, order=4)


def ab2() -> Method:
    """The two-step Adams-Bashforth method on any grid: one call, order 2.

    Its first step is Euler's, whose error is of the order of the whole.
    """
    return _method(_ab2_init, _ab2, calls=1, order=2)

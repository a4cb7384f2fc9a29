r"""Adams-Bashforth methods: one call a step, and the velocities of the steps before, on any grid.

With $v$ now, $v'$ one step of length $h'$ ago and $v''$ a step of $h''$ before that, the divided
differences are

(1) $f_1 = (v - v') / h'$ and $f_2 = (f_1 - (v' - v'') / h'') / (h' + h'')$

and the integral of the parabola through the three is

(2) $x + h\,v + \frac{h^2}{2} f_1 + (\frac{h^3}{3} + \frac{h' h^2}{2}) f_2$, with
    $f_2 = 0$ for the method of two steps

The start. Euler's step errs by $h^2$ once, which the order 2 of `ab2` bears and the order 3 of
`ab3` does not. The call of the second step is made at the end $y$ of that Euler step, which is what
Heun's method would call for next: with it

(3) $x_1 = y + \frac h2 (v(t_1, y) - v(t_0, x_0))$

is Heun's step, at no further call, and the second step goes on from there by `ab2`. Both err by
$h^3$, once, so `ab3` is of order 3 (over one step alone it is Euler's method).
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.sampling.methods.moves import Field, made, move, where
from jaxflow.types import Keys, Method, PyTree, Time

__all__ = ["ab2", "ab3"]


def _init(v: Field, t: Time, x: PyTree) -> tuple[PyTree, Time]:
    """No step yet: it was infinitely long ago, so that its differences vanish."""
    return jax.tree.map(jnp.zeros_like, x), jnp.full_like(t, jnp.inf)


def _ab2(
    v: Field, t: Time, s: Time, x: PyTree, memory: Any, keys: Keys | None = None
) -> tuple[PyTree, Any]:
    before, length = memory
    h = s - t
    now = v(t, x)
    share = h / (2 * length)
    x = move(x, (h * (1 + share), now), (-h * share, before))
    return x, where(h == 0, memory, (_as(now, before), h))


def _ab3_init(v: Field, t: Time, x: PyTree) -> tuple[Any, Any]:
    return _init(v, t, x), _init(v, t, x)


def _ab3(
    v: Field, t: Time, s: Time, x: PyTree, memory: Any, keys: Keys | None = None
) -> tuple[PyTree, Any]:
    (before, length), (long_before, longer) = memory
    h = s - t
    now = v(t, x)
    mends = jnp.isfinite(length) & jnp.isinf(longer) & (h != 0)
    mend = jnp.where(mends, length / 2, 0.0)
    share = h * h / (2 * length)
    known = jnp.isfinite(longer)
    last, both = jnp.where(known, length, 1.0), jnp.where(known, length + longer, 1.0)
    bend = jnp.where(known, h * h * (h / 3 + last / 2) / both, 0.0)
    x = move(
        x,
        (mend, now),
        (-mend, before),
        (h + share + bend / length, now),
        (-share - bend / length - bend / longer, before),
        (bend / longer, long_before),
    )
    return x, where(h == 0, memory, ((_as(now, before), h), (before, length)))


def _as(value: PyTree, other: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: a.astype(b.dtype), value, other)


def ab2() -> Method:
    """The two-step Adams-Bashforth method on any grid: one call, order 2.

    Its first step is Euler's, whose error is of the order of the whole.
    """
    return made(_init, _ab2, calls=1, order=2)


def ab3() -> Method:
    """The three-step Adams-Bashforth method (2) on any grid: one call, order 3.

    Its first step is Euler's, which the call of the second step mends to Heun's, (3); the second
    is that of `ab2`. States saved after the first step are those before it was mended.
    """
    return made(_ab3_init, _ab3, calls=1, order=3)

r"""Runge-Kutta methods: a step stands on itself alone.

| method | calls | order | step |
|---|---|---|---|
| euler | 1 | 1 | $x + h\,v(t, x)$ |
| midpoint | 2 | 2 | $x + h\,v(t + h/2,\, x + \frac h2 v)$ |
| heun | 2 | 2 | $x + \frac h2 (v + v(t + h, x + h v))$ |
| rk4 | 4 | 4 | the classical Runge-Kutta method |
"""

from typing import Any

from jaxflow.sampling.methods.moves import Field, made, move, no_memory
from jaxflow.types import Keys, Method, PyTree, Time

__all__ = ["euler", "heun", "midpoint", "rk4"]


def _euler(
    v: Field, t: Time, s: Time, x: PyTree, memory: Any, keys: Keys | None = None
) -> tuple[PyTree, Any]:
    return move(x, (s - t, v(t, x))), memory


def _midpoint(
    v: Field, t: Time, s: Time, x: PyTree, memory: Any, keys: Keys | None = None
) -> tuple[PyTree, Any]:
    h = s - t
    return move(x, (h, v(t + h / 2, move(x, (h / 2, v(t, x)))))), memory


def _heun(
    v: Field, t: Time, s: Time, x: PyTree, memory: Any, keys: Keys | None = None
) -> tuple[PyTree, Any]:
    h = s - t
    first = v(t, x)
    second = v(s, move(x, (h, first)))
    return move(x, (h / 2, first), (h / 2, second)), memory


def _rk4(
    v: Field, t: Time, s: Time, x: PyTree, memory: Any, keys: Keys | None = None
) -> tuple[PyTree, Any]:
    h = s - t
    k1 = v(t, x)
    k2 = v(t + h / 2, move(x, (h / 2, k1)))
    k3 = v(t + h / 2, move(x, (h / 2, k2)))
    k4 = v(s, move(x, (h, k3)))
    return move(x, (h / 6, k1), (h / 3, k2), (h / 3, k3), (h / 6, k4)), memory


def euler() -> Method:
    """Euler's method: one call, order 1."""
    return made(no_memory, _euler, calls=1, order=1)


def midpoint() -> Method:
    """The midpoint method: two calls, order 2; the end of a step is never evaluated."""
    return made(no_memory, _midpoint, calls=2, order=2)


def heun() -> Method:
    """Heun's method, the trapezoidal rule with a predictor: two calls, order 2."""
    return made(no_memory, _heun, calls=2, order=2)


def rk4() -> Method:
    """The classical Runge-Kutta method: four calls, order 4."""
    return made(no_memory, _rk4, calls=4, order=4)

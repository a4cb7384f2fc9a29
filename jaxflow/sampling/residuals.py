r"""How far a flow map is from the map of its own flow.

(1) $v(t, x) = \partial_r X(t, r, x) \big|_{r = t}$, the velocity that a map has at equal times

(2) Lagrangian residual $\partial_r X(t, r, x) - v(r, X(t, r, x))$, beside $v(r, X(t, r, x))$

(3) semigroup residual $X(s, r, X(t, s, x)) - X(t, r, x)$, beside the way $X(t, r, x) - x$

Each is 0 at all times where $X$ is the map of a flow, and of the size of 1 where the two sides
differ by as much as what stands beside them. They do not tell which flow it is: the identity, the
map of rest, has none either. Samples tell that, held against data.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.arrays import at_least_float32, event_sum, expand, root
from jaxflow.checks import check_batch, check_made
from jaxflow.records import record, traceable
from jaxflow.types import Array, Cond, Float, FlowMap, PyTree, Time

__all__ = ["Residual", "lagrangian_residual", "semigroup_residual"]


@record
class Residual:
    """Root mean squares over the entries of each sample: of a residual, and of its scale."""

    error: Float[Array, "batch"]
    scale: Float[Array, "batch"]

    @property
    def relative(self) -> Float[Array, ""]:
        """The root mean square of the error over that of the scale; 0 where there is no error."""
        error, scale = (jnp.sqrt(jnp.mean(jnp.square(a))) for a in (self.error, self.scale))
        return jnp.where(error == 0, 0.0, error / scale)


def semigroup_residual(
    flow_map: FlowMap | Callable[..., PyTree],
    t: Time,
    s: Time,
    r: Time,
    x: PyTree,
    *,
    cond: Mapping[str, Any] | None = None,
) -> Residual:
    """By how much two steps of a map, by way of `s`, end elsewhere than one (3).

    Compiled inside, as `fixed_step`; three calls of the map.

    Args:
        flow_map: `(t, r, x, **cond) -> x at r`, as `velocities.flow_map` makes of a network, or a
            plain function.
        t: where `x` lies, a time a sample.
        s: where the two steps meet, as a rule between the others.
        r: where all steps end.
        x: the state at `t`, an array or any pytree, `[batch, ...]`.
        cond: conditions, each `[batch, ...]`.

    Raises:
        ValueError: for times or a condition that do not lead with the batch.

    Boffi, Albergo and Vanden-Eijnden, How to Build a Consistency Model: Learning Flow Maps via
    Self-Distillation, 2025, arXiv:2505.18825.

    Euler's step of `dx/dt = x`, where `(1 + h)^2` and `1 + 2 h` differ by `h^2`:

    >>> euler = lambda t, r, x: x + (r - t)[:, None] * x
    >>> t, s, r = jnp.array([[0.0], [0.5], [1.0]])
    >>> found = semigroup_residual(euler, t, s, r, jnp.ones((1, 1)))
    >>> float(found.error[0]), float(found.scale[0])
    (0.25, 1.0)
    """
    check_made("flow_map", flow_map)
    cond = {} if cond is None else dict(cond)
    check_batch(x, cond)
    return _semigroup(traceable(flow_map), _times(x, t, s, r), x, cond)


def lagrangian_residual(
    flow_map: FlowMap | Callable[..., PyTree],
    t: Time,
    r: Time,
    x: PyTree,
    *,
    cond: Mapping[str, Any] | None = None,
) -> Residual:
    """By how much the end of a map moves otherwise than by the map's own velocity (2).

    Compiled inside, as `fixed_step`; two passes of forward mode, the second of which is the
    velocity (1), so a map needs no `.velocity`.

    Args:
        flow_map: as in `semigroup_residual`, with a derivative by `r`, at equal times too.
        t: where `x` lies, a time a sample.
        r: where it is carried to.
        x: the state at `t`, an array or any pytree, `[batch, ...]`.
        cond: conditions, each `[batch, ...]`.

    Raises:
        ValueError: as `semigroup_residual`.
        TypeError: for a map that has no forward mode.

    Boffi et al., 2025, arXiv:2505.18825.

    Euler's step of `dx/dt = x` from 1 to 1.5, where it moves at 1 and the flow at 1.5:

    >>> euler = lambda t, r, x: x + (r - t)[:, None] * x
    >>> found = lagrangian_residual(euler, jnp.zeros(1), jnp.full(1, 0.5), jnp.ones((1, 1)))
    >>> float(found.error[0]), float(found.scale[0])
    (0.5, 1.5)
    """
    check_made("flow_map", flow_map)
    cond = {} if cond is None else dict(cond)
    check_batch(x, cond)
    return _lagrangian(traceable(flow_map), _times(x, t, r), x, cond)


def _times(x: PyTree, *times: Time) -> tuple[Array, ...]:
    """As arrays, each refused unless it has a time a sample."""
    for t in times:
        jax.tree.map(lambda a, t=t: expand(t, a), x)
    return tuple(at_least_float32(t) for t in times)


@jax.jit
def _semigroup(flow_map: FlowMap, times: tuple[Array, ...], x: PyTree, cond: Cond) -> Residual:
    (t, s, r), x = times, jax.tree.map(at_least_float32, x)
    once = flow_map(t, r, x, **cond)
    twice = flow_map(s, r, flow_map(t, s, x, **cond), **cond)
    return Residual(_rms_between(twice, once), _rms_between(once, x))


@jax.jit
def _lagrangian(flow_map: FlowMap, times: tuple[Array, ...], x: PyTree, cond: Cond) -> Residual:
    (t, r), x = times, jax.tree.map(at_least_float32, x)
    end, speed = _moving(flow_map, t, r, x, cond)
    _, velocity = _moving(flow_map, r, r, end, cond)
    rest = jax.tree.map(jnp.zeros_like, velocity)
    return Residual(_rms_between(speed, velocity), _rms_between(velocity, rest))


def _moving(flow_map: FlowMap, t: Array, r: Array, x: PyTree, cond: Cond) -> tuple[PyTree, PyTree]:
    """The end of the map, and its rate by `r`."""
    return jax.jvp(lambda r: flow_map(t, r, x, **cond), (r,), (jnp.ones_like(r),))


def _rms_between(x: PyTree, y: PyTree) -> Array:
    """The root mean square of a difference over the entries of each sample, all parts together."""
    parts = jax.tree.leaves(jax.tree.map(jnp.subtract, x, y))
    total = sum(event_sum(jnp.square(at_least_float32(a))) for a in parts)
    return root(jnp.asarray(total) / sum(int(np.prod(a.shape[1:])) for a in parts))

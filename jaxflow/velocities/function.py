"""A plain function as a velocity."""

from collections.abc import Callable
from typing import Any

import jax

from jaxflow.checks import check_made
from jaxflow.records import record, static, traceable
from jaxflow.types import Interval, Path, PyTree, Velocity
from jaxflow.velocities.flow_map import NetworkFlowMap

__all__ = ["as_velocity"]


@record
class FunctionVelocity:
    """A function with what a velocity knows of itself; arrays that it holds are leaves."""

    function: Callable[..., PyTree]
    path: Path | None
    evaluations: int = static()
    interval: Interval = static()

    def __call__(self, t: Any, x: PyTree, **cond: Any) -> PyTree:
        return self.function(t, x, **cond)


def as_velocity(velocity: Velocity | Callable[..., PyTree]) -> Velocity:
    """The velocity itself, or a record of a plain function `(t, x, **cond) -> v`.

    A function counts one evaluation a call, is finite on all of [0, 1] and has no path, unless it
    says otherwise by attributes of those names. The record passes through `jit`, where a function
    itself cannot be an argument.

    Raises:
        TypeError: for what is no function, or for a flow map.

    >>> as_velocity(lambda t, x: -x).interval
    (0.0, 1.0)
    """
    check_made("velocity", velocity)
    if isinstance(velocity, NetworkFlowMap):
        raise TypeError(
            "a flow map is no velocity: solvers take that of its flow, flow_map.velocity, and "
            "sampling.flow_map(flow_map, x0, grid) takes its own steps"
        )
    if not callable(velocity):
        raise TypeError(
            f"a velocity is a function (t, x, **cond) -> v; got {type(velocity).__name__}: "
            "velocities.from_network(network, params) makes one of a network"
        )
    opaque = jax.tree_util.all_leaves([velocity])
    if isinstance(velocity, Velocity) and not opaque:
        return velocity
    return FunctionVelocity(
        traceable(velocity),
        traceable(getattr(velocity, "path", None)),
        getattr(velocity, "evaluations", 1),
        getattr(velocity, "interval", (0.0, 1.0)),
    )

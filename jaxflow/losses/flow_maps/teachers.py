"""What teaches a flow map and is held fixed: a frozen teacher, or the network as it is or was."""

from typing import Any

import jax

from jaxflow.checks import check_network
from jaxflow.losses.flow_maps.condition import Point, Sides
from jaxflow.losses.flow_maps.operators import Field, average_velocity
from jaxflow.types import Held, Network, Params

__all__ = ["SELVES", "checked", "check_self", "flow_of", "frozen_of", "itself", "learnt", "taught"]

SELVES = ("parameters", "average")


def checked(teacher: Network | None) -> Network | None:
    """The teacher.

    Raises:
        TypeError: for one that is no network.
    """
    if teacher is not None:
        check_network(teacher)
    return teacher


def frozen_of(held: Held | None) -> Params:
    """The teacher's parameters.

    Raises:
        ValueError: where the state holds none.
    """
    if held is None or held.frozen is None:
        raise ValueError(
            "a teacher's parameters are what a state holds frozen, and it holds none: give them to "
            "program.init(params, key, frozen)"
        )
    return held.frozen


def taught(teacher: Network, point: Point, t: Any, x: Any) -> Any:
    """The teacher's velocity."""
    frozen, cond = frozen_of(point.held), point.batch.get("cond", {})
    return jax.lax.stop_gradient(teacher(frozen, t, x, **cond))


def flow_of(teacher: Network | None, point: Point) -> Any:
    """The velocity at a point: the teacher's, or that of its pair."""
    return point.own if teacher is None else taught(teacher, point, point.t, point.x)


def learnt(teacher: Network | None, point: Point) -> Sides:
    """The velocity of points at rest, by `flow_of`."""
    return Sides(point.u(point.t, point.t, point.x), flow_of(teacher, point))


def check_self(name: str, by: str) -> None:
    """Refuse a `by` that is none of `SELVES`."""
    if by not in SELVES:
        raise ValueError(f'{name} takes its targets by "parameters" or "average"; got {by!r}')


def itself(point: Point, by: str) -> Field:
    """The network's average velocity by its parameters or their average, without dropout.

    Raises:
        ValueError: for the average, where none is held.
    """
    params = point.params
    if by == "average":
        if point.held is None:
            raise ValueError("targets by the average of the parameters need held, as in a trainer")
        params = point.held.ema
    return average_velocity(point.network, jax.lax.stop_gradient(params), None, point.batch)

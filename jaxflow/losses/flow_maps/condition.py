r"""The loss of a flow map: two sides of a condition that the exact map meets.

(1) $L = E\; \frac{w\, e}{\mathrm{sg}(e + c)^p}$ with $e = \| f - \mathrm{sg}(y) \|^2$, a sum over
    the event and its parts: an adaptive weight counts examples with larger errors less
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from jaxflow.arrays import at_least_float32, event_mean, event_sum, where_rows
from jaxflow.checks import check_made, check_network
from jaxflow.losses.flow_maps.operators import Field, average_velocity
from jaxflow.losses.flow_matching import check_complete
from jaxflow.records import record, static, traceable
from jaxflow.sharding import gathering
from jaxflow.types import (
    Array,
    Batch,
    Held,
    Key,
    Loss,
    Network,
    Params,
    Path,
    Time,
)

__all__ = ["Condition", "FlowMapLoss", "Point", "Sides", "check_two_times", "flow_map_loss"]


class Point(NamedTuple):
    """Where a condition is asked for: `x` at `t`, to be carried to `r`."""

    t: Time
    r: Time
    x: Any
    own: Any  # the velocity of the pair
    u: Field  # the network's average velocity
    network: Network
    params: Params
    key: Key | None
    batch: Batch
    held: Held | None


class Sides(NamedTuple):
    """What a condition says at a point: `output` is to be `target`, which is held fixed."""

    output: Any
    target: Any
    weight: Any = 1.0


@runtime_checkable
class Condition(Protocol):
    """What a loss of flow maps asks of a map, for examples that move and for those at rest."""

    def __call__(self, point: Point) -> Sides:
        """At points that are carried from `t` to `r`."""
        ...

    def at_rest(self, point: Point) -> Sides:
        """At points with `r = t`, where the map's average velocity is the velocity."""
        ...


@record
class FlowMapLoss:
    """The loss (1) of a condition."""

    network: Network
    path: Path
    condition: Condition
    power: float = static()
    offset: float = static()

    prediction = "velocity"

    gathers = gathering("network")

    def __call__(
        self, params: Params, key: Key | None, batch: Batch, held: Held | None = None
    ) -> tuple[Array, Mapping[str, Any]]:
        """The mean over examples, and what is told of them.

        Returns:
            The loss, and the mean squared error of each example, `per_example [batch]`; their mean,
            `error []`, since an adaptive weight hides it; and `masked []`, the number of examples
            whose target was not finite, which weigh nothing.

        Raises:
            ValueError: where the network's output differs from the data in shape, the batch was
                not completed by a draw of spans or has a mask, or what the condition reads is not
                held.
        """
        _check_spanned(batch)
        keys = (None, None) if key is None else jax.random.split(key)
        moving, resting = _parted(batch)
        found = []
        if moving is not None:
            point = self._point(params, keys[0], moving, held)
            found.append(_regressed(self.condition(point), self.power, self.offset))
        if resting is not None:
            point = self._point(params, keys[1], resting, held)
            found.append(_regressed(self.condition.at_rest(point), self.power, self.offset))
        weighted, errors, masked = zip(*found, strict=True)
        per_example = _together(errors, batch.get("groups"))
        total = jnp.sum(jnp.stack([jnp.sum(part) for part in weighted]))
        return total / len(per_example), {
            "per_example": per_example,
            "error": jnp.mean(per_example),
            "masked": sum(masked),
        }

    def _point(self, params: Params, key: Key | None, batch: Batch, held: Held | None) -> Point:
        sample = self.path(batch["t"], batch["x0"], batch["x1"], batch.get("z"))
        u = average_velocity(self.network, params, key, batch)
        t, r = jnp.asarray(sample.t), jnp.asarray(batch["r"])
        return Point(t, r, sample.x, sample.u, u, self.network, params, key, batch, held)


def _check_spanned(batch: Batch) -> None:
    """Refuse a batch that was not completed by a draw of spans, or has a mask."""
    check_complete(batch)
    if "mask" in batch:
        raise ValueError(
            "losses of flow maps take no mask: leave batch['mask'] out, or train by "
            "losses.flow_matching"
        )
    if "r" not in batch:
        raise ValueError(
            "the batch lacks the times r that its points are carried to: complete it with "
            "draws.chain(draws.standard(path), draws.spans(times))"
        )


def _parted(batch: Batch) -> tuple[Batch | None, Batch | None]:
    """The examples that move and those at rest, as the groups of the batch say."""
    mark = batch.get("groups")
    if mark is None:
        return batch, None
    if mark.moving is None:
        raise ValueError(
            "losses of flow maps compare no samples: leave draws.groups out, or train by "
            "losses.moment_matching or losses.drifting"
        )
    rest = {name: value for name, value in batch.items() if name != "groups"}

    def members(first: int, stop: int) -> Batch | None:
        if first == stop:
            return None
        return jax.tree.map(lambda a: a[:, first:stop].reshape(-1, *a.shape[2:]), rest)

    return members(0, mark.moving), members(mark.moving, mark.size)


def _together(parts: Sequence[Array], mark: Any) -> Array:
    """What is known of each example, in the order of the batch."""
    if mark is None:
        return parts[0]
    groups = sum(map(len, parts)) // mark.size
    members = [a.reshape(groups, -1) for a in parts]
    return jnp.concatenate(members, axis=1).reshape(-1)


def _regressed(sides: Sides, power: float, offset: float) -> tuple[Array, Array, Array]:
    """The weighted error of each example, its mean squared error, and how many were masked."""
    output, target = sides.output, jax.lax.stop_gradient(sides.target)
    finite = [jnp.isfinite(event_sum(a)) for a in jax.tree.leaves(target)]
    known = jnp.all(jnp.stack(finite), axis=0)
    target = where_rows(known, target, jax.lax.stop_gradient(output))
    squares = jax.tree.map(
        lambda a, b: jnp.square(at_least_float32(a) - at_least_float32(b)), output, target
    )
    error, per_example = (
        jnp.sum(jnp.stack([total(a) for a in jax.tree.leaves(squares)]), axis=0)
        for total in (event_sum, event_mean)
    )
    weight = jax.lax.stop_gradient((error + offset) ** -power)
    masked = jnp.sum(~known).astype(error.dtype)
    return sides.weight * weight * error, per_example, masked


def check_two_times(name: str, network: Network) -> None:
    """Refuse what is no network, or one that takes no second time.

    Raises:
        TypeError: naming the loss.
    """
    check_network(network)
    try:
        parameters = inspect.signature(network).parameters.values()
    except (TypeError, ValueError):  # of what tells none
        return
    if not any(p.name == "r" or p.kind is p.VAR_KEYWORD for p in parameters):
        raise TypeError(
            f"{name} learns a flow map, of a network with a second time r: (params, t, x, *, r, "
            f"key=None, **cond) -> u; got one of {', '.join(p.name for p in parameters)}"
        )


def flow_map_loss(
    name: str,
    network: Network,
    path: Path,
    condition: Condition,
    power: float,
    offset: float,
) -> Loss:
    """The loss of a condition, once its parts are known to be sound.

    Raises:
        TypeError: for a network or path that is none.
        ValueError: unless `0 <= power < inf` and `0 < offset < inf`, naming the factory.
    """
    check_two_times(name, network)
    check_made("path", path)
    if not (0 <= power < float("inf") and 0 < offset < float("inf")):
        raise ValueError(
            f"{name} weighs errors by (error + offset)^-power with power >= 0 and offset > 0; got "
            f"power={power} and offset={offset}"
        )
    network, path, condition = traceable((network, path, condition))
    return FlowMapLoss(network, path, condition, power, offset)

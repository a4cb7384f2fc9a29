r"""The loss of a flow map: two sides of a condition that the exact map meets.

(1) $L = E\; \frac{w\, e}{\mathrm{sg}(e + c)^p}$ with $e = \| f - \mathrm{sg}(y) \|^2$, a sum over
    the event and its parts: an adaptive weight counts examples with larger errors less
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxflow.arrays import at_least_float32, event_mean, event_sum, where_rows
from jaxflow.checks import check_made, check_network
from jaxflow.losses.flow_maps.operators import Field, average_velocity
from jaxflow.losses.flow_matching import check_complete
from jaxflow.records import record, static, traceable
from jaxflow.types import (
    Array,
    Batch,
    Held,
    Key,
    Loss,
    Network,
    Params,
    Path,
    PathSample,
    Time,
)

__all__ = ["FlowMapLoss", "Point", "Sides", "flow_map_loss"]


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


@record
class FlowMapLoss:
    """The loss (1) of a condition."""

    network: Network
    path: Path
    condition: Callable[[Point], Sides]
    power: float = static()
    offset: float = static()

    prediction = "velocity"

    @property
    def gathers(self) -> bool:
        """Whether the network's layers gather their parameters (`jaxflow.sharding`)."""
        return getattr(self.network, "gathers", False)

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
        sample, r = _spanned(self.path, batch)
        u = average_velocity(self.network, params, key, batch)
        point = Point(
            jnp.asarray(sample.t),
            r,
            sample.x,
            sample.u,
            u,
            self.network,
            params,
            key,
            batch,
            held,
        )
        return _regressed(self.condition(point), self.power, self.offset)


def _spanned(path: Path, batch: Batch) -> tuple[PathSample, Time]:
    """The point of the path at `t`, and the time `r` that it is carried to.

    Raises:
        ValueError: where the batch was not completed by a draw of spans, or has a mask.
    """
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
    sample = path(batch["t"], batch["x0"], batch["x1"], batch.get("z"))
    return sample, jnp.asarray(batch["r"])


def _regressed(sides: Sides, power: float, offset: float) -> tuple[Array, Mapping[str, Any]]:
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
    return jnp.mean(sides.weight * weight * error), {
        "per_example": per_example,
        "error": jnp.mean(per_example),
        "masked": jnp.sum(~known).astype(error.dtype),
    }


def flow_map_loss(
    name: str,
    network: Network,
    path: Path,
    condition: Callable[[Point], Sides],
    power: float,
    offset: float,
) -> Loss:
    """The loss of a condition, once its parts are known to be sound.

    Raises:
        TypeError: for a network or path that is none.
        ValueError: unless `0 <= power < inf` and `0 < offset < inf`, naming the factory.
    """
    check_network(network)
    check_made("path", path)
    if not (0 <= power < float("inf") and 0 < offset < float("inf")):
        raise ValueError(
            f"{name} weighs errors by (error + offset)^-power with power >= 0 and offset > 0; got "
            f"power={power} and offset={offset}"
        )
    network, path, condition = traceable((network, path, condition))
    return FlowMapLoss(network, path, condition, power, offset)

"""The velocity that a trained network defines."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.arrays import at_least_float32, parameter_summary
from jaxflow.checks import check_network
from jaxflow.records import record, static, traceable
from jaxflow.types import Interval, Network, Params, Path, Velocity
from jaxflow.velocities.prediction import check_kind, conversion_interval, convert

__all__ = ["from_network"]

_ALWAYS = (0.0, 1.0)


@record
class NetworkVelocity:
    """A network and its parameters, read as a velocity; parameters are the leaves."""

    network: Network
    params: Params
    path: Path | None
    prediction: str = static()

    @property
    def evaluations(self) -> int:
        """One, unless the network says by `evaluations` that a call of it is several."""
        return getattr(self.network, "evaluations", 1)

    @property
    def interval(self) -> Interval:
        """Where the prediction can be converted to a velocity on the path."""
        if self.path is None:
            return _ALWAYS
        return conversion_interval(self.path, self.prediction, "velocity")

    def __call__(self, t: Any, x: Any, **cond: Any) -> Any:
        """The velocity; beyond `interval`, that of its nearer end."""
        t = jax.tree.map(lambda t: jnp.clip(at_least_float32(t), *self.interval), t)
        output = self.network(self.params, t, x, **cond)
        if self.prediction == "velocity":
            return output
        assert self.path is not None
        return convert(output, t, x, path=self.path, source=self.prediction, target="velocity")

    def __repr__(self) -> str:
        return (
            f"NetworkVelocity({self.network!r}, {parameter_summary(self.params)}, "
            f"path={self.path!r}, prediction={self.prediction!r})"
        )


def from_network(
    network: Network,
    params: Params,
    *,
    path: Path | None = None,
    prediction: str = "velocity",
) -> Velocity:
    """The velocity of a trained network.

    Args:
        network: any pure `(params, t, x, *, key=None, **cond) -> output`.
        params: its parameters, the leaves of the velocity.
        path: the path it was trained on; with it, samplers know where the velocity is finite and
            end on the posterior mean of the data where it is not.
        prediction: what the output means, one of `velocities.KINDS`.

    Raises:
        TypeError: for a module that no adapter has taken.
        ValueError: for an unknown prediction, or none but a velocity without a path.
    """
    check_network(network)
    check_kind("prediction", prediction)
    if path is None and prediction != "velocity":
        raise ValueError(
            f"prediction={prediction!r} needs the path it was trained on, to become a velocity: "
            "from_network(network, params, path=..., prediction=...)"
        )
    return NetworkVelocity(traceable(network), params, traceable(path), prediction)

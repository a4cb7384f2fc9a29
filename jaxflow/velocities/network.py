"""The velocity that a trained network defines, and what else can be read off a velocity."""

from collections.abc import Callable

import jax.numpy as jnp

from jaxflow.arrays import at_least_float32, parameter_summary
from jaxflow.records import record, static
from jaxflow.types import Array, Data, Interval, Network, Params, Path, Time, Velocity
from jaxflow.velocities.function import as_velocity
from jaxflow.velocities.prediction import check_kind, conversion_interval, convert

__all__ = ["from_network", "posterior_mean", "score"]

_ALWAYS = (0.0, 1.0)


@record
class NetworkVelocity:
    """A network and its parameters, read as a velocity; parameters are the leaves."""

    network: Network = static()
    params: Params
    path: Path | None
    prediction: str = static()

    evaluations = 1

    @property
    def interval(self) -> Interval:
        """Where the prediction can be converted to a velocity on the path."""
        if self.path is None:
            return _ALWAYS
        return conversion_interval(self.path, self.prediction, "velocity")

    def __call__(self, t: Time, x: Data, **cond: Array) -> Data:
        """The velocity; beyond `interval`, that of its nearer end."""
        t = jnp.clip(at_least_float32(t), *self.interval)
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


@record
class Score:
    """The score of the marginal density that a velocity transports."""

    velocity: Velocity
    path: Path

    def __call__(self, t: Time, x: Data, **cond: Array) -> Data:
        v = self.velocity(t, x, **cond)
        return convert(v, t, x, path=self.path, source="velocity", target="score")


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
        prediction: what the output means: "velocity", "data", "noise" or "score".

    Raises:
        ValueError: for an unknown prediction, or none but a velocity without a path.
    """
    check_kind("prediction", prediction)
    if path is None and prediction != "velocity":
        raise ValueError(
            f"prediction={prediction!r} needs the path it was trained on, to become a velocity: "
            "from_network(network, params, path=..., prediction=...)"
        )
    return NetworkVelocity(network, params, path, prediction)


def score(velocity: Velocity, path: Path) -> Score:
    """The score of the marginals that `velocity` transports along `path`, `(t, x, **cond)`.

    For a standard normal source, by `convert`.
    """
    return Score(velocity, path)


def posterior_mean(
    velocity: Velocity | Callable[..., Data], t: Time, x: Data, **cond: Array
) -> Data:
    """`E[x1 | x_t = x]`, read off a velocity that knows its path.

    Raises:
        ValueError: where the velocity has no path.
    """
    path = as_velocity(velocity).path
    if path is None:
        raise ValueError(
            "the posterior mean needs the path: build the velocity by "
            "from_network(network, params, path=...)"
        )
    v = velocity(t, x, **cond)
    return convert(v, t, x, path=path, source="velocity", target="data")

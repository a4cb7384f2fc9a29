r"""Diffusion models as flows, and flows as diffusion models.

A diffusion model is a network of a timestep that predicts the noise, the data, the score or
Salimans & Ho's v on an affine path, so it is a velocity as soon as its timestep is told from our
time. With the $N$ discrete steps of `paths.discrete`, step $k$ lies at

(1) $t = 1 - (k + 1) / N$, so $k = N (1 - t) - 1$

and the path is exact at each. On any other path the papers' time is $1 - t$.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from jaxflow import paths
from jaxflow.arrays import at_least_float32, is_concrete
from jaxflow.checks import check_network
from jaxflow.paths.knots import steps_of, time_of_step
from jaxflow.records import record, static, traceable
from jaxflow.sharding import gathering
from jaxflow.types import Array, Interval, Key, Network, Params, Path, PyTree, Velocity
from jaxflow.velocities.change_path import change_path
from jaxflow.velocities.function import as_velocity
from jaxflow.velocities.network import from_network
from jaxflow.velocities.prediction import check_kind, conversion_interval, convert

__all__ = ["Diffusion", "Timed", "from_diffusion", "to_diffusion"]


@record
class Step:
    """The step (1) of a time, in floats or rounded to the nearest whole one."""

    steps: int = static()
    rounded: bool = static()

    def __call__(self, t: Any) -> Array:
        k = jnp.maximum(self.steps * (1 - at_least_float32(t)) - 1, 0.0)
        return jnp.round(k).astype(jnp.int32) if self.rounded else k


@record
class Timed:
    """A network told its own timestep, as a network of our time."""

    network: Network
    timestep: Callable[[Any], Any]

    gathers = gathering("network")

    def __call__(
        self, params: Params, t: Any, x: Any, *, key: Key | None = None, **cond: Any
    ) -> Any:
        return self.network(params, self.timestep(t), x, key=key, **cond)


@record
class Diffusion:
    """A velocity asked at a timestep for what a diffusion sampler wants."""

    velocity: Velocity
    path: Path
    steps: int = static()
    prediction: str = static()

    @property
    def interval(self) -> Interval:
        """The times where the velocity tells the prediction."""
        low, high = conversion_interval(self.path, "velocity", self.prediction)
        return max(low, self.velocity.interval[0]), min(high, self.velocity.interval[1])

    def __call__(self, timestep: Any, x: Any, **cond: Any) -> Any:
        """The prediction at steps `[batch]`, whole or not; beyond `interval`, its nearer end."""
        t = jnp.clip(time_of_step(timestep, self.steps), *self.interval)
        v = self.velocity(t, x, **cond)
        return convert(v, t, x, path=self.path, source="velocity", target=self.prediction)


def from_diffusion(
    network: Network,
    params: Params,
    *,
    betas: Any = None,
    path: Path | None = None,
    prediction: str = "noise",
    timesteps: Callable[[Any], Any] | str | None = None,
) -> Velocity:
    """The flow of a trained diffusion model: its probability flow.

    It trains on as a flow by `losses.flow_matching(velocity.network, velocity.path,
    prediction=...)`, from `velocity.params`.

    Args:
        network: `(params, timestep, x, *, key=None, **cond) -> output` of the shape of `x`; of one
            that returns a variance beside it, take the first half.
        params: its parameters, the leaves of the velocity.
        betas: `[steps]`, the variances of its discrete steps, for `paths.discrete(betas)`.
        path: its path, in the place of betas: `paths.vp()`, `paths.discrete(betas)`.
        prediction: what the output means, one of `velocities.KINDS`.
        timesteps: what the network is told of a time: of discrete steps the step as a float where
            None (between two steps a number between), or "integer", the nearest step, whose
            velocity jumps halfway between; on any other path `1 - t` where None. Or a function of
            our `t`, as `lambda t: 999 * (1 - t)`.

    Raises:
        ValueError: unless one of betas and path is given, for timesteps of another name, for
            "integer" on a path that has no discrete steps, and as `from_network`.
        TypeError: for a module that no adapter has taken.

    Song et al., Score-Based Generative Modeling through SDEs, 2021, arXiv:2011.13456, eq. 13, with
    time mirrored; Song et al., Denoising Diffusion Implicit Models, 2021, arXiv:2010.02502, eq. 14.

    >>> flow = from_diffusion(lambda params, k, x, key=None: params * x, 1.0, betas=[0.25, 0.5])
    >>> flow(jnp.zeros(1), jnp.ones((1, 2))).shape
    (1, 2)
    """
    check_network(network)
    if (betas is None) == (path is None):
        raise ValueError(
            "from_diffusion needs the path that the network was trained on: either betas=..., of "
            "discrete steps, or path=..., as paths.vp()"
        )
    path = paths.discrete(betas) if path is None else path
    timed = Timed(traceable(network), traceable(_timestep(timesteps, path)))
    return from_network(timed, params, path=path, prediction=prediction)


def _timestep(timesteps: Any, path: Path) -> Callable[[Any], Any]:
    if callable(timesteps):
        return timesteps
    steps = steps_of(path)
    if timesteps not in (None, "integer") or (timesteps and steps is None):
        raise ValueError(
            f"timesteps is {timesteps!r}, but must be None, a function of t, or on a path of "
            "discrete steps, by paths.discrete(betas), 'integer'"
        )
    return _mirrored if steps is None else Step(steps, timesteps == "integer")


def _mirrored(t: Any) -> Array:
    return 1 - at_least_float32(t)


def to_diffusion(
    velocity: Velocity | Callable[..., PyTree],
    betas: Any,
    *,
    path: Path | None = None,
    prediction: str = "noise",
) -> Diffusion:
    """A flow as the network of a diffusion sampler, `(timestep, x, **cond) -> prediction`.

    The sampler's state is that of the discrete path of `betas`; where the flow is of another, it
    is changed to that one. Timesteps are `[batch]`, 0 the least noisy. Call it outside of `jit`,
    which the result passes through as an argument.

    Args:
        velocity: a flow, learned along `path`.
        betas: `[steps]`, of the sampler, or a path by `paths.discrete`.
        path: of the velocity; its own where None.
        prediction: what the sampler asks for, one of `velocities.KINDS`.

    Raises:
        ValueError: where the velocity has no path and none is given, or for an unknown prediction.

    >>> from jaxflow import velocities
    >>> one = {"weights": jnp.ones(1), "means": jnp.zeros((1, 1)), "covariances": jnp.ones(1)}
    >>> flow = velocities.gaussian_mixture(paths.linear(), **one)
    >>> noise = to_diffusion(flow, [0.25, 0.5])  # of unit data it is sigma x
    >>> round(float(noise(jnp.array([0]), jnp.ones((1, 1)))[0, 0]), 3)
    0.5
    """
    velocity = as_velocity(velocity)
    check_kind("prediction", prediction)
    old: Any = velocity.path if path is None else path
    if old is None:
        raise ValueError(
            "to_diffusion needs the path that the velocity was learned on: pass path=..., as "
            "paths.linear()"
        )
    new = betas if steps_of(betas) is not None else paths.discrete(betas)
    steps = steps_of(new)
    assert steps is not None
    if not _same(old, new):
        velocity = change_path(velocity, old, new)
    return Diffusion(velocity, new, steps, prediction)


def _same(old: Path, new: Path) -> bool:
    schedule: Any = getattr(old, "schedule", None)
    known = steps_of(old) is not None and is_concrete(schedule.schedule.log_snr)
    return known and bool(old == new)

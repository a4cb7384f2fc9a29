r"""Exact likelihoods: the change of variables along a flow.

(1) $\log p_1(x_1) = \log p_0(x(0)) - \int_0^1 \nabla \cdot v(t, x(t))\, dt$, with $x(1) = x_1$

(2) $\nabla \cdot v = \sum_i e_i^\top J e_i$ exactly, with $J = \partial v / \partial x$

(3) $\nabla \cdot v = E[\epsilon^\top J \epsilon]$, for signs $\epsilon = \pm 1$ (Hutchinson)

One solve carries $\{x, \int \nabla \cdot v\}$ backwards, with error control on both.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import diffrax
import jax
import jax.numpy as jnp

from jaxflow import sources
from jaxflow.arrays import at_least_float32, batch_size, event_sum, per_sample
from jaxflow.records import record, static
from jaxflow.sampling.adaptive import adaptive
from jaxflow.types import (
    Array,
    Data,
    Float,
    Interval,
    Keys,
    LogProb,
    Shaped,
    Source,
    Time,
    Velocity,
)
from jaxflow.velocities.function import as_velocity

__all__ = ["exact", "hutchinson", "log_prob"]

DIRECTIONS_AT_ONCE = 64
Flow = Callable[[Data], Data]


@dataclass(frozen=True)
class Exact:
    """The trace (2), one directional derivative an element of the event."""

    probes = 0

    def draw(self, keys: Keys | None, x: Data) -> Shaped[Array, "batch 0"]:
        """Nothing random."""
        return jnp.zeros((len(x), 0), x.dtype)

    def __call__(self, flow: Flow, x: Data, probes: Array) -> tuple[Data, Float[Array, "batch 1"]]:
        v, derivative = jax.linearize(flow, x)
        d = math.prod(x.shape[1:])

        def along(i: Array) -> Array:
            e = jnp.zeros(d, x.dtype).at[i].set(1).reshape(x.shape[1:])
            return derivative(jnp.broadcast_to(e, x.shape)).reshape(len(x), d)[:, i]

        terms = jax.lax.map(along, jnp.arange(d), batch_size=min(d, DIRECTIONS_AT_ONCE))
        return v, jnp.sum(at_least_float32(terms), axis=0)[:, None]


@dataclass(frozen=True)
class Hutchinson:
    """The estimate (3), with `probes` signs a sample, the same along its whole path."""

    probes: int

    def draw(self, keys: Keys | None, x: Data) -> Shaped[Array, "batch probes *event"]:
        """Random signs.

        Raises:
            ValueError: without keys.
        """
        if keys is None:
            raise ValueError(
                "hutchinson draws random probes: pass keys=jax.random.split(jax.random.key(0), n), "
                "one a sample"
            )
        shape = (self.probes, *x.shape[1:])
        return per_sample(lambda key: jax.random.rademacher(key, shape, x.dtype), keys)

    def __call__(
        self, flow: Flow, x: Data, probes: Array
    ) -> tuple[Data, Float[Array, "batch probes"]]:
        v, derivative = jax.linearize(flow, x)
        product = jax.vmap(lambda e: event_sum(e * derivative(e)), in_axes=1, out_axes=1)
        return v, product(probes)


@record
class Augmented:
    """The velocity of `{x, logdet}`."""

    velocity: Velocity
    divergence: Exact | Hutchinson = static()

    path = None

    @property
    def evaluations(self) -> int:
        """Those of the velocity; derivatives cost about as much again each."""
        return self.velocity.evaluations

    @property
    def interval(self) -> Interval:
        """That of the velocity."""
        return self.velocity.interval

    def __call__(
        self, t: Time, x: Mapping[str, Array], *, cond: Mapping[str, Array], probes: Array
    ) -> Mapping[str, Array]:
        v, divergence = self.divergence(lambda y: self.velocity(t, y, **cond), x["x"], probes)
        return {"x": v, "logdet": divergence}


def exact() -> Exact:
    """The exact divergence, at one directional derivative an element of the event."""
    return Exact()


def hutchinson(probes: int = 1) -> Hutchinson:
    """An unbiased estimate of the divergence from random signs, which are drawn once a sample.

    Hutchinson, 1989; Grathwohl et al., FFJORD, 2019, arXiv:1810.01367, eq. 7.

    Raises:
        ValueError: where `probes < 1`.
    """
    if probes < 1:
        raise ValueError(f"hutchinson needs at least one probe; got {probes}")
    return Hutchinson(probes)


def log_prob(
    velocity: Velocity | Callable[..., Data],
    x1: Data,
    *,
    source: Source | None = None,
    divergence: Exact | Hutchinson | None = None,
    keys: Keys | None = None,
    solver: diffrax.AbstractERK | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    per_sample: bool = True,
    cond: Mapping[str, Array] | None = None,
) -> LogProb:
    """Log-likelihood of data under the flow, by (1), in nats.

    Where the velocity's interval stops short of 0 or 1, so does the solve: the density is that of
    the source, pushed from the interval's start to its end.

    Args:
        velocity: a Velocity, or a plain function `(t, x, **cond) -> v`.
        x1: data, `[batch, *event]`, any event shape.
        source: the density at the start; standard normal where None.
        divergence: `exact()` (where None) or `hutchinson(probes)`.
        keys: one a sample, for Hutchinson's probes.
        solver, rtol, atol, per_sample, cond: as for `adaptive`.

    Returns:
        `value` in nats; `standard_error` of the mean over probes, which is 0 for the exact
        divergence and NaN for one probe; `nfe` and `success` of the solve.

    Raises:
        ValueError: for Hutchinson without keys, a source without density, and as `adaptive`.

    Chen et al., Neural Ordinary Differential Equations, 2018, arXiv:1806.07366, eq. 8.
    """
    velocity = as_velocity(velocity)
    source = sources.normal() if source is None else source
    divergence = exact() if divergence is None else divergence
    n = batch_size(x1)
    x = at_least_float32(x1)
    start = {"x": x, "logdet": jnp.zeros((n, max(divergence.probes, 1)), x.dtype)}
    low, high = velocity.interval
    solution = adaptive(
        Augmented(velocity, divergence),
        start,
        (high, low),
        solver=solver,
        rtol=rtol,
        atol=atol,
        per_sample=per_sample,
        cond={"cond": dict(cond or {}), "probes": divergence.draw(keys, x)},
    )
    logdet = solution.x["logdet"]
    value = source.log_prob(solution.x["x"]) + jnp.mean(logdet, axis=1)
    return LogProb(value, _standard_error(divergence, logdet), solution.nfe, solution.success)


def _standard_error(divergence: Exact | Hutchinson, logdet: Array) -> Float[Array, "batch"]:
    if divergence.probes == 0:
        return jnp.zeros(len(logdet), logdet.dtype)
    if divergence.probes == 1:
        return jnp.full(len(logdet), jnp.nan, logdet.dtype)
    return jnp.std(logdet, axis=1, ddof=1) / math.sqrt(divergence.probes)

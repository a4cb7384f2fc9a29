r"""Exact likelihoods: the change of variables along a flow.

(1) $\log p_1(x_1) = \log p_0(x(0)) - \int_0^1 \nabla \cdot v(t, x(t))\, dt$, with $x(1) = x_1$

(2) $\nabla \cdot v = \sum_i e_i^\top J e_i$ exactly, with $J = \partial v / \partial x$

(3) $\nabla \cdot v = E[\epsilon^\top J \epsilon]$, for signs $\epsilon = \pm 1$ (Hutchinson)

One solve carries $\{x, \int \nabla \cdot v\}$ backwards, with error control on both.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxflow import sources
from jaxflow.arrays import at_least_float32, batch_size, check_keys, event_sum, per_sample
from jaxflow.checks import check_batch, check_made
from jaxflow.paths.start import start_log_prob
from jaxflow.records import record, static, traceable
from jaxflow.sampling.adaptive import adaptive
from jaxflow.sampling.precision import computing
from jaxflow.types import (
    Array,
    Float,
    Interval,
    Key,
    Keys,
    LogProb,
    PyTree,
    Shaped,
    Source,
    Time,
    Velocity,
)
from jaxflow.velocities.function import as_velocity

__all__ = ["exact", "hutchinson", "log_prob"]

DIRECTIONS_AT_ONCE = 64
Flow = Callable[[PyTree], PyTree]


@dataclass(frozen=True)
class Exact:
    """The trace (2), one directional derivative an element of the event."""

    probes = 0

    def draw(self, keys: Keys | None, x: PyTree) -> Shaped[Array, "batch 0"]:
        """Nothing random."""
        return jnp.zeros((batch_size(x), 0))

    def __call__(
        self, flow: Flow, x: PyTree, probes: Any
    ) -> tuple[PyTree, Float[Array, "batch 1"]]:
        v, derivative = jax.linearize(flow, x)
        leaves, tree = jax.tree.flatten(x)

        def of_part(k: int) -> Array:
            d = math.prod(leaves[k].shape[1:])

            def along(i: Array) -> Array:
                zeros = [jnp.zeros_like(a).reshape(len(a), -1) for a in leaves]
                e = [*zeros[:k], zeros[k].at[:, i].set(1), *zeros[k + 1 :]]
                e = [row.reshape(a.shape) for row, a in zip(e, leaves, strict=True)]
                moved = jax.tree.leaves(derivative(tree.unflatten(e)))[k]
                return moved.reshape(len(moved), -1)[:, i]

            terms = jax.lax.map(along, jnp.arange(d), batch_size=min(d, DIRECTIONS_AT_ONCE))
            return jnp.sum(at_least_float32(terms), axis=0)

        return v, sum(of_part(k) for k in range(len(leaves)))[:, None]  # type: ignore[index]


@dataclass(frozen=True)
class Hutchinson:
    """The estimate (3), with `probes` signs a sample, the same along its whole path."""

    probes: int

    def draw(self, keys: Keys | None, x: PyTree) -> PyTree:
        """Random signs `[batch, probes, *event]`, for every part.

        Raises:
            ValueError: without keys.
        """
        if keys is None:
            raise ValueError(
                "hutchinson draws random probes: pass keys=jax.random.split(jax.random.key(0), n), "
                "one a sample"
            )
        leaves, tree = jax.tree.flatten(x)

        def signs(key: Key) -> list[Array]:
            parts = jax.random.split(key, len(leaves)) if len(leaves) > 1 else [key]
            return [
                jax.random.rademacher(part, (self.probes, *a.shape[1:]), a.dtype)
                for part, a in zip(parts, leaves, strict=True)
            ]

        return tree.unflatten(per_sample(signs, keys))

    def __call__(
        self, flow: Flow, x: PyTree, probes: PyTree
    ) -> tuple[PyTree, Float[Array, "batch probes"]]:
        v, derivative = jax.linearize(flow, x)

        def product(e: PyTree) -> Array:
            products = jax.tree.map(lambda a, b: event_sum(a * b), e, derivative(e))
            return sum(jax.tree.leaves(products))  # type: ignore[return-value]

        return v, jax.vmap(product, in_axes=1, out_axes=1)(probes)


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
        self, t: Time, x: Mapping[str, Any], *, cond: Mapping[str, Any], probes: PyTree
    ) -> Mapping[str, Any]:
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
    velocity: Velocity | Callable[..., PyTree],
    x1: PyTree,
    *,
    source: Source | Callable[..., Any] | None = None,
    divergence: Exact | Hutchinson | None = None,
    keys: Keys | None = None,
    solver: diffrax.AbstractERK | None = None,
    rtol: ArrayLike = 1e-5,
    atol: ArrayLike = 1e-5,
    per_sample: bool = True,
    norm: str = "worst",
    adjoint: diffrax.AbstractAdjoint | None = None,
    precision: str = "float32",
    cond: Mapping[str, Any] | None = None,
) -> LogProb:
    """Log-likelihood of data under the flow, by (1), in nats.

    Where the velocity's interval stops short of 0 or 1, so does the solve: the density is that of
    the source, pushed from the interval's start to its end. On a path whose noise does not begin at
    size 1 (ve, edm) the flow sets out from `paths.start(path, x0)`, and so does this density.

    Args:
        velocity: a Velocity, or a plain function `(t, x, **cond) -> v`.
        x1: data, `[batch, *event]`, any event shape, or a mapping of parts (with a source of
            parts, `sources.product`).
        source: the density of `x0`; standard normal where None.
        divergence: `exact()` (where None) or `hutchinson(probes)`.
        keys: one a sample, for Hutchinson's probes.
        solver, rtol, atol, per_sample, norm, adjoint, precision, cond: as for `adaptive`.

    Returns:
        `value` in nats; `standard_error` of the mean over probes, which is 0 for the exact
        divergence and NaN for one probe; `nfe` and `success` of the solve.

    Raises:
        ValueError: for Hutchinson without keys, a source without density, and as `adaptive`.

    Chen et al., Neural Ordinary Differential Equations, 2018, arXiv:1806.07366, eq. 8.
    """
    velocity = as_velocity(velocity)
    source = sources.as_source(sources.normal() if source is None else source)
    check_made("divergence", divergence)
    divergence = exact() if divergence is None else divergence
    cond = {} if cond is None else dict(cond)
    n = check_batch(x1, cond)
    if keys is not None:
        check_keys(keys, n)
    velocity, products = computing(velocity, precision, rtol, atol, state=x1)
    solve = {"solver": solver, "per_sample": per_sample, "norm": norm, "adjoint": adjoint}
    with products:
        return _log_prob(
            traceable((velocity, source)),
            x1,
            keys,
            cond,
            (rtol, atol),
            divergence,
            tuple(solve.items()),
        )


@partial(jax.jit, static_argnums=(5, 6))
def _log_prob(
    flow: tuple[Velocity, Source],
    x1: PyTree,
    keys: Keys | None,
    cond: Mapping[str, Any],
    tolerances: tuple[Array, Array],
    divergence: Exact | Hutchinson,
    solve: tuple[tuple[str, Any], ...],
) -> LogProb:
    velocity, source = flow
    x = jax.tree.map(at_least_float32, x1)
    n = batch_size(x)
    logdet = jnp.zeros((n, max(divergence.probes, 1)), jnp.result_type(*jax.tree.leaves(x)))
    low, high = velocity.interval
    solution = adaptive(
        Augmented(velocity, divergence),
        {"x": x, "logdet": logdet},
        (high, low),
        rtol=tolerances[0],
        atol=tolerances[1],
        cond={"cond": cond, "probes": divergence.draw(keys, x)},
        precision="network",
        **dict(solve),
    )
    logdet = solution.x["logdet"]
    first = start_log_prob(velocity.path, source, solution.x["x"])
    value = first + jnp.mean(logdet, axis=1)
    return LogProb(value, _standard_error(divergence, logdet), solution.nfe, solution.success)


def _standard_error(divergence: Exact | Hutchinson, logdet: Array) -> Float[Array, "batch"]:
    if divergence.probes == 0:
        return jnp.zeros(len(logdet), logdet.dtype)
    if divergence.probes == 1:
        return jnp.full(len(logdet), jnp.nan, logdet.dtype)
    return jnp.std(logdet, axis=1, ddof=1) / math.sqrt(divergence.probes)

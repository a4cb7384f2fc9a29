r"""Maximum likelihood of a continuous normalising flow.

(1) $L(\theta) = -\frac1d\, E\,[\log p_0(x(0)) - \int_0^1 \nabla \cdot v_\theta(t, x(t))\, dt]$,
    with $x(1) = x_1$

Solved on a fixed grid and differentiated through its steps, so that the gradient is that of the
density which the grid defines. A step costs a solve: flow matching trains the same flow at one call
an example, and this loss is for fine-tuning one by its likelihood, or for a flow that has no path.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxflow import sampling, sources
from jaxflow.arrays import at_least_float32, batch_size
from jaxflow.checks import check_made, check_network
from jaxflow.records import record, static, traceable
from jaxflow.sampling.likelihood import Augmented, Exact, Hutchinson
from jaxflow.sharding import gathering
from jaxflow.types import Array, Batch, Held, Key, Loss, Method, Network, Params, Source
from jaxflow.velocities import from_network

__all__ = ["maximum_likelihood"]


@record
class MaximumLikelihood:
    """The loss (1)."""

    network: Network
    source: Source
    method: Method
    grid: tuple[float, ...] = static()
    divergence: Exact | Hutchinson = static()

    prediction = "velocity"

    gathers = gathering("network")

    def __call__(
        self, params: Params, key: Key | None, batch: Batch, held: Held | None = None
    ) -> tuple[Array, Mapping[str, Any]]:
        """The mean over examples in nats a dimension, and `{"per_example": [batch]}`.

        Raises:
            ValueError: for Hutchinson's divergence where the batch has no `"keys"`, or for a mask.
        """
        if "mask" in batch:
            raise ValueError(
                "maximum_likelihood is that of whole samples and takes no mask: leave "
                "batch['mask'] out, or train by losses.flow_matching"
            )
        x = jax.tree.map(at_least_float32, batch["x1"])
        keys = batch.get("keys")
        if keys is None and self.divergence.probes:
            raise ValueError(
                "hutchinson draws random probes: add keys by draws.keys(), as the whole draw or a "
                "part of a chain"
            )
        probes = self.divergence.draw(keys, x)
        logdet = jnp.zeros((batch_size(x), max(self.divergence.probes, 1)), jnp.float32)
        solution = sampling.fixed_step(
            Augmented(from_network(self.network, params), self.divergence),
            {"x": x, "logdet": logdet.astype(jnp.result_type(*jax.tree.leaves(x)))},
            np.asarray(self.grid[::-1]),
            method=self.method,
            cond={"cond": dict(batch.get("cond", {})), "probes": probes},
        )
        end = solution.x
        log_prob = self.source.log_prob(end["x"]) + jnp.mean(end["logdet"], axis=1)
        size = sum(math.prod(a.shape[1:]) for a in jax.tree.leaves(x))
        per_example = -log_prob / size
        return jnp.mean(per_example), {"per_example": per_example}


def maximum_likelihood(
    network: Network,
    *,
    source: Source | None = None,
    grid: ArrayLike | Sequence[float] | None = None,
    method: Method | None = None,
    divergence: Exact | Hutchinson | None = None,
) -> Loss:
    """The negative log-likelihood (1) of a network's flow, in nats a dimension.

    Args:
        network: predicts velocities, `(params, t, x, *, key=None, **cond) -> velocity`.
        source: the density at the start; standard normal where None.
        grid: times from 0 to 1; twenty equal steps where None.
        method: of a step; Heun's where None.
        divergence: `sampling.hutchinson()`, with keys that `draws.keys` adds to the batch, where
            None; or `sampling.exact()`.

    Raises:
        ValueError: for a grid that does not run from 0 to 1.
        TypeError: for what is no network, or a factory in the place of what it makes.

    Chen et al., Neural Ordinary Differential Equations, 2018, arXiv:1806.07366; Grathwohl et al.,
    FFJORD, 2019, arXiv:1810.01367; on solving before differentiating, Onken & Ruthotto,
    Discretize-Optimize vs. Optimize-Discretize for Time-Series Regression and Continuous
    Normalizing Flows, 2020, arXiv:2005.13420.
    """
    check_network(network)
    for name, each in {"method": method, "divergence": divergence}.items():
        check_made(name, each)
    times = sampling.grids.uniform(20) if grid is None else np.asarray(grid, np.float64)
    if times.ndim != 1 or (times[0], times[-1]) != (0, 1):
        raise ValueError(f"the grid of a likelihood runs from 0 to 1; got {grid}")
    return MaximumLikelihood(
        traceable(network),
        sources.as_source(sources.normal() if source is None else source),
        sampling.heun() if method is None else method,
        tuple(map(float, times)),
        sampling.hutchinson() if divergence is None else divergence,
    )

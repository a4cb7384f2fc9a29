r"""Exact linear assignment, started from nearly optimal prices.

Subtracting prices from the rows and columns of a cost matrix, $C_{ij} - f_i - g_j$, changes the
cost of every permutation alike. With the potentials of entropic transport for prices, most rows
already find their partner free, and an exact solver has little left to do. The transport cools,
each heat from the prices of the one before, so that no number leaves float32.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Int

from jaxflow.types import Array

__all__ = ["assign", "assign_on_host"]

# Heats of entropic transport, as shares of the mean cost, and how often each renews the prices.
HEATS = 0.2, 0.04, 0.008, 0.002
ITERATIONS = 10
# The kernel's numbers and what Sinkhorn's iteration makes of them stay within float32.
LARGEST_EXPONENT = 60.0


def assign(cost: Float[Array, "n n"]) -> Int[Array, "n"]:
    """The column of each row in the cheapest permutation; compiles, exact in the cost's dtype.

    What costs infinity is never chosen where classes, each with as many rows as columns, are all
    that lies at a finite cost: a row's search ends in its own class, before it would leave it.
    """
    cost = _reduce(cost)
    mean = jnp.mean(cost, where=jnp.isfinite(cost))
    scale = jnp.where(mean > 0, mean, 1)
    for heat in HEATS:
        exponents = jnp.maximum(cost * (-1 / (heat * scale)), -LARGEST_EXPONENT)
        kernel = jnp.exp(exponents.astype(jnp.float32))
        cost = _reduce(cost - heat * scale * jnp.log(_columns(kernel)))
    rows, columns = optax.assignment.hungarian_algorithm(cost)
    return jnp.zeros(len(cost), columns.dtype).at[rows].set(columns)


def assign_on_host(cost: Float[np.ndarray, "n n"]) -> Int[np.ndarray, "n"]:
    """The same in numpy and scipy: potentials in float32, the assignment itself in float64.

    In place, which takes little more than half the time of new matrices at every operation.
    """
    from scipy.optimize import linear_sum_assignment  # a third of a second, and few runs need it

    cost = _reduce(np.array(cost, np.float64, order="C"))
    scale = cost.mean() or 1.0
    kernel = np.empty(cost.shape, np.float32)
    for heat in HEATS:
        np.multiply(cost, -1 / (heat * scale), out=kernel, casting="unsafe")
        np.exp(np.maximum(kernel, -LARGEST_EXPONENT, out=kernel), out=kernel)
        v = np.ones_like(kernel[0])
        for _ in range(ITERATIONS):
            v = _renew(kernel, v)
        cost -= heat * scale * np.log(v)
        cost = _reduce(cost)
    return linear_sum_assignment(cost)[1]


def _columns(kernel: Float[Array, "n n"]) -> Float[Array, "n"]:
    """What columns are multiplied by after all of a heat's iterations."""
    ones = jnp.ones_like(kernel[0])
    return jax.lax.fori_loop(0, ITERATIONS, lambda _, v: _renew(kernel, v), ones)


def _renew(kernel: Any, v: Any) -> Any:
    """Sinkhorn's iteration: scale the rows to sums of one, and then the columns."""
    return 1 / ((1 / (kernel @ v)) @ kernel)


def _reduce(cost: Any) -> Any:
    """Subtract the least of each row and of each column, in place where NumPy can."""
    cost -= cost.min(axis=1, keepdims=True)
    cost -= cost.min(axis=0)
    return cost

r"""Exact linear assignment, started from nearly optimal prices.

Subtracting prices from the columns of a cost matrix, $C_{ij} - g_j$, changes the cost of every
permutation alike. With the potentials of entropic transport for prices most rows already find
their partner cheapest, and an exact solver has little left to do. Sinkhorn's iteration is
overrelaxed, which converges sooner, and its transport cools heat by heat,

(1) $K_{h/r} = (\mathrm{diag}(u) K_h \mathrm{diag}(v))^r$, entry by entry,

so that no number leaves float32.

Thibault, Chizat, Dossal and Papadakis, Overrelaxed Sinkhorn-Knopp Algorithm for Regularized
Optimal Transport, 2017, arXiv:1711.01851.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Int

from jaxflow.types import Array

__all__ = ["assign", "assign_on_host", "prices"]

# The first heat as a share of the mean cost, how many there are, and the ratio of one to the next.
HEAT, HEATS, RATIO = 0.4, 4, 8
ITERATIONS = 8
RELAXATION = 1.6
# What the kernel's numbers, and Sinkhorn's iteration of them, can take in float32.
LARGEST_EXPONENT = 60.0
# The solver needs no prices for so few rows. On the host more are rounded up to a multiple of it,
# so that classes of many sizes compile few programs.
FEW = 32


def assign(cost: Float[Array, "n n"]) -> Int[Array, "n"]:
    """The column of each row in the cheapest permutation; compiles, exact in the cost's dtype.

    What costs infinity is never chosen where classes, each with as many rows as columns, are all
    that lies at a finite cost: a row's search ends in its own class, before it would leave it.
    """
    cost = _reduce(cost)
    mean = jnp.mean(cost, where=jnp.isfinite(cost))
    unit = jnp.where(mean > 0, mean, 1)
    cost = _reduce(cost - unit * prices((cost / unit).astype(jnp.float32)))
    rows, columns = optax.assignment.hungarian_algorithm(cost)
    return jnp.zeros(len(cost), columns.dtype).at[rows].set(columns)


def assign_on_host(cost: Float[np.ndarray, "n n"]) -> Int[np.ndarray, "n"]:
    """The same by scipy in float64; the prices are one compiled call, which leaves threads free."""
    from scipy.optimize import linear_sum_assignment  # a third of a second, and few runs need it

    cost = np.asarray(cost, np.float64)
    n = len(cost)
    if n <= FEW:
        return linear_sum_assignment(cost)[1]
    size = FEW * math.ceil(n / FEW)
    padded = np.full((size, size), np.inf, np.float32)
    np.fill_diagonal(padded[n:, n:], 0)
    reduced = padded[:n, :n]
    with np.errstate(over="ignore", invalid="ignore"):
        np.subtract(cost, cost.min(axis=1, keepdims=True), out=reduced, casting="unsafe")
        least = reduced.min(axis=0)
        reduced -= least
        unit = reduced.mean()
    if 1e-30 < unit < 1e30:  # float32 holds what prices take; without any it is as exact
        reduced /= unit
        with jax.default_device(_cpu()):
            found = np.asarray(_compiled(padded))
        cost = cost - (least + unit * found[:n])
    return linear_sum_assignment(cost)[1]


def prices(cost: Float[Array, "n n"]) -> Float[Array, "n"]:
    """Nearly optimal prices of the columns, for a cost reduced by row and column of mean 1.

    Finite whatever the cost.
    """
    kernel = jnp.exp(jnp.maximum(-cost / HEAT, -LARGEST_EXPONENT))
    u, v = _scales(kernel)
    total = HEAT * jnp.log(v)
    for k in range(1, HEATS):
        kernel = jnp.maximum((u[:, None] * kernel * v) ** RATIO, math.exp(-LARGEST_EXPONENT))
        u, v = _scales(kernel)
        total += HEAT / RATIO**k * jnp.log(v)
    return jnp.where(jnp.isfinite(total), total, 0)


_compiled = jax.jit(prices)


def _scales(kernel: Float[Array, "n n"]) -> tuple[Float[Array, "n"], Float[Array, "n"]]:
    """What the rows and then the columns are multiplied by, after a heat's iterations."""

    def renew(_: Any, scales: tuple[Array, Array]) -> tuple[Array, Array]:
        u, v = scales
        u *= _relaxed(u * (kernel @ v))
        v *= _relaxed(v * (u @ kernel))
        return u, v

    u = 1 / (kernel @ jnp.ones_like(kernel[0]))
    u, _ = jax.lax.fori_loop(0, ITERATIONS, renew, (u, 1 / (u @ kernel)))
    return u, 1 / (u @ kernel)


def _relaxed(total: Float[Array, "n"]) -> Float[Array, "n"]:
    """`total ** -RELAXATION`, without the cases of a general power."""
    return jnp.exp(-RELAXATION * jnp.log(total))


@functools.cache
def _cpu() -> Any:
    """The CPU of the process; None, for JAX's usual device, where JAX_PLATFORMS leaves out CPUs."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None


def _reduce(cost: Any) -> Any:
    """Less the least of each row and of each column; what is given stays as it is."""
    cost = cost - cost.min(axis=1, keepdims=True)
    cost -= cost.min(axis=0)
    return cost

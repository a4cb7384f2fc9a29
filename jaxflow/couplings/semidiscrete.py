r"""Semidiscrete optimal transport: from the source, as it is, to all rows of a data set.

The dual has one potential $g_j$ a datum. With masses $b_j = 1/N$,

(1) $\max_g \; E_{x_0} [ -\varepsilon \log \sum_j b_j e^{(g_j - c(x_0, x_1^j)) / \varepsilon} ]
    + \sum_j b_j g_j$, with $\min_j (c - g_j)$ for the logarithm where $\varepsilon = 0$

(2) gradient $b_j - E_{x_0} p_j(x_0)$, $p_j \propto e^{(g_j - c(x_0, x_1^j)) / \varepsilon}$, or the
    one $j$ where $g_j - c$ is largest

(3) $x_0$ is coupled to $j \sim p(x_0)$: where $g_j - c + \varepsilon \gamma_j$ is largest, with
    $\gamma_j$ Gumbel

(4) $\chi^2 = N \sum_j (m_j - b_j)^2$, $m_j = E_{x_0} p_j(x_0)$, the mean square of a datum's error
    of mass, relative to its mass

Averaging the steps of stochastic gradients leaves $\chi^2 \approx N / S$ (less for $\varepsilon >
0$) after $S$ sources, whatever the rate, once it is small enough. The rate begins at the spread of
the cost, falls to that of the gap between the two nearest data, and stays there for the second
half, which is averaged. It counts in shares `batch / N` of a datum's mass.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.arrays import batch_size as length_of
from jaxflow.arrays import event_shape, is_concrete
from jaxflow.checks import check_batch
from jaxflow.couplings.cost import Cost, check_cost, cost_matrix
from jaxflow.records import record, static, traceable
from jaxflow.types import Array, Cond, Float, Key, Sample, Source

__all__ = ["Semidiscrete", "marginal_error", "semidiscrete"]

FIRST_RATE, LAST_RATE = 0.05, 0.1
SAMPLES_A_DATUM = 8


@record
class Semidiscrete:
    """A coupling that gives each source a row of the data set it holds, with its conditions.

    `potentials [N]` are those of the rows `x1`; `epsilon` is in units of `unit`, the mean absolute
    cost; `error` is (4) of the fit, on fresh sources. All but `epsilon` are leaves.
    """

    x1: Any
    cond: Any
    potentials: Float[Array, "rows"]
    unit: Float[Array, ""]
    error: Float[Array, ""]
    cost: Any
    epsilon: float = static()

    independent = False

    def __call__(self, key: Key, x0: Sample, x1: Sample, cond: Cond) -> tuple[Sample, Sample, Cond]:
        self._check(x0, cond)
        rows = self.rows(jax.random.split(key, length_of(x0)), x0)
        x1, cond = jax.tree.map(lambda a: jnp.asarray(a)[rows], (self.x1, self.cond))
        return x0, x1, cond

    def rows(self, keys: Any, x0: Sample) -> Array:
        """The row that each source is coupled to (3), by one key a source."""
        scores = self._scores(x0)
        if self.epsilon:
            shape, dtype = scores.shape[1:], scores.dtype
            noise = jax.vmap(lambda key: jax.random.gumbel(key, shape, dtype))(keys)
            scores = scores + self.epsilon * self.unit * noise
        return jnp.argmax(scores, axis=1)

    def masses(self, x0: Sample) -> Float[Array, "rows"]:
        """`p(x0)` of (2), averaged over the sources."""
        scores = self._scores(x0)
        if self.epsilon:
            return jnp.mean(jax.nn.softmax(scores / (self.epsilon * self.unit), axis=1), axis=0)
        count = jnp.zeros_like(self.potentials).at[jnp.argmax(scores, axis=1)].add(1)
        return count / len(scores)

    def _scores(self, x0: Sample) -> Float[Array, "batch rows"]:
        return self.potentials - jnp.asarray(cost_matrix(self.cost, x0, self.x1))

    def _check(self, x0: Sample, cond: Cond) -> None:
        if event_shape(x0) != event_shape(self.x1):
            raise ValueError(
                f"x0 has event shape {event_shape(x0)}, but the rows that the semidiscrete "
                f"coupling was fitted to {event_shape(self.x1)}"
            )
        if set(cond) != set(self.cond):
            raise ValueError(
                f"the batch has the conditions {sorted(cond)}, but the semidiscrete coupling "
                f"holds {sorted(self.cond)}: give those of every row to semidiscrete(cond=...)"
            )


def semidiscrete(
    key: Key,
    source: Source,
    x1: Sample,
    cond: Mapping[str, Any] | None = None,
    *,
    steps: int,
    epsilon: float = 0.0,
    batch_size: int = 256,
    cost: Cost | None = None,
) -> Semidiscrete:
    """Fit the potentials (1) of a whole data set, once, by averaged stochastic gradients.

    What is returned is a coupling: it replaces the batch's data and conditions by the rows that
    its sources are transported to, so epochs are no more kept to, and each row comes as often as
    its mass says. It is a pytree, saved and loaded as any; `jax.eval_shape` of this call gives
    its structure. A step compares `batch_size` sources with all rows.

    With conditions, this couples across them, as `optimal_transport` does.

    Args:
        key: of the sources that it is fitted on.
        source: of the noise, as the draw's.
        x1: all rows, as the network sees them; a mapping where samples have several parts.
        cond: those of all rows.
        steps: of gradients. `steps * batch_size` of 100 sources a row leave an error (4) of about
            0.02, twice what averaging all of them could.
        epsilon: of the entropy, in units of the mean absolute cost; 0 couples each source to one
            row.
        batch_size: sources a step.
        cost: as in `optimal_transport`.

    Raises:
        TypeError: for a cost that is no function.
        ValueError: for a negative epsilon, fewer than one step or source, fewer than two rows,
            values that are not finite, or conditions of another length; (when called) where
            events or the names of conditions are not those of the rows.

    >>> from jaxflow import sources
    >>> x1 = jnp.array([[-2.0], [0.5], [3.0]])  # thirds of the normal, by order
    >>> fitted = semidiscrete(jax.random.key(0), sources.normal(), x1, steps=500)
    >>> x0 = jnp.array([[-0.6], [0.0], [0.6]])
    >>> fitted(jax.random.key(1), x0, x0, {})[1].ravel()
    Array([-2. ,  0.5,  3. ], dtype=float32)

    Genevay et al., Stochastic Optimization for Large-scale Optimal Transport, 2016,
    arXiv:1605.08527, section 3; Mousavi-Hosseini et al., Flow Matching with Semidiscrete Couplings,
    2025, arXiv:2509.25519. Rates and the averaged half are ours.
    """
    check_cost(cost)
    cond = {} if cond is None else cond
    if not 0 <= epsilon < math.inf:
        raise ValueError(f"epsilon is {epsilon}: it is 0, for hard assignments, or positive")
    if steps < 1 or batch_size < 1:
        raise ValueError(
            f"semidiscrete needs steps and batch_size of at least 1; got {steps} and {batch_size}"
        )
    n = check_batch(x1, cond)
    if n < 2:
        raise ValueError(f"semidiscrete needs at least two rows; got {n}")
    x1, cond = jax.tree.map(jnp.asarray, (x1, dict(cond)))
    for leaf in jax.tree.leaves(x1):
        if is_concrete(leaf) and not np.all(np.isfinite(leaf)):
            raise ValueError("semidiscrete met a value that is not finite in x1")
    blank = jnp.zeros(n), jnp.ones(()), jnp.asarray(jnp.inf)
    start = Semidiscrete(x1, {}, *blank, traceable(cost), epsilon)
    potentials, unit, error = _fit(key, source, start, steps, batch_size)
    return Semidiscrete(x1, cond, potentials, unit, error, start.cost, epsilon)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _fit(
    key: Key, source: Source, start: Semidiscrete, steps: int, batch: int
) -> tuple[Array, Array, Array]:
    """Potentials, the unit of cost and the error."""
    n, tail = len(start.potentials), (steps + 1) // 2
    head = steps - tail
    keys = jax.random.split(key, 3)
    first = _drawn(keys[0], source, start.x1, max(batch, 64))
    cost = jnp.asarray(cost_matrix(start.cost, first, start.x1))
    unit = jnp.mean(jnp.abs(cost))
    unit = jnp.where(unit > 0, unit, 1)
    share = min(1.0, batch / n)
    spread = jnp.std(cost - cost.mean(0) - cost.mean(1, keepdims=True)) * share * FIRST_RATE
    gap = _gap(cost) + start.epsilon * unit
    last = jnp.minimum(gap * share * LAST_RATE, spread)
    decay = jnp.where(spread > 0, last / jnp.where(spread > 0, spread, 1), 1)

    def at(g: Array) -> Semidiscrete:
        return Semidiscrete(start.x1, {}, g, unit, start.error, start.cost, start.epsilon)

    def step(k: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        g, mean = state
        x0 = _drawn(jax.random.fold_in(keys[1], k), source, start.x1, batch)
        rate = spread * decay ** jnp.minimum(1.0, k / max(head, 1))
        g = g + rate * (1 - n * at(g).masses(x0))
        return g, mean + (g - mean) / jnp.maximum(1, k - head + 1)

    _, mean = jax.lax.fori_loop(0, steps, step, (start.potentials, start.potentials))
    return mean, unit, _error(keys[2], source, at(mean), -(-SAMPLES_A_DATUM * n // batch), batch)


def _gap(cost: Array) -> Array:
    """What a source's second nearest datum costs more than its nearest, as a median."""
    nearest = -jax.lax.top_k(-cost, 2)[0]
    return jnp.median(nearest[:, 1] - nearest[:, 0])


def _drawn(key: Key, source: Source, x1: Sample, n: int) -> Sample:
    return source.sample(jax.random.split(key, n), event_shape(x1))


def marginal_error(
    key: Key, source: Source, fitted: Semidiscrete, *, batches: int, batch_size: int = 256
) -> Float[Array, ""]:
    """The error (4) of a semidiscrete coupling, without bias: it may fall below zero.

    The errors of mass on two sets of sources are multiplied, each of `batches * batch_size`; of
    `S` sources, those of `N` rows have a standard error of about `sqrt(N) / S`.

    Raises:
        ValueError: for fewer than one batch.
    """
    if batches < 1 or batch_size < 1:
        raise ValueError(
            f"marginal_error needs batches and batch_size of at least 1; got {batches} and "
            f"{batch_size}"
        )
    return _error(key, source, fitted, batches, batch_size)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _error(key: Key, source: Source, fitted: Semidiscrete, batches: int, batch: int) -> Array:
    n = len(fitted.potentials)

    def deviation(key: Key) -> Array:
        def add(k: Array, total: Array) -> Array:
            x0 = _drawn(jax.random.fold_in(key, k), source, fitted.x1, batch)
            return total + fitted.masses(x0)

        zero = jnp.zeros_like(fitted.potentials)
        return jax.lax.fori_loop(0, batches, add, zero) / batches - 1 / n

    one, other = map(deviation, jax.random.split(key))
    return n * jnp.sum(one * other)

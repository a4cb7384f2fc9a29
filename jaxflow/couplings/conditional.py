r"""Optimal transport that leaves the source's law given the condition as it was.

A source inherits the condition $c$ of the datum that it was drawn beside, and transport pays for
changing it:

(1) $C_{ij} = c(x_0^i, x_1^j) + w \, | c^i - c^j |^2$ of continuous conditions, infinite where
    discrete ones differ

so for discrete conditions each class is transported by itself. Within a class the permutation
mixes sources that are drawn alike, whatever it is chosen by: $x_0$ given the class keeps its law.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.arrays import squared_distances
from jaxflow.checks import check_batch
from jaxflow.couplings.assignment import assign, assign_on_host
from jaxflow.couplings.cost import (
    Cost,
    check_cost,
    check_finite,
    check_pairs,
    cost_matrix,
    on_the_host,
    reordered,
)
from jaxflow.records import record, static, traceable
from jaxflow.types import Cond, Coupling, Key, Sample

__all__ = ["conditional_optimal_transport"]


@record
class ConditionalOptimalTransport:
    """Re-pairs the source within classes, and near in continuous conditions; data keep order."""

    weight: float | None = static()
    cost: Any
    on_host: bool = static()

    independent = False

    def __call__(self, key: Key, x0: Sample, x1: Sample, cond: Cond) -> tuple[Sample, Sample, Cond]:
        check_pairs(x0, x1)
        check_batch(x1, cond)
        discrete, continuous = _kinds(cond, self.weight)
        solve = self._solved_on_host if self.on_host else self._solved
        order = solve(x0, x1, discrete, continuous)
        return reordered(x0, order), x1, cond

    def _solved(self, x0: Sample, x1: Sample, discrete: list[Any], continuous: list[Any]) -> Any:
        """By one infinite cost: no search goes through it, so no digit of the others is lost."""
        x0, x1, continuous = jax.tree.map(jnp.asarray, (x0, x1, continuous))
        cost = self._with_conditions(cost_matrix(self.cost, x0, x1), continuous)
        for each in map(jnp.asarray, discrete):
            rows = each.reshape(len(each), -1)
            alike = jnp.all(rows[:, None] == rows[None], axis=-1)
            cost = jnp.where(alike, cost, jnp.inf)
        return assign(cost.T)

    def _solved_on_host(
        self, x0: Sample, x1: Sample, discrete: list[Any], continuous: list[Any]
    ) -> Any:
        """Class by class."""
        given = (x0, x1, discrete, continuous)
        x0, x1, discrete, continuous = on_the_host("conditional_optimal_transport", given)
        check_finite("x0, x1 or a condition", (x0, x1, continuous))
        cost = self._with_conditions(cost_matrix(self.cost, x0, x1), continuous)
        check_finite("the cost", cost)
        order = np.empty(len(cost), int)
        for members in _classes(len(cost), discrete):
            order[members[assign_on_host(cost[np.ix_(members, members)])]] = members
        return order

    def _with_conditions(self, cost: Any, continuous: list[Any]) -> Any:
        return sum((self.weight * squared_distances(c, c) for c in continuous), cost)


def _kinds(cond: Cond, weight: float | None) -> tuple[list[Any], list[Any]]:
    """The discrete and the continuous arrays of a condition."""
    if not jax.tree.leaves(cond):
        raise ValueError(
            "conditional_optimal_transport met a batch without conditions: give it some as "
            "'cond', or couple by optimal_transport()"
        )
    kinds: tuple[list[Any], list[Any]] = [], []
    for path, leaf in jax.tree_util.tree_leaves_with_path(dict(cond)):
        name, dtype = jax.tree_util.keystr(path, simple=True, separator="."), leaf.dtype
        floats = jnp.issubdtype(dtype, jnp.floating)
        if not (floats or jnp.issubdtype(dtype, jnp.integer) or dtype == np.bool_):
            raise ValueError(
                f"condition {name!r} has dtype {dtype}: conditional_optimal_transport compares "
                "integers and bools, which match exactly, and floats"
            )
        if floats and weight is None:
            raise ValueError(
                f"condition {name!r} is continuous ({dtype}): say what its squared distance "
                "weighs, as conditional_optimal_transport(weight=1.0)"
            )
        kinds[floats].append(leaf)
    return kinds


def _classes(n: int, discrete: list[np.ndarray]) -> list[np.ndarray]:
    """The members of each class."""
    labels = np.zeros((n, 1 + len(discrete)), int)
    for i, each in enumerate(discrete):
        rows = each.reshape(n, -1)
        labels[:, i] = np.unique(rows, axis=0, return_inverse=True)[1].reshape(n)
    classes = np.unique(labels, axis=0, return_inverse=True)[1].reshape(n)
    return [np.flatnonzero(classes == k) for k in range(classes.max() + 1)]


def conditional_optimal_transport(
    weight: float | None = None, *, cost: Cost | None = None, on_host: bool = False
) -> Coupling:
    """Exact minibatch optimal transport that pays for changing conditions (1).

    The source is permuted; data and conditions keep their order. With discrete conditions alone
    the noise of a class is as it was drawn, so what is trained is what is sampled; with
    continuous ones it is the nearer, the larger the weight. The cost of a batch is never below
    that of `optimal_transport`.

    What each array of the conditions (a mapping, nested or not) does, by its dtype:

    | dtype | |
    |---|---|
    | integer, bool | matches exactly, in all its entries: pairs stay within one class |
    | floating | costs `weight` times its squared distance, summed over entries and arrays |
    | any other | is refused |

    Args:
        weight: of the squared distance between continuous conditions, in units of the cost: 0
            leaves them out. None says that there are none.
        cost: as in `optimal_transport`.
        on_host: as in `optimal_transport`.

    Raises:
        TypeError: for a cost that is no function.
        ValueError: for a weight that is negative or not finite; (when called) where there are no
            conditions, some of another dtype, or continuous ones without a weight; and as in
            `optimal_transport`.

    >>> x0, x1 = jnp.array([[0.0], [1.0], [2.0]]), jnp.array([[3.0], [2.0], [1.0]])
    >>> label = jnp.array([0, 0, 1])  # the third keeps its noise
    >>> coupling = conditional_optimal_transport()
    >>> coupling(jax.random.key(0), x0, x1, {"label": label})[0].ravel()
    Array([1., 0., 2.], dtype=float32)

    Cheng and Schwing, The Curse of Conditions: Analyzing and Improving Optimal Transport for
    Conditional Flow-Based Generation, 2025, arXiv:2503.10636, which measures continuous conditions
    by their cosine distance, and finds the weight as it goes.
    """
    check_cost(cost)
    if weight is not None and not 0 <= weight < float("inf"):
        raise ValueError(
            f"weight is {weight}: the weight of the conditions' distance is finite and not negative"
        )
    return ConditionalOptimalTransport(weight, traceable(cost), on_host)

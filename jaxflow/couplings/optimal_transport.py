r"""Exact optimal transport between the batch's source and data.

(1) $\pi = \arg\min_\pi \sum_j c(x_0^{\pi(j)}, x_1^j)$ over permutations
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

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

__all__ = ["optimal_transport"]


@record
class OptimalTransport:
    """Re-pairs by the cheapest permutation of the source; data and conditions keep their order."""

    cost: Any
    on_host: bool = static()

    independent = False

    def __call__(self, key: Key, x0: Sample, x1: Sample, cond: Cond) -> tuple[Sample, Sample, Cond]:
        check_pairs(x0, x1)
        if not self.on_host:
            order = assign(jnp.asarray(cost_matrix(self.cost, *_arrays(x0, x1))).T)
            return reordered(x0, order), x1, cond
        pair = on_the_host("optimal_transport", (x0, x1))
        check_finite("x0 or x1", pair)
        cost = np.asarray(cost_matrix(self.cost, *pair))
        check_finite("the cost", cost)
        order = np.argsort(assign_on_host(cost))
        return reordered(x0, order), x1, cond


def _arrays(*trees: Any) -> Any:
    return jax.tree.map(jnp.asarray, trees)


def optimal_transport(*, cost: Cost | None = None, on_host: bool = False) -> Coupling:
    """Exact minibatch optimal transport (1).

    The source is permuted; data and conditions keep their order, so labels follow their data.
    The cost is a batch's: the larger the batch, the closer to transport of the distributions.
    With conditions, this couples across them: what a condition's noise looks like then depends
    on it, which biases conditional sampling (`conditional_optimal_transport` does not). Pairs are
    not independent any more, so no score is known.

    Args:
        cost: `(x0, x1) -> [n, n]`, entry `[i, j]` that of source `i` with datum `j`, of the batch
            as it is (a mapping, where samples have several parts); the squared distance over all
            parts where None. On the host it is given NumPy arrays, in float64 where they float.
        on_host: False compiles into the step, on whichever device it runs. True solves with
            scipy in float64, for `training.ahead`, which pipelines it before the step: on CPU the
            faster way, which a long step hides altogether. The source it returns is in NumPy.

    Raises:
        TypeError: for a cost that is no function.
        ValueError: (when called) where shapes differ, or a host coupling is traced or meets a
            value that is not finite.

    >>> def sign_matters(x0, x1):
    ...     return -x0[:, None] * x1
    >>> x0, x1 = jnp.array([-1.0, 1.0]), jnp.array([2.0, -3.0])
    >>> optimal_transport(cost=sign_matters)(jax.random.key(0), x0, x1, {})[0]
    Array([ 1., -1.], dtype=float32)

    Tong et al., Improving and Generalizing Flow-Based Generative Models with Minibatch Optimal
    Transport, 2024, arXiv:2302.00482, section 3.2.4; Pooladian et al., Multisample Flow Matching,
    2023, arXiv:2304.14772.
    """
    check_cost(cost)
    return OptimalTransport(traceable(cost), on_host)

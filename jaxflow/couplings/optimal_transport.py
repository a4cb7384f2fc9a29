r"""Exact optimal transport between the batch's source and data.

(1) $\pi = \arg\min_\pi \sum_i \| x_0^{\pi(i)} - x_1^i \|^2$ over permutations
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.arrays import batch_size, event_shape, is_concrete, squared_distances
from jaxflow.couplings.assignment import assign, assign_on_host
from jaxflow.records import record, static
from jaxflow.types import Cond, Coupling, Key

__all__ = ["optimal_transport"]


@record
class OptimalTransport:
    """Re-pairs by the cheapest permutation of the source; data and conditions keep their order."""

    on_host: bool = static()

    independent = False

    def __call__(self, key: Key, x0: Any, x1: Any, cond: Cond) -> tuple[Any, Any, Cond]:
        if event_shape(x0) != event_shape(x1) or batch_size(x0) != batch_size(x1):
            shapes = [jax.tree.map(jnp.shape, x) for x in (x0, x1)]
            raise ValueError(
                f"x0 has shape {shapes[0]} but x1 {shapes[1]}: they are paired one to one"
            )
        if not self.on_host:
            order = assign(squared_distances(_rows(jnp, x1), _rows(jnp, x0)))
            return jax.tree.map(lambda a: jnp.asarray(a)[order], x0), x1, cond
        if not all(map(is_concrete, jax.tree.leaves((x0, x1)))):
            raise ValueError(
                "optimal_transport(on_host=True) cannot be traced: complete batches ahead of the "
                "step by training.ahead, or couple inside jit with optimal_transport()"
            )
        pair = [_rows(np, jax.tree.map(np.asarray, x)).astype(np.float64) for x in (x1, x0)]
        if not all(np.all(np.isfinite(x)) for x in pair):
            raise ValueError("optimal transport met a value that is not finite in x0 or x1")
        order = assign_on_host(squared_distances(*pair))
        return jax.tree.map(lambda a: jnp.asarray(np.asarray(a)[order]), x0), x1, cond


def _rows(xp: Any, x: Any) -> Any:
    """`[batch, d]`: every sample with all its parts."""
    return xp.concatenate([a.reshape(len(a), -1) for a in jax.tree.leaves(x)], axis=1)


def optimal_transport(*, on_host: bool = False) -> Coupling:
    """Exact minibatch optimal transport (1) for the squared distance.

    The source is permuted; data and conditions keep their order, so labels follow their data.
    The cost is a batch's: the larger the batch, the closer to transport of the distributions.
    With conditions, this couples across them: what a condition's noise looks like then depends
    on it, which biases conditional sampling. Pairs are not independent any more, so no score is
    known.

    Args:
        on_host: False compiles into the step, on whichever device it runs. True solves with
            scipy in float64, for `training.ahead`, which pipelines it before the step: on CPU and
            for batches over 256 the faster way.

    Raises:
        ValueError: (when called) where shapes differ, or a host coupling is traced or meets a
            value that is not finite.

    Tong et al., Improving and Generalizing Flow-Based Generative Models with Minibatch Optimal
    Transport, 2024, arXiv:2302.00482, section 3.2.4; Pooladian et al., Multisample Flow Matching,
    2023, arXiv:2304.14772.
    """
    return OptimalTransport(on_host)

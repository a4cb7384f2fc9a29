r"""Exact optimal transport between the batch's source and data.

(1) $\pi = \arg\min_\pi \sum_i \| x_0^{\pi(i)} - x_1^i \|^2$ over permutations
"""

import jax.numpy as jnp
import numpy as np

from jaxflow.arrays import is_concrete, squared_distances
from jaxflow.couplings.assignment import assign, assign_on_host
from jaxflow.records import record, static
from jaxflow.types import Cond, Coupling, Data, Key

__all__ = ["optimal_transport"]


@record
class OptimalTransport:
    """Re-pairs by the cheapest permutation of the source; data and conditions keep their order."""

    on_host: bool = static()

    needs_gaussian_source = False

    def __call__(self, key: Key, x0: Data, x1: Data, cond: Cond) -> tuple[Data, Data, Cond]:
        if x0.shape != x1.shape:
            raise ValueError(
                f"x0 has shape {x0.shape} but x1 {x1.shape}: they are paired one to one"
            )
        if not self.on_host:
            cost = squared_distances(jnp.asarray(x1), jnp.asarray(x0))
            return x0[assign(cost)], x1, cond
        if not (is_concrete(x0) and is_concrete(x1)):
            raise ValueError(
                "optimal_transport(on_host=True) cannot be traced: run its draw ahead of the step "
                "with draws.ahead, or couple inside jit with optimal_transport()"
            )
        source = np.asarray(x0)
        pair = np.asarray(x1, np.float64), source.astype(np.float64)
        if not all(np.all(np.isfinite(x)) for x in pair):
            raise ValueError("optimal transport met a value that is not finite in x0 or x1")
        return jnp.asarray(source[assign_on_host(squared_distances(*pair))]), x1, cond


def optimal_transport(*, on_host: bool = False) -> Coupling:
    """Exact minibatch optimal transport (1) for the squared distance.

    The source is permuted; data and conditions keep their order, so labels follow their data.
    The cost is a batch's: the larger the batch, the closer to transport of the distributions.
    With conditions, this couples across them: what a condition's noise looks like then depends
    on it, which biases conditional sampling.

    Args:
        on_host: False compiles into the step, on whichever device it runs. True solves with
            scipy in float64, for `draws.ahead`, which pipelines it before the step: on CPU and for
            batches over 256 the faster way.

    Raises:
        ValueError: (when called) where shapes differ, or a host coupling is traced or meets a
            value that is not finite.

    Tong et al., Improving and Generalizing Flow-Based Generative Models with Minibatch Optimal
    Transport, 2024, arXiv:2302.00482, section 3.2.4; Pooladian et al., Multisample Flow Matching,
    2023, arXiv:2304.14772.
    """
    return OptimalTransport(on_host)

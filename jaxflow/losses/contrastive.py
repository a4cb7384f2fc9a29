r"""Contrastive flow matching: towards an example's own velocity, and away from another's.

(1) $L(\theta) = E\,\big[\| v_\theta(t, x_t) - u_t \|^2 - \lambda\, \| v_\theta(t, x_t) -
    \tilde u_t \|^2 \big] / d$

where $\tilde u_t$ is the conditional velocity, at the same time, of a pair that has nothing to do
with $x_t$. Its minimum is not the flow to the data but

(2) $v^*(t, x) = \dfrac{E[u_t \mid x_t = x] - \lambda\, E[\tilde u_t]}{1 - \lambda}$,

the flow moved away from the mean velocity of all pairs; with conditions, away from that of the
others. So samples are as if guided, at no further call.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.checks import check_made, check_network
from jaxflow.losses.errors import squared_error
from jaxflow.losses.flow_matching import check_alike, check_complete
from jaxflow.records import record, static, traceable
from jaxflow.sharding import gathering
from jaxflow.types import Array, Batch, Held, Key, Loss, Network, Params, Path

__all__ = ["contrastive"]


@record
class Contrastive:
    """The loss (1)."""

    network: Network
    path: Path
    repulsion: float = static()

    prediction = "velocity"

    gathers = gathering("network")

    def __call__(
        self, params: Params, key: Key | None, batch: Batch, held: Held | None = None
    ) -> tuple[Array, Mapping[str, Any]]:
        """The mean over examples, `{"per_example": [batch], "attraction": [], "repulsion": []}`.

        Raises:
            ValueError: where the batch was not completed by a draw with `draws.negatives`.
        """
        check_complete(batch)
        if "negative" not in batch:
            raise ValueError(
                "the batch lacks the pairs to keep away from: complete it with "
                "draws.chain(draws.standard(path), draws.negatives())"
            )
        sample = self.path(batch["t"], batch["x0"], batch["x1"], batch.get("z"))
        mask, pair = batch.get("mask"), dict(batch["negative"])
        both = jax.tree.map(jnp.logical_and, mask, pair.pop("mask", mask))
        other = self.path(batch["t"], **pair)
        output = self.network(params, sample.t, sample.x, key=key, **batch.get("cond", {}))
        check_alike(output, sample.x)
        own = squared_error(output, sample.u, mask=mask)
        others = squared_error(output, other.u, mask=both)
        per_example = own - self.repulsion * others
        told = {"attraction": jnp.mean(own), "repulsion": jnp.mean(others)}
        return jnp.mean(per_example), {"per_example": per_example, **told}


def contrastive(network: Network, path: Path, *, repulsion: float = 0.05) -> Loss:
    """Contrastive flow matching, the loss (1) of a network that predicts velocities.

    Args:
        network: any pure `(params, t, x, *, key=None, **cond) -> velocity`.
        path: joins `x0` and `x1`.
        repulsion: the weight `lambda` of the other pair, below 1.

    Returns:
        A loss for batches with `"negative"`, which `draws.negatives` adds. `batch["mask"]` says
        which entries count, as in `flow_matching`; away from another pair, those of both.

    Raises:
        ValueError: unless `0 <= repulsion < 1`.
        TypeError: for a network or path that is none.

    Stoica et al., Contrastive Flow Matching, 2025, arXiv:2506.05350.
    """
    check_network(network)
    check_made("path", path)
    if not 0 <= repulsion < 1:
        raise ValueError(f"contrastive needs 0 <= repulsion < 1; got {repulsion}")
    return Contrastive(traceable(network), traceable(path), repulsion)

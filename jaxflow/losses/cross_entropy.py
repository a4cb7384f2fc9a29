r"""The cross-entropy of tokens, given what a path has left of them.

(1) $L(\theta) = E_{t, x_0, x_1}\; \frac{w(t)}{d} \sum_i -\log p_\theta(x_1^i \mid x_t)$

Its minimum is the posterior $p_{1 \mid t}$ of each token, for any positive weight: all that the
rates of a path need. With `batch["mask"]` the sum is that of the tokens that count.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from jaxflow.checks import check_made, check_network
from jaxflow.losses.errors import mean_error
from jaxflow.losses.flow_matching import check_complete
from jaxflow.records import record, traceable
from jaxflow.sharding import gathering
from jaxflow.tokens import at_token, check_logits, log_normaliser
from jaxflow.types import Array, Batch, Held, Key, Loss, Network, Params, Path, PathSample, Time

__all__ = ["check_not_edits", "cross_entropy", "predicted"]


@record
class CrossEntropy:
    """The loss (1) of a network of logits on a path of tokens."""

    network: Network
    path: Path
    weight: Callable[[Time], Array] | None

    gathers = gathering("network")

    def __call__(
        self, params: Params, key: Key | None, batch: Batch, held: Held | None = None
    ) -> tuple[Array, Mapping[str, Any]]:
        """The mean over examples in nats a token, and `{"per_example": [batch]}`.

        Raises:
            ValueError: where the network does not return logits of each token, the batch was not
                completed by a draw, or the mask has another shape.
        """
        sample, logits = predicted(self.network, self.path, params, key, batch)
        missed = log_normaliser(logits) - at_token(logits, sample.x1)
        per_example = mean_error(missed, t=sample.t, weight=self.weight, mask=batch.get("mask"))
        return jnp.mean(per_example), {"per_example": per_example}


def predicted(
    network: Network, path: Path, params: Params, key: Key | None, batch: Batch
) -> tuple[PathSample, Any]:
    """A batch's points of the path, and the logits of their tokens' data.

    Raises:
        ValueError: where the batch was not completed by a draw, or the network returns no logits.
    """
    check_complete(batch)
    sample = path(batch["t"], batch["x0"], batch["x1"], batch.get("z"))
    logits = network(params, sample.t, sample.x, key=key, **batch.get("cond", {}))
    check_logits(logits, sample.x1)
    return sample, logits


def check_not_edits(path: Any) -> None:
    """Refuse a path of edits, which has a loss of its own.

    Raises:
        ValueError: naming it.
    """
    if hasattr(path, "missing"):
        raise ValueError(f"{path!r} is of edits, whose loss is losses.edits")


def cross_entropy(
    network: Network, path: Path, *, weight: Callable[[Time], Array] | None = None
) -> Loss:
    """The cross-entropy (1): classification of each token of the data.

    Args:
        network: `(params, t, x, *, key=None, **cond) -> logits [batch, *event, vocabulary]`.
        path: of tokens, `paths.mixture` or `paths.metric`.
        weight: one a time, `t -> w(t)`, or None for 1.

    Returns:
        A loss in nats a token; `aux["per_example"]` keeps the examples apart.

    Raises:
        TypeError: for a network or path that is none.
        ValueError: for a path of edits.

    Gat et al., Discrete Flow Matching, 2024, arXiv:2407.15595.
    """
    check_network(network)
    check_made("path", path)
    check_not_edits(path)
    if weight is not None:
        check_made("weight", weight)
    return CrossEntropy(*traceable((network, path, weight)))

r"""Distilling a model of tokens into fewer steps, along the noise that its tokens are made of.

By `paths.duo` the tokens of all times come of one Gaussian $\epsilon$, and from $t$ to a later $s$
they move along it as a point of a flow would. A step from $t$ learns what the model's average says
when it is there already,

(1) $L(\theta) = E\; \frac1d \sum_i \mathrm{KL}\big( p_{\bar\theta}(\cdot \mid x_s)^i \,\|\,
    p_\theta(\cdot \mid x_t)^i \big)$, $\quad s = \min(t + \delta, 1)$

whose minimum is the mean of the average's word over where $\epsilon$ leads from $x_t$. At the end
of the path the average's word is the data.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.arrays import at_least_float32, expand
from jaxflow.checks import check_made, check_network
from jaxflow.losses.cross_entropy import predicted
from jaxflow.losses.errors import mean_error
from jaxflow.paths.duo import Duo
from jaxflow.paths.ends import interval_of
from jaxflow.records import record, static, traceable
from jaxflow.sharding import gathering
from jaxflow.tokens import log_normaliser
from jaxflow.types import Array, Batch, Held, Key, Loss, Network, Params, Path

__all__ = ["discrete_consistency"]


@record
class DiscreteConsistency:
    """The loss (1) of a network of logits on a path of Gaussian noise."""

    network: Network
    path: Any
    step: float = static()

    gathers = gathering("network")

    def __call__(
        self, params: Params, key: Key | None, batch: Batch, held: Held | None = None
    ) -> tuple[Array, Mapping[str, Any]]:
        """The mean over examples in nats a token, and `{"per_example": [batch]}`.

        Raises:
            ValueError: as `cross_entropy`, and where nothing is held, whose `ema` is the average.
        """
        if held is None:
            raise ValueError(
                "discrete_consistency learns from the average of its own parameters: give the "
                "loss a Held, as the trainer does, with an average called 'ema'"
            )
        sample, logits = predicted(self.network, self.path, params, key, batch)
        t: Any = sample.t
        end = interval_of(self.path)[1]
        s = jnp.minimum(t + self.step, end)
        later = {**batch, "t": s}
        average = jax.lax.stop_gradient(held.ema)
        _, said = jax.lax.stop_gradient(predicted(self.network, self.path, average, None, later))
        said = jax.nn.softmax(at_least_float32(said), axis=-1)
        data = jax.nn.one_hot(sample.x1, logits.shape[-1], dtype=said.dtype)
        said = jnp.where(expand(s, data) < end, said, data)
        apart = jnp.sum(jax.scipy.special.xlogy(said, said), axis=-1)
        some = said > 0  # of a logit of minus infinity, 0 times it is none
        wide = jnp.where(some, at_least_float32(logits), 0.0)
        apart = apart + log_normaliser(logits) - jnp.sum(jnp.where(some, said, 0.0) * wide, axis=-1)
        per_example = mean_error(apart, mask=batch.get("mask"))
        return jnp.mean(per_example), {"per_example": per_example}


def discrete_consistency(network: Network, path: Path, *, step: float = 1 / 128) -> Loss:
    r"""The distillation (1) of a trained model of even tokens, begun at its parameters.

    Rounds of it, each begun at the average of the one before and with a step twice as long, give
    models of fewer and fewer steps.

    Args:
        network: `(params, t, x, *, key=None, **cond) -> logits [batch, *event, vocabulary]`.
        path: `paths.duo(source=..., temperature=0.0)`.
        step: $\delta$, by how much the average is ahead.

    Raises:
        TypeError: for a network that is none.
        ValueError: for another path, or a step that is not between 0 and 1.

    Sahoo et al., The Diffusion Duality, 2025, arXiv:2506.10892, section 4.2.
    """
    check_network(network)
    check_made("path", path)
    if not isinstance(path, Duo) or path.temperature:
        raise ValueError(
            f"discrete_consistency is on paths.duo(source=..., temperature=0.0); got {path!r}"
        )
    if not 0 < step < 1:
        raise ValueError(f"discrete_consistency needs 0 < step < 1; got {step}")
    network, path = traceable((network, path))
    return DiscreteConsistency(network, path, float(step))

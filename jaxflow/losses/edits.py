r"""The divergence of a model's rates of edits from those of the path.

With $e_i$ the edits of $x_t$ that its alignment with the data is missing (`jaxflow.paths.edits`),
$m(e)$ how many of them are the edit $e$, and $r_\theta$ the model's rates by the clock,

(1) $L(\theta) = E_{t, x_0, x_1, z}\; \dot\tau_t \sum_e \left[ r_\theta(e \mid x_t) - m(e)
    + m(e) \log \frac{m(e)}{r_\theta(e \mid x_t)} \right]$

    $\phantom{L(\theta)} = E_{t, x_0, x_1, z}\; \dot\tau_t \left[ \sum_e r_\theta(e \mid x_t)
    - \sum_{i\ \mathrm{missing}} \left( \log r_\theta(e_i \mid x_t) + 1 - \log m(e_i) \right)
    \right]$

The first form is the generalised Kullback-Leibler divergence of the conditional rates, so that it
is never negative, and only the expected rates, those of the marginals, are its minimum. Edits that
lead to the same sequence are apart in it: its minimum tells more than the process needs, and sums
to what it needs. Of independent pairs and with uniform times its mean is at least
$-\log p_\theta(x_1)$ of the sequence, as a divergence of processes is at least that of their ends;
where letters repeat it is more, for it tells too which of those alike came first.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.arrays import at_least_float32
from jaxflow.checks import check_made, check_network
from jaxflow.losses.errors import mean_error
from jaxflow.losses.flow_matching import check_complete
from jaxflow.paths.edits import DELETE, INSERT, SUBSTITUTE, Missing
from jaxflow.records import record, traceable
from jaxflow.sharding import gathering
from jaxflow.tokens import but, log_normaliser
from jaxflow.types import Array, Batch, Float, Held, Key, Loss, Network, Params, Time

__all__ = ["edits"]


@record
class Edits:
    """The loss (1) of a network of edits on their path."""

    network: Network
    path: Any
    weight: Callable[[Time], Array] | None

    gathers = gathering("network")

    def __call__(
        self, params: Params, key: Key | None, batch: Batch, held: Held | None = None
    ) -> tuple[Array, Mapping[str, Any]]:
        """The mean over examples in nats a sequence, and `{"per_example": [batch]}`.

        Raises:
            ValueError: where the network does not return what `path.log_rates` reads, the batch
                was not completed by a draw or has a mask, or as `path.missing`.
        """
        check_complete(batch)
        if "mask" in batch:
            raise ValueError(
                "a sequence of edits says by its padding where it ends, and all of it counts: "
                "give the batch without batch['mask']"
            )
        t = at_least_float32(batch["t"])
        missing = self.path.missing(t, batch["x0"], batch["x1"], batch.get("z"))
        said = self.network(params, t, missing.x, key=key, **batch.get("cond", {}))
        apart = self.path.clock_rate(t) * _apart(self.path, missing, said)
        per_example = mean_error(apart[:, None], t=t, weight=self.weight)
        return jnp.mean(per_example), {"per_example": per_example}


def _apart(path: Any, missing: Missing, said: Mapping[str, Array]) -> Float[Array, "batch"]:
    """(1) by clock time, the second form."""
    log_rates = path.log_rates(missing.x, said)
    is_missing = missing.kind >= 0
    shifted = jnp.pad(missing.x, ((0, 0), (1, 0)), constant_values=path.vocabulary)
    logs = _log_rates_of(missing, log_rates, said, shifted)
    each = logs + 1 - jnp.log(jnp.where(is_missing, _alike(missing), 1))
    kept = jnp.sum(jnp.where(is_missing, each, 0.0), axis=1)
    return jnp.sum(jnp.exp(log_rates), axis=(1, 2)) - kept


def _log_rates_of(
    missing: Missing, log_rates: Array, said: Mapping[str, Array], shifted: Array
) -> Float[Array, "batch places"]:
    """The logarithm of the rate of each edit that is missing."""

    def at(values: Array, *index: Array) -> Array:
        return jax.vmap(lambda values, *index: values[index])(values, *index)

    def law(logits: Array, normaliser: Array) -> Array:
        token = jnp.minimum(missing.token, logits.shape[-1] - 1)
        chosen = at_least_float32(at(logits, missing.place, token))
        return chosen - at(normaliser, missing.place)

    insert, substitute = said["insert"], said["substitute"]
    others = but(substitute, shifted) if substitute.shape[-1] > 1 else substitute
    inserted = law(insert, log_normaliser(insert))
    substituted = law(substitute, log_normaliser(others))
    kinds = [missing.kind == INSERT, missing.kind == SUBSTITUTE]
    token = jnp.select(kinds, [inserted, substituted], 0.0)
    return token + at(log_rates, missing.place, jnp.clip(missing.kind, INSERT, DELETE))


def _alike(missing: Missing) -> Array:
    """How many edits that are missing are the same, those of each: insertions at one place."""
    same = missing.kind[:, :, None] == missing.kind[:, None]
    same &= missing.place[:, :, None] == missing.place[:, None]
    return jnp.sum(same & (missing.token[:, :, None] == missing.token[:, None]), axis=-1)


def edits(network: Network, path: Any, *, weight: Callable[[Time], Array] | None = None) -> Loss:
    """The divergence (1) of the rates of edits, which bounds the log-likelihood.

    Args:
        network: `(params, t, x, *, key=None, **cond) -> mapping` of `"log_rates"`, `"insert"` and
            `"substitute"` (`paths.Edits.log_rates`), as `networks.EditTransformer`.
        path: `paths.edits(vocabulary)`.
        weight: one a time, `t -> w(t)`, or None for 1, which bounds the likelihood.

    Returns:
        A loss in nats a sequence; `aux["per_example"]` keeps the examples apart.

    Raises:
        TypeError: for a network or path that is none.
        ValueError: for another path.

    Havasi et al., Edit Flows: Flow Matching with Edit Operations, 2025, arXiv:2506.09018, eq. 23
    and appendix B.1, of which this keeps the constant, with rates by the clock.
    """
    check_network(network)
    check_made("path", path)
    if weight is not None:
        check_made("weight", weight)
    if not hasattr(path, "missing"):
        raise ValueError(
            f"{path!r} is no path of edits, paths.edits(vocabulary): its losses are cross_entropy "
            "and generalised_kl for tokens, flow_matching for real numbers"
        )
    return Edits(*traceable((network, path, weight)))

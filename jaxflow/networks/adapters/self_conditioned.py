r"""A network that reads its own estimate.

(1) $f(t, x) = g(t, x, \hat y)$ with the estimate $\hat y = g(t, x, 0)$

(2) in training $\hat y = m\,\mathrm{sg}(g(t, x, 0))$, with a coin $m$ an example and no gradient
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial, all_leaves

from jaxflow.checks import check_network
from jaxflow.records import record
from jaxflow.sharding import gathering
from jaxflow.types import Bool, Key, Network, Params, Sample

__all__ = ["SelfConditioned", "self_conditioned"]


@record
class SelfConditioned:
    """The network (1), which is (2) where a condition `estimated [batch]` holds the coins."""

    network: Any

    evaluations = 2

    gathers = gathering("network")

    def init(self, key: Key | None, t: Any, x: Sample, **cond: Any) -> Params:
        """The parameters of the network that takes an estimate."""
        return self.network.init(key, t, x, **self._first(x, cond))

    def init_on_host(self, key: Key | None, t: Any, x: Sample, **cond: Any) -> Params:
        """The same as NumPy arrays, where the network has such."""
        return self.network.init_on_host(key, t, x, **self._first(x, cond))

    def __call__(
        self,
        params: Params,
        t: Any,
        x: Sample,
        *,
        key: Key | None = None,
        estimated: Bool[Any, "batch"] | None = None,
        **cond: Any,
    ) -> Any:
        estimate = self.network(params, t, x, key=key, **self._first(x, cond))
        if estimated is not None:
            coins = jnp.asarray(estimated)
            estimate = jax.lax.stop_gradient(estimate)
            estimate = jax.tree.map(lambda a: jnp.where(_rows(coins, a), a, 0), estimate)
        estimate = jax.tree.map(lambda a, b: a.astype(_kind(b)), estimate, x)
        return self.network(params, t, x, key=key, estimate=estimate, **cond)

    def _first(self, x: Sample, cond: dict[str, Any]) -> dict[str, Any]:
        others = {name: value for name, value in cond.items() if name != "estimated"}
        return {**others, "estimate": jax.tree.map(self._none, x)}

    def _none(self, x: Any) -> Any:
        """Zeros as `x`; of tokens, logits that tell none from another."""
        if jnp.issubdtype(jnp.result_type(x), jnp.floating):
            return jnp.zeros_like(x)
        size = getattr(self.network, "vocabulary", None)
        if size is None:
            raise ValueError(
                f"x is {jnp.result_type(x)}, tokens, and {self.network!r} has no vocabulary, by "
                "which the logits of an estimate are known: that of a networks.Transformer has"
            )
        return jnp.zeros((*jnp.shape(x), size))


def _kind(x: Any) -> Any:
    """What an estimate of `x` is read as: of tokens their logits, real numbers."""
    kind = jnp.result_type(x)
    return kind if jnp.issubdtype(kind, jnp.floating) else jnp.result_type(jnp.float32)


def _rows(coins: Any, a: Any) -> Any:
    return coins.reshape(coins.shape + (1,) * (a.ndim - 1))


def self_conditioned(network: Network) -> SelfConditioned:
    """Two passes of a network, the second of which reads what the first said (1).

    Train it with any loss, and with the coins of `draws.self_condition`: as (2), an example sees
    its estimate or zeros, and the first pass has no gradient. As a velocity it is called without
    coins: both passes, at every call, so that it remains a function of `(t, x)` that every solver
    and likelihood takes, and its gradient is whole. `evaluations` says 2.

    Args:
        network: takes a condition `estimate`, of the shape of `x`: an output of its own, in the
            kind that it predicts, or zeros. Of tokens those are logits.

    Raises:
        TypeError: for a module that is no network yet.

    Chen et al., Analog Bits: Generating Discrete Data using Diffusion Models with
    Self-Conditioning, 2022, arXiv:2208.04202. There a sampler hands the estimate of
    the data on from its last step, at one call a step: a memory that an adaptive solver, a
    likelihood or a step of two stages has no place for. Here the estimate is always of the point
    itself, as in training, and of the kind that the network predicts: for a data prediction the
    paper's.

    >>> from jaxflow.networks import function
    >>> halves = function(lambda params, t, x, estimate: params * x + estimate / 2)
    >>> self_conditioned(halves)(1.0, None, jnp.ones(1))
    Array([1.5], dtype=float32)
    """
    check_network(network)
    return SelfConditioned(Partial(network) if all_leaves([network]) else network)

r"""The generalised Kullback-Leibler divergence of jump rates: a bound on the evidence of tokens.

(1) $L(\theta) = E_{t, x_0, x_1}\; \frac{1}{d} \sum_i \sum_{y \ne x^i} \left[ u \log \frac{u}{v}
    - u + v \right]$, $u = u_t^i(y, x \mid x_1)$ and $v = u_t^{\theta, i}(y, x)$

with the rates of the path and those that the network's posterior defines on it. With times uniform
over $[0, 1]$, $d$ times its mean is at least $-\log p_\theta(x_1)$. The path has it in closed form,
`path.divergence`: of a mixture those of noising run backwards (`jaxflow.paths.backwards`), with
which the bound is tight, the entropy of the data at the exact posterior. Of a mask source it is the
weighted cross-entropy of the masked tokens,

(2) $\frac{1}{d} \frac{\dot\kappa_t}{1 - \kappa_t} \sum_{i\ \mathrm{masked}}
    -\log p_\theta(x_1^i \mid x_t)$

whose mean depends on the schedule only as far as the network reads the time. What is left of the
noise at the end of the path's interval costs the cross-entropy there more: 1e-5 of a token's, but
for `paths.gidd`, whose other noise goes as a root of the time, a hundredth of a bit. Other times
need the weight by which they stand for uniform ones, `losses.weights.importance`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from jaxflow.checks import check_made, check_network
from jaxflow.losses.cross_entropy import check_not_edits, predicted
from jaxflow.losses.errors import mean_error
from jaxflow.records import record, traceable
from jaxflow.sharding import gathering
from jaxflow.types import Array, Batch, Held, Key, Loss, Network, Params, Time

__all__ = ["generalised_kl"]


@record
class GeneralisedKL:
    """The loss (1) of a network of logits on a path of tokens."""

    network: Network
    path: Any
    weight: Callable[[Time], Array] | None

    gathers = gathering("network")

    def __call__(
        self, params: Params, key: Key | None, batch: Batch, held: Held | None = None
    ) -> tuple[Array, Mapping[str, Any]]:
        """The mean over examples in nats a token, and `{"per_example": [batch]}`.

        Raises:
            ValueError: as `cross_entropy`.
        """
        sample, logits = predicted(self.network, self.path, params, key, batch)
        apart = self.path.divergence(sample.t, sample.x, sample.x1, logits)
        per_example = mean_error(apart, t=sample.t, weight=self.weight, mask=batch.get("mask"))
        return jnp.mean(per_example), {"per_example": per_example}


def generalised_kl(
    network: Network, path: Any, *, weight: Callable[[Time], Array] | None = None
) -> Loss:
    """The divergence (1) of the rates, which bounds the log-likelihood.

    Args:
        network: `(params, t, x, *, key=None, **cond) -> logits [batch, *event, vocabulary]`.
        path: of tokens, `paths.mixture` or `paths.metric`.
        weight: one a time, `t -> w(t)`, or None for 1, which bounds the likelihood.

    Returns:
        A loss in nats a token; `aux["per_example"]` keeps the examples apart.

    Raises:
        TypeError: for a network or path that is none.
        ValueError: for a path of real numbers.

    Shaul et al., Flow Matching with General Discrete Paths, 2024, arXiv:2412.03487; for masks Shi
    et al., Simplified and Generalized Masked Diffusion for Discrete Data, 2024, arXiv:2406.04329.
    """
    check_network(network)
    check_made("path", path)
    if weight is not None:
        check_made("weight", weight)
    check_not_edits(path)
    if not hasattr(path, "divergence"):
        raise ValueError(
            f"{path!r} is a path of real numbers, whose loss is flow_matching: this one is of "
            "tokens, on paths.mixture(...) or paths.metric(...)"
        )
    return GeneralisedKL(*traceable((network, path, weight)))

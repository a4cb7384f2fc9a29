r"""Velocity and score of a path with noise of its own, learned together.

On $x_t = \alpha x_1 + \sigma x_0 + \gamma z$ the score is the regression of $-z / \gamma$ on $x_t$,
which is infinite where $\gamma = 0$. The second network's output $o$ is the score in units of the
widest noise $\bar\gamma = \max_t \gamma(t)$, and its error is weighted by $\lambda$:

(1) $s(t, x) = o(t, x) / \bar\gamma$ and $\lambda(t) = \gamma(t) / \bar\gamma$, so that
$\lambda\, (o + \bar\gamma z / \gamma) = \lambda\, o + z$

(2) $L = E\; w(t)\, \left( \| f(t, x_t) - u_t \|^2 + \| \lambda(t)\, o(t, x_t) + z \|^2 \right) / d$

Nothing in the second part is divided by $\gamma$: it is at most $(|o| + |z|)^2$ at every time.
Its minimum is $\lambda o = -E[z \mid x_t]$, which by (1) is the marginal score, for every coupling.
Where $\gamma$ is constant $\lambda$ is 1, and the marginals at the ends too are widened by it.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.arrays import at_least_float32, expand
from jaxflow.checks import check_made, check_network
from jaxflow.losses.errors import squared_error
from jaxflow.losses.flow_matching import check_alike, check_complete
from jaxflow.paths.interpolant import Interpolant
from jaxflow.records import record, traceable
from jaxflow.sharding import gathering
from jaxflow.types import Array, Batch, Held, Key, Loss, Network, Params, Path, Time
from jaxflow.velocities.score_network import check_noisy

__all__ = ["flow_and_score"]

PARTS = ("flow", "score")


@record
class FlowAndScore:
    """The loss (2) of two networks on a path."""

    flow: Network
    score: Network
    path: Interpolant
    weight: Callable[[Time], Array] | None

    gathers = gathering("flow", "score")

    def __call__(
        self, params: Params, key: Key | None, batch: Batch, held: Held | None = None
    ) -> tuple[Array, Mapping[str, Any]]:
        """The mean over examples, and `per_example`, `flow` and `score`, each `[batch]`.

        Raises:
            ValueError: where a network's output differs from the data in shape, the parameters are
                not those of both, or the batch was not completed by a draw.
        """
        if not isinstance(params, Mapping) or set(params) != set(PARTS):
            found = sorted(params) if isinstance(params, Mapping) else type(params).__name__
            raise ValueError(
                "flow_and_score learns two networks, params={'flow': ..., 'score': ...}; "
                f"got {found}"
            )
        check_complete(batch)
        z: Any = batch.get("z")
        sample = self.path(batch["t"], batch["x0"], batch["x1"], z)
        keys = {} if key is None else dict(zip(PARTS, jax.random.split(key), strict=True))
        outputs = {
            name: network(
                params[name], sample.t, sample.x, key=keys.get(name), **batch.get("cond", {})
            )
            for name, network in zip(PARTS, (self.flow, self.score), strict=True)
        }
        for output in outputs.values():
            check_alike(output, sample.x)
        t: Any = at_least_float32(batch["t"])
        share = expand(self.path.gamma(t) / self.path.widest, sample.x)
        how = {"t": t, "weight": self.weight, "mask": batch.get("mask")}
        flow = squared_error(outputs["flow"], sample.u, **how)
        score = squared_error(share * outputs["score"], -z, **how)
        per_example = flow + score
        return jnp.mean(per_example), {"per_example": per_example, "flow": flow, "score": score}


def flow_and_score(
    flow: Network,
    score: Network,
    path: Path,
    *,
    weight: Callable[[Time], Array] | None = None,
) -> Loss:
    """The velocity and the score of a bridge, by two networks in one loss (2).

    Their parameters are `params["flow"]` and `params["score"]`. Afterwards
    `velocities.from_network(flow, params["flow"], path=path)` is the probability flow, and
    `velocities.score_from_network(score, params["score"], path)` the score, for any coupling.

    Args:
        flow: any pure `(params, t, x, *, key=None, **cond) -> velocity`.
        score: the same, whose output is the score in units of the widest noise, (1).
        path: one with noise of its own: `paths.bridge(sigma)` or `paths.interpolant(gamma=...)`.
        weight: one a time, of both parts, `t -> w(t)` of the shape of `t`, or None for 1. Define a
            function of your own once, at the top of a module: functions are compared by identity.

    Returns:
        A loss; `aux` holds the error of each example, `per_example`, and its parts `flow`, `score`.
        `batch["mask"]` says which entries count, as in `flow_matching`.

    Raises:
        TypeError: for a network that is none, or a path without noise of its own.

    Tong et al., Simulation-free Schroedinger bridges via score and flow matching, 2023,
    arXiv:2307.03672. There the score's network predicts `sigma^2 / 2` times the score of a bridge,
    which is `sigma` times ours, and lambda is `2 sqrt(t (1 - t)) / sigma`, ours over `sigma`: the
    errors are equal, and ours keep their size for any `sigma` and any gamma.
    """
    check_network(flow)
    check_network(score)
    if weight is not None:
        check_made("weight", weight)
    path = check_noisy("flow_and_score", path)
    return FlowAndScore(*traceable((flow, score, path, weight)))

r"""The conditional flow matching loss.

(1) $L(\theta) = E_{t, x_0, x_1}\; w(t)\, \| f_\theta(t, x_t) - y_t \|^2 / d$

where $y_t$ is the conditional velocity $u_t$, the data $x_1$, the noise $x_0$ or the conditional
score. Its gradient is that of the regression on the marginal quantity, so its minimum is the
marginal velocity $v(t, x) = E[u_t \mid x_t = x]$ (or the posterior mean of the data, ...).
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from jaxflow.arrays import event_mean
from jaxflow.records import record, static
from jaxflow.types import Array, Batch, Held, Key, Loss, Network, Params, Path, Time
from jaxflow.velocities.prediction import check_kind, conversion_interval, convert

__all__ = ["flow_matching"]


@record
class FlowMatching:
    """The loss (1) of a network on a path."""

    network: Network = static()
    path: Path
    prediction: str = static()
    regress: str = static()
    weight: Callable[[Time], Array] | None = static()

    def __call__(
        self, params: Params, key: Key | None, batch: Batch, held: Held | None = None
    ) -> tuple[Array, Mapping[str, Any]]:
        """The mean over examples, and `{"per_example": [batch]}`.

        Raises:
            ValueError: where the network's output differs from the data in shape, or the batch
                was not completed by a draw.
        """
        missing = [name for name in ("t", "x0", "x1") if name not in batch]
        if missing:
            raise ValueError(
                f"the batch lacks {', '.join(missing)}: complete it with a draw, "
                "draws.standard(path)(key, batch)"
            )
        sample = self.path(batch["t"], batch["x0"], batch["x1"], batch.get("z"))
        output = self.network(params, sample.t, sample.x, key=key, **batch.get("cond", {}))
        if output.shape != sample.x.shape:
            raise ValueError(
                f"the network returns shape {output.shape} for data of shape {sample.x.shape}: "
                "give it as many output channels as the data has"
            )
        targets = {
            "velocity": sample.u,
            "data": sample.x1,
            "noise": sample.x0,
            "score": sample.score,
        }
        predicted = convert(
            output,
            sample.t,
            sample.x,
            path=self.path,
            source=self.prediction,
            target=self.regress,
        )
        per_example = event_mean(jnp.square(predicted - targets[self.regress]))
        if self.weight is not None:
            per_example = per_example * self.weight(sample.t)
        return jnp.mean(per_example), {"per_example": per_example}


def flow_matching(
    network: Network,
    path: Path,
    *,
    prediction: str = "velocity",
    regress: str | None = None,
    weight: Callable[[Time], Array] | None = None,
) -> Loss:
    """The flow matching loss (1): regression of a network along a path.

    Args:
        network: any pure `(params, t, x, *, key=None, **cond) -> output`.
        path: joins `x0` and `x1`; an affine one, where `prediction` is not "velocity" or
            `regress` differs from it.
        prediction: what the network's output means: "velocity", "data", "noise" or "score".
        regress: the space in which errors are squared; that of the prediction where None.
        weight: `t [batch] -> [batch]`, or None for 1. Define it once, at the top of a module:
            functions are compared by identity.

    Returns:
        A loss; `aux["per_example"]` holds the mean squared error of each example.

    Raises:
        ValueError: for an unknown prediction or space, or two that differ on a path without
            schedule.

    Lipman et al., Flow Matching for Generative Modeling, 2023, arXiv:2210.02747, eq. 9;
    Tong et al., Improving and Generalizing Flow-Based Generative Models, 2024, arXiv:2302.00482.
    """
    check_kind("prediction", prediction)
    check_kind("regress", regress or prediction)
    conversion_interval(path, prediction, regress or prediction)
    return FlowMatching(network, path, prediction, regress or prediction, weight)

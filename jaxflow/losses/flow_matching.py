r"""The conditional flow matching loss.

(1) $L(\theta) = E_{t, x_0, x_1}\; w(t)\, \| f_\theta(t, x_t) - y_t \|^2 / d$

where $y_t$ is the conditional velocity $u_t$, the data $x_1$, the noise $x_0$, the conditional
score or Salimans & Ho's v. Its gradient is that of the regression on the marginal quantity, so its
minimum is the marginal velocity $v(t, x) = E[u_t \mid x_t = x]$ (or the posterior mean of the data,
...). Of a sample of several parts the errors (1) of all parts are added.

Sets, padded sequences and partly observed data have entries that do not count. With `batch["mask"]`
the mean over $d$ in (1) is that over the $d_i$ entries of example $i$ which do, and an example with
none weighs nothing. The loss stays a plain mean over examples.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.checks import check_made, check_network
from jaxflow.losses.errors import squared_error
from jaxflow.paths.ends import interval_of, nonzero_interval, schedule_of
from jaxflow.records import record, static, traceable
from jaxflow.sharding import gathering
from jaxflow.types import (
    Array,
    Batch,
    Dependent,
    Held,
    Key,
    Loss,
    Network,
    Params,
    Path,
    PathSample,
    Time,
)
from jaxflow.velocities.prediction import check_kind, convert, divisors, salimans_ho

__all__ = ["check_alike", "check_complete", "flow_matching"]


@record
class FlowMatching:
    """The loss (1) of a network on a path."""

    network: Network
    path: Path
    weight: Callable[[Time], Array] | None
    prediction: str = static()
    regress: str = static()

    gathers = gathering("network")

    def __call__(
        self, params: Params, key: Key | None, batch: Batch, held: Held | None = None
    ) -> tuple[Array, Mapping[str, Any]]:
        """The mean over examples, and `{"per_example": [batch]}`.

        Raises:
            ValueError: where the network's output differs from the data in shape, the batch was
                not completed by a draw, a score is wanted of pairs that tell none, or the mask has
                another shape.
        """
        check_complete(batch)
        sample = self.path(batch["t"], batch["x0"], batch["x1"], batch.get("z"))
        target = self._target(sample, batch.get("z"))
        output = self.network(params, sample.t, sample.x, key=key, **batch.get("cond", {}))
        check_alike(output, sample.x)
        kinds = {"source": self.prediction, "target": self.regress}
        predicted = convert(output, sample.t, sample.x, path=self.path, **kinds)
        per_example = squared_error(
            predicted, target, t=sample.t, weight=self.weight, mask=batch.get("mask")
        )
        return jnp.mean(per_example), {"per_example": per_example}

    def _target(self, sample: PathSample, z: Any) -> Any:
        if "score" in (self.prediction, self.regress) and _has_dependent(z):
            raise ValueError(
                "no score is known where x0 is not a standard normal that is independent of x1, as "
                "under optimal transport or where the source is data: predict and regress the "
                "velocity, the data or the noise, or couple by couplings.independent()"
            )
        if self.regress == "salimans_ho":
            return salimans_ho(self.path, sample.t, sample.x0, sample.x1)
        target = {
            "velocity": sample.u,
            "data": sample.x1,
            "noise": sample.x0,
            "score": sample.score,
        }[self.regress]
        if len(jax.tree.leaves(target)) != len(jax.tree.leaves(sample.x)):
            raise ValueError(f"{self.path!r} has no {self.regress} for the loss to regress on")
        return target


def _has_dependent(z: Any) -> bool:
    leaves = jax.tree.leaves(z, is_leaf=lambda part: isinstance(part, Dependent))
    return any(isinstance(leaf, Dependent) for leaf in leaves)


def check_complete(batch: Batch) -> None:
    """Refuse a batch that no draw has completed.

    Raises:
        ValueError: naming what it lacks.
    """
    missing = [name for name in ("t", "x0", "x1") if name not in batch]
    if missing:
        raise ValueError(
            f"the batch lacks {', '.join(missing)}: complete it with a draw, "
            "draws.standard(path)(key, batch)"
        )


def check_alike(output: Any, x: Any) -> None:
    """Refuse a network's output of another shape than the data.

    Raises:
        ValueError: with both shapes.
    """
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (output, x)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"the network returns shape {shapes[0]} for data of shape {shapes[1]}: "
            "give it as many output channels as the data has"
        )


def _check_bounded(path: Path, prediction: str, regress: str) -> None:
    """Refuse a loss whose errors are carried by a coefficient that is infinite at an end."""
    for part in getattr(path, "parts", {"": path}).values():
        small = [
            name
            for name in divisors(prediction, regress)
            if nonzero_interval(schedule_of(part), name) != interval_of(part)
        ]
        if small:
            names = {name: 2 * small.count(name) for name in small}
            weight = " times ".join(
                f"losses.weights.{name}(path{'' if power == 2 else f', power={power}'})"
                for name, power in names.items()
            )
            raise ValueError(
                f"regressing a {prediction!r} prediction on the {regress} divides by "
                f"{' and '.join(names)}, which vanishes at an end of {part!r}, so that a few "
                f"examples make the loss: give weight={weight}, or losses.weights.constant() where "
                "the times avoid that end"
            )


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
            `regress` differs from it. A product of paths for data of several parts.
        prediction: what the network's output means, one of `velocities.KINDS`.
        regress: the space in which errors are squared; that of the prediction where None.
        weight: one a time, `t -> w(t)` of the shape of `t`, or None for 1. `losses.weights` has
            those that keep each loss finite. Define a function of your own once, at the top of a
            module: functions are compared by identity.

    Returns:
        A loss; `aux["per_example"]` holds the mean squared error of each example. Where the batch
        has a `"mask"`, bools `[batch, *leading event axes]` (a mapping of them, for several parts),
        it is the mean over the entries that are True, and no gradient comes from the others. The
        network is not told: give it what it needs among the conditions.

    Raises:
        ValueError: for an unknown prediction or space, two that differ on a path without
            schedule, or two of which the error is not bounded, where no weight is given.
        TypeError: for a network or path that is none.

    Lipman et al., Flow Matching for Generative Modeling, 2023, arXiv:2210.02747, eq. 9;
    Tong et al., Improving and Generalizing Flow-Based Generative Models, 2024, arXiv:2302.00482.
    """
    check_network(network)
    check_made("path", path)
    if weight is not None:
        check_made("weight", weight)
    check_kind("prediction", prediction)
    space = regress or prediction
    check_kind("regress", space)
    if weight is None:
        _check_bounded(path, prediction, space)
    network, path, weight = traceable((network, path, weight))
    return FlowMatching(network, path, weight, prediction, space)

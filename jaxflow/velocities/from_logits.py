"""The flow of soft tokens that a posterior defines."""

from collections.abc import Callable
from typing import Any

from jaxflow.checks import check_made
from jaxflow.records import record, traceable
from jaxflow.tokens import check_logits
from jaxflow.types import Array, Interval, Path, Velocity
from jaxflow.velocities.function import as_velocity

__all__ = ["from_logits"]


@record
class FromLogits:
    """The velocity of a path whose tokens have this posterior."""

    logits: Velocity
    path: Any

    @property
    def evaluations(self) -> int:
        """Those of the logits."""
        return self.logits.evaluations

    @property
    def interval(self) -> Interval:
        """Where the path's velocity is finite."""
        return self.path.interval

    def __call__(self, t: Any, x: Any, **cond: Any) -> Array:
        logits = self.logits(t, x, **cond)
        check_logits(logits, x[..., 0])
        return self.path.velocity(t, x, logits)


def from_logits(logits: Velocity | Callable[..., Any], path: Path) -> Velocity:
    """The velocity of soft tokens by the logits of a network.

    Args:
        logits: `(t, x, **cond) -> logits [batch, *event, vocabulary]`, of points `x` of that shape.
        path: `paths.fisher` or `paths.dirichlet`, that the network was trained on.

    Raises:
        ValueError: for a path of another kind; and, called, for logits of another shape.
    """
    check_made("path", path)
    if not hasattr(path, "velocity"):
        raise ValueError(
            f"{path!r} has no velocity of logits: soft tokens are of paths.fisher(vocabulary) "
            "or paths.dirichlet(vocabulary)"
        )
    return FromLogits(as_velocity(logits), traceable(path))

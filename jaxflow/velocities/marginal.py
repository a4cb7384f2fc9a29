"""What a velocity tells of the marginals that it transports: their score and posterior mean."""

from collections.abc import Callable
from typing import Any

from jaxflow.records import record, traceable
from jaxflow.types import Path, PyTree, Velocity
from jaxflow.velocities.function import as_velocity
from jaxflow.velocities.prediction import convert

__all__ = ["posterior_mean", "score"]


@record
class Score:
    """The score of the marginal density that a velocity transports."""

    velocity: Velocity
    path: Path

    def __call__(self, t: Any, x: Any, **cond: Any) -> Any:
        v = self.velocity(t, x, **cond)
        return convert(v, t, x, path=self.path, source="velocity", target="score")


def score(velocity: Velocity | Callable[..., PyTree], path: Path) -> Score:
    """The score of the marginals that `velocity` transports along `path`, `(t, x, **cond)`.

    By `convert`, and so for a velocity that was learned from pairs of standard normal noise and
    independent data. For any other coupling the velocity does not determine the score: between
    N(0, 1) and N(0, 9) under optimal transport this formula says -1 at t = .5, x = 1, where the
    score is -1/4.
    """
    return Score(as_velocity(velocity), traceable(path))


def posterior_mean(velocity: Velocity | Callable[..., PyTree], t: Any, x: Any, **cond: Any) -> Any:
    """`E[x1 | x_t = x]`, read off a velocity that knows its path; for any coupling.

    Raises:
        ValueError: where the velocity has no path.
    """
    path = as_velocity(velocity).path
    if path is None:
        raise ValueError(
            "the posterior mean needs the path: build the velocity by "
            "from_network(network, params, path=...)"
        )
    v = velocity(t, x, **cond)
    return convert(v, t, x, path=path, source="velocity", target="data")

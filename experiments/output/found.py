"""All that the page of a run is made of."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from experiments.output.buckets import Estimate, Losses, Norms, Saturation
from experiments.output.frontier import Point, Setting

__all__ = ["Commands", "Found", "seconds_spent"]


class Commands(NamedTuple):
    """What to type for what is missing, and for what is out of date."""

    train: str
    evaluate: str
    frontier: str
    frontier_of_own: str
    frontier_guided: str


class Found(NamedTuple):
    """All that is known of a run; None or empty where it is missing."""

    name: str
    config: Mapping[str, Any]
    commands: Commands
    step: int | None
    parameters: int | None
    lines: Sequence[Mapping[str, Any]]
    learning_rate: Sequence[float]
    pictures: Sequence[tuple[int, bytes]]
    losses: Losses | None
    norms: Norms | None
    straightness: Mapping[str, Sequence[Estimate]] | None
    saturation: Saturation | None
    evaluation: Mapping[str, Any] | None
    frontier: Mapping[str, Any] | None
    points: Sequence[Point]
    frontier_picture: bytes | None
    own: Setting | None
    starts: Mapping[str, Any] | None
    diagnosis: Mapping[str, Any] | None
    endless: bool
    of_tokens: bool = False


def seconds_spent(lines: Sequence[Mapping[str, Any]]) -> float:
    """Of all starts: the clock of a line begins anew where a run was resumed."""
    totals = [sum(v for k, v in line.items() if k.startswith("seconds/")) for line in lines]
    ended = [a for a, b in pairwise(totals) if b < a]
    return sum(ended) + (totals[-1] if totals else 0.0)

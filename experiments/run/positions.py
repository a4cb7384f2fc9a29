"""Which batch a step takes, where some batches of the data are left out."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.records import record, static
from jaxflow.types import Array, Batch

__all__ = ["Positions", "Shifted"]

Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Positions:
    """The positions in the data that are left out, as ranges `[start, stop)` in rising order."""

    left_out: Ranges = ()

    def of(self, step: Any) -> Any:
        """The position that a step reads: the `step`-th of those that are not left out."""
        for start, stop in self.left_out:
            after = step + (stop - start)
            step = (
                jnp.where(step >= start, after, step)
                if isinstance(step, jax.Array)
                else (after if step >= start else step)
            )
        return step

    def without(self, start: int, stop: int) -> "Positions":
        """Leave out what the steps `start` to `stop - 1` read, too."""
        taken = {i for a, b in self.left_out for i in range(a, b)}
        taken |= {self.of(step) for step in range(start, stop)}
        return Positions(tuple(_ranges(sorted(taken))))


def _ranges(places: Iterable[int]) -> Iterator[tuple[int, int]]:
    start = stop = None
    for place in places:
        if place == stop:
            stop = place + 1
            continue
        if start is not None and stop is not None:
            yield start, stop
        start, stop = place, place + 1
    if start is not None and stop is not None:
        yield start, stop


@record
class Shifted:
    """A stream whose step reads the position that `positions` says."""

    stream: Any
    positions: Positions = static()

    def batch(self, step: Array) -> Batch:
        """The batch of a step."""
        return self.stream.batch(self.positions.of(step))

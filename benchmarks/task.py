"""What a worker measures."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

__all__ = ["Task"]


def _nothing() -> Mapping[str, Any]:
    return {}


class Task(NamedTuple):
    """A piece of work that can be repeated.

    `run(k)` does `k` units and waits until they are done. A unit is `size` of what the case counts
    (steps, batches). `facts` go into the report, and so do those of `later()`, which is called once
    `run` has been timed for the first time. Where both sides give them, they must agree on
    `"parameters"`, on the `"loss"` to 1e-5 and on the `"points"` of a sampler to 0.01.
    """

    run: Callable[[int], None]
    facts: Mapping[str, Any]
    size: int = 1
    later: Callable[[], Mapping[str, Any]] = _nothing

"""What a worker measures."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

__all__ = ["Task"]


class Task(NamedTuple):
    """A piece of work that can be repeated.

    `run(k)` does `k` units and waits until they are done. A unit is `size` of what the case counts
    (steps, batches). `facts` go into the report; both sides' `"parameters"` must agree.
    """

    run: Callable[[int], None]
    facts: Mapping[str, Any]
    size: int = 1

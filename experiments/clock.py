"""Where the seconds of a run go."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Clock", "Rate"]


class Clock:
    """Seconds by what they were spent on; what was not measured was spent on steps."""

    BUCKETS = ("start", "compile", "data", "checkpoint", "pictures")

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(self.BUCKETS, 0.0)
        self._began = time.perf_counter()

    @contextmanager
    def __call__(self, bucket: str) -> Iterator[None]:
        """Spend the seconds of a block on a bucket."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[bucket] += time.perf_counter() - began

    def total(self) -> float:
        """Since the clock was made."""
        return time.perf_counter() - self._began

    def report(self) -> dict[str, float]:
        """All buckets, steps among them; they sum to the total."""
        total = self.total()
        return {**self.seconds, "steps": total - sum(self.seconds.values())}


class Rate:
    """The rate of steps between two lines of the log, what is not training left out."""

    def __init__(self, clock: Clock, step: int):
        self._clock = clock
        self._step = step
        self._at = self._training()

    def _training(self) -> float:
        found = self._clock.report()
        return found["steps"] + found["data"] + found["compile"]

    def at(self, step: int) -> float:
        """Steps a second since the last time it was asked."""
        now = self._training()
        rate = (step - self._step) / max(now - self._at, 1e-9)
        self._step, self._at = step, now
        return rate

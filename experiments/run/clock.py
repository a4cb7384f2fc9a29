"""Where the seconds of a run go."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Clock", "Rate"]


class Clock:
    """Seconds by what they were spent on: each belongs to the innermost block, or else to steps."""

    BUCKETS = ("start", "compile", "data", "checkpoint", "pictures", "steps")

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(self.BUCKETS, 0.0)
        self._bucket = "steps"
        self._since = time.perf_counter()

    @contextmanager
    def __call__(self, bucket: str) -> Iterator[None]:
        """Spend the seconds of a block on a bucket."""
        outer = self._turn_to(bucket)
        try:
            yield
        finally:
            self._turn_to(outer)

    def report(self) -> dict[str, float]:
        """All buckets; they sum to the seconds since the clock was made."""
        self._turn_to(self._bucket)
        return dict(self._seconds)

    def _turn_to(self, bucket: str) -> str:
        """The bucket until now, which is charged."""
        now = time.perf_counter()
        self._seconds[self._bucket] += now - self._since
        self._since = now
        before, self._bucket = self._bucket, bucket
        return before


class Rate:
    """The rate of steps between two lines of the log, what is not training left out.

    It begins after the first call, `step`, whose seconds are those of compiling.
    """

    def __init__(self, clock: Clock, step: int):
        self._clock = clock
        self._step = step
        self._at = self._training()

    def _training(self) -> float:
        found = self._clock.report()
        return found["steps"] + found["data"]

    def at(self, step: int) -> float | None:
        """Steps a second since the last time it was asked; None where none was taken."""
        now = self._training()
        taken, seconds = step - self._step, now - self._at
        self._step, self._at = step, now
        return taken / seconds if taken > 0 and seconds > 0 else None

"""A thread that ends a run which has stopped moving, and says where every thread stood."""

import faulthandler
import sys
import threading
import time
from types import TracebackType

from experiments.run.exits import LOST, leave

__all__ = ["Watchdog"]


class Watchdog:
    """Ends the process where `beat` was not called for a while; use it in a `with` block.

    A run can stall without an error: a peer that is alive but stuck, a hung file system. The
    stacks of all threads go to standard error, and the process ends with exit code 76, so that
    whoever started it can start it again.

    Args:
        seconds: how long without a beat; 0 never ends anything.
    """

    def __init__(self, seconds: float):
        if not seconds >= 0:
            raise ValueError(f"seconds must not be negative; got {seconds}")
        self.seconds = seconds
        self._last = time.monotonic()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="jaxflow-watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self.beat()
        if self.seconds:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closed.set()

    def beat(self) -> None:
        """The run has moved."""
        self._last = time.monotonic()

    def _watch(self) -> None:
        while not self._closed.wait(min(self.seconds / 10, 10.0)):
            still = time.monotonic() - self._last
            if still > self.seconds:
                self._end(still)

    def _end(self, still: float) -> None:
        sys.stderr.write(
            f"error: nothing moved for {still:.0f} s; the stacks of all threads follow, and the "
            "same command goes on from the last checkpoint\n"
        )
        sys.stderr.flush()
        faulthandler.dump_traceback(all_threads=True)
        sys.stderr.flush()
        leave(LOST)

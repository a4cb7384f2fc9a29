"""Word that the machine is about to be taken: SIGTERM, in one process or in many."""

import signal
from types import FrameType, TracebackType

import jax
from jax.experimental import multihost_utils

__all__ = ["Preemption"]


class Preemption:
    """Listens for SIGTERM while open; use it in a `with` block around the training loop.

    Where processes were joined by `connect`, JAX listens itself, and spreads the word until all
    agree on a step to stop at; in a process alone a handler of ours takes note of the signal.
    """

    def __init__(self) -> None:
        self._told = False
        self._before: object = None
        self._joined = jax.distributed.is_initialized()

    def __enter__(self) -> "Preemption":
        if not self._joined:
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._joined:
            signal.signal(signal.SIGTERM, self._before)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._told = True

    def reached(self, step: int) -> bool:
        """Whether all processes are to save and stop now.

        Args:
            step: counts up by one; every process must ask at every step.
        """
        if self._joined:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._told

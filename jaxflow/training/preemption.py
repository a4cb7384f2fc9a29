"""Word that a run is to stop: SIGTERM or Ctrl-C, in one process or in many."""

import itertools
import os
import signal
from types import FrameType, TracebackType
from typing import Any

import jax
from jax.experimental import multihost_utils

__all__ = ["Preempted", "Preemption"]

# JAX compares it with the moment of the word in all processes, so it begins alike in all of them,
# wherever the run does, and goes on over the blocks of a process.
_ASKED = itertools.count(1)


class Preempted(Exception):
    """The run was told to stop, and has saved; `interrupted` tells whether by Ctrl-C."""

    def __init__(self, step: int, *, interrupted: bool = False):
        said = "interrupted" if interrupted else "told to stop"
        super().__init__(f"{said}: saved at step {step}; the same command goes on from there")
        self.step = step
        self.interrupted = interrupted


class Preemption:
    """Listens for SIGTERM and SIGINT while open; a `with` block around the training loop.

    Where processes were joined by `connect`, JAX listens for SIGTERM itself, and spreads the word
    until all agree on a moment to stop at. A second SIGINT interrupts at once.

    Attributes:
        interrupted: whether it was SIGINT that reached this process.
    """

    def __init__(self) -> None:
        self.interrupted = False
        self._told = False
        self._before: dict[int, Any] = {}
        self._joined = jax.distributed.is_initialized()

    def __enter__(self) -> "Preemption":
        handlers = {signal.SIGINT: self._interrupt}
        if not self._joined:
            handlers[signal.SIGTERM] = self._note
        self._before = {number: signal.signal(number, f) for number, f in handlers.items()}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._told = True

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True
        os.kill(os.getpid(), signal.SIGTERM)

    def reached(self) -> bool:
        """Whether all processes are to save and stop now; each must ask, equally often."""
        if self._joined:
            return multihost_utils.reached_preemption_sync_point(next(_ASKED))
        return self._told

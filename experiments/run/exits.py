"""How a command ends: its exit codes.

| code | meaning |
|---|---|
| 0 | done |
| 1 | a wrong flag or config key, or an error that nobody foresaw, with its traceback |
| 2 | what the sentence says |
| 75 | told to stop (SIGTERM) and saved: the same command goes on |
| 76 | stalled, a process lost or not met, or the folder in use: the same command goes on |
| 130 | interrupted (Ctrl-C: saved, as 75; twice: at once) |
| 134 | as 76, where JAX noticed first that another process was lost |
"""

import os
import sys
from typing import NoReturn

__all__ = ["INTERRUPTED", "LOST", "PREEMPTED", "REFUSED", "WRONG_FLAG", "leave"]

WRONG_FLAG, REFUSED, PREEMPTED, LOST, INTERRUPTED = 1, 2, 75, 76, 130


def leave(code: int) -> NoReturn:
    """End this process and its workers at once, without waiting for peers who may never come."""
    if "multiprocessing" in sys.modules:
        for child in sys.modules["multiprocessing"].active_children():
            child.kill()
    os._exit(code)

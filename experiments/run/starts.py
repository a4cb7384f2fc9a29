"""Starts that lead nowhere, counted in the run's folder, so that nobody restarts it for ever.

Whoever restarts a run sees exit codes alone, and one process's own error ends the others as lost.
What tells a run that cannot go on is that it starts again and again from the same step.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import jax
from etils import epath

from experiments.run import workdir
from jaxflow.training import Preempted, processes

__all__ = ["FRUITLESS", "counted"]

FRUITLESS = 10


@contextmanager
def counted(folder: epath.Path, step: int) -> Iterator[None]:
    """A run from `step` on; its count is forgotten where it ends well or is ended on purpose.

    An error of a single process is told to whoever reads it, and not counted either.

    Raises:
        ValueError: in every process, where it is one start too many.
    """
    file = folder / "starts.json"
    starts = _before(file, step) + 1
    if not processes.agree(starts <= FRUITLESS):
        raise ValueError(
            f"this run was started {FRUITLESS} times at step {step} and reached no checkpoint: "
            "find out why (its logs; or checkpoint.every is too long for machines that are taken "
            f"away), delete {file}, and start it again"
        )
    if processes.is_first():
        workdir.write_json(file, {"step": step, "starts": starts})
    try:
        yield
    except (Preempted, KeyboardInterrupt):
        _forget(file)
        raise
    except Exception:
        if jax.process_count() == 1:
            _forget(file)
        raise
    _forget(file)


def _before(file: epath.Path, step: int) -> int:
    try:
        found = json.loads(file.read_text())
        return int(found["starts"]) if found["step"] == step else 0
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _forget(file: epath.Path) -> None:
    if processes.is_first():
        with suppress(OSError):
            file.unlink(missing_ok=True)

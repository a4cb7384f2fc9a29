"""The folder of a run: its config, checkpoints, metrics and pictures.

config.json        the config that the run was started with
teacher.json       what the velocity of its teacher is made of, where it has one
checkpoints/       by step
.lock              held by the run that is at work here
metrics.jsonl      a line each `log.every` steps, with the seconds spent on what
starts.json        how often in a row it was started from one step; gone after a good end
diagnosis.json     what was found where too many steps in a row were not finite
profile/           a trace, where one was asked for
tensorboard/       the same, as events
samples/*.png      pictures as training goes
loss.png           the loss curve
evaluation.json    what `evaluate` found
frontier.json      what `frontier` measured, and frontier.png, a picture of it
report.html        the page of `report`
movie.gif          what `movie` filmed, and movie.png, the ways of points
"""

import fcntl
import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import IO, Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from experiments.setup import teacher
from experiments.setup.snapshot import CONFIG, read_config
from jaxflow.training import processes

__all__ = [
    "append_line",
    "create",
    "forget_after",
    "held",
    "read_config",
    "read_lines",
    "write_json",
]

TEACHER = "teacher.json"
LOCK = ".lock"
HELD_SECONDS = 20.0
SEEN_SECONDS = 10.0
MAY_CHANGE = (
    "steps",
    "teacher",
    "data.source.kwargs.data_dir",
    "data.workers",
    "data.unreadable_at_most",
    "parallel",
    "checkpoint",
    "health",
    "log",
    "sampler",
    "evaluation",
)


def create(workdir: epath.Path, config: ConfigDict) -> None:
    """Make the folder, and write the config into it or compare it with the one there.

    A run that has saved nothing yet gives way to another config.

    Raises:
        ValueError: where the folder belongs to a run of another config, naming what differs; in
            every process, where they have different configs or do not see the same folder.
        OSError: where the folder cannot be written.
    """
    snapshot = workdir / CONFIG
    if not processes.alike(config.to_json(sort_keys=True)):
        raise ValueError("the processes were started with different configs: start all alike")
    taught = teacher.made_of(config)
    if snapshot.exists() and _has_saved(workdir):
        _refuse_another(workdir, read_config(workdir), config)
        _refuse_another_teacher(workdir, taught, config.teacher)
    if processes.is_first():
        for folder in (workdir, workdir / "samples", workdir / "checkpoints"):
            _make(folder)
        _write_whole(snapshot, config.to_json(indent=2))
        _keep_teacher(workdir / TEACHER, taught)
    _check_shared(workdir)


def _check_shared(workdir: epath.Path) -> None:
    """Refuse a folder in which a process does not find what the first one has just written."""
    if jax.process_count() == 1:
        return
    random = np.frombuffer(uuid.uuid4().bytes, np.uint8)[None]
    token = workdir / f".seen-{processes.gathered(random)[0].tobytes().hex()}"
    if processes.is_first():
        token.touch()
    processes.together("jaxflow workdir")
    everywhere = processes.agree(_until(token.exists, SEEN_SECONDS))
    if processes.is_first():
        token.unlink()
    if not everywhere:
        raise ValueError(
            f"{workdir} must be one folder that every process sees, and it is not: give all of "
            "them one on a shared disk or at gs://"
        )


@contextmanager
def held(workdir: epath.Path) -> Iterator[None]:
    """The folder, made where it is missing, for this run alone as far as a file system can tell.

    Raises:
        BlockingIOError: where another run still has it after some seconds.
        OSError: where it cannot be written.
    """
    if "://" in str(workdir) or not processes.is_first():
        yield
        return
    _make(workdir)
    with (workdir / LOCK).open("w") as file:
        if not _until(partial(_locks, file), HELD_SECONDS):
            raise BlockingIOError(
                f"another run is at work in {workdir}: wait until it has ended, or choose another "
                "folder"
            )
        yield


def _make(folder: epath.Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file: choose a folder for the run")
    folder.mkdir(parents=True, exist_ok=True)


def _until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether it came true in that time."""
    end = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < end:
        time.sleep(0.2)
    return met


def _locks(file: IO[Any]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks tells nothing
    return True


def write_json(path: epath.Path, value: Mapping[str, Any]) -> None:
    """Write a mapping, whole or not at all."""
    _write_whole(path, json.dumps(value, indent=2))


def append_line(path: epath.Path, line: Mapping[str, Any]) -> None:
    """Add a line of JSON. An object store takes no additions: there the file is written anew."""
    text = json.dumps(line) + "\n"
    if "://" in str(path):
        _write_whole(path, (path.read_text() if path.exists() else "") + text)
        return
    with path.open("a") as file:
        file.write(text)


def read_lines(path: epath.Path) -> list[dict[str, Any]]:
    """All lines of a step; one that is torn or damaged is left out."""
    if not path.exists():
        return []
    lines = [_parsed(text) for text in path.read_bytes().splitlines()]
    return [line for line in lines if isinstance(line.get("step"), int)]


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except ValueError:
        return {}
    return line if isinstance(line, dict) else {}


def forget_after(path: epath.Path, step: int) -> None:
    """Drop lines of steps after `step`, which a resumed run will write again."""
    lines = read_lines(path)
    kept = [line for line in lines if line["step"] <= step]
    if path.exists():
        _write_whole(path, "".join(json.dumps(line) + "\n" for line in kept))


def _write_whole(path: epath.Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)


def _has_saved(workdir: epath.Path) -> bool:
    folder = workdir / "checkpoints"
    return folder.exists() and any(p.name.isdecimal() for p in folder.iterdir())


def _refuse_another(workdir: epath.Path, before: ConfigDict, now: ConfigDict) -> None:
    changes = _changes(json.loads(before.to_json()), json.loads(now.to_json()), MAY_CHANGE)
    if changes:
        raise ValueError(
            f"{workdir} holds a run of another config ({changes}): use another --workdir, or the "
            f"config of that run ({', '.join(MAY_CHANGE)} may change)"
        )


def _keep_teacher(file: epath.Path, taught: Mapping[str, Any]) -> None:
    if taught:
        write_json(file, taught)
    else:
        file.unlink(missing_ok=True)


def _refuse_another_teacher(workdir: epath.Path, now: Mapping[str, Any], name: str) -> None:
    """The state holds the teacher's parameters, and its folder how they are read."""
    file = workdir / TEACHER
    changes = _changes(json.loads(file.read_text()) if file.exists() else {}, now)
    if changes:
        raise ValueError(
            f"{workdir} holds a run of another teacher than config.teacher={name!r} ({changes}): "
            "name the one that it began with, as it was then, or use another --workdir"
        )


def _changes(before: Any, now: Any, free: tuple[str, ...] = ()) -> str:
    """What differs, but for what is free to."""
    old, new = dict(_flat(before)), dict(_flat(now))
    return "; ".join(
        f"{key} was {old.get(key)!r} and is {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
        and not any(f"{key}.".startswith(f"{each}.") for each in free)
    )


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix, value

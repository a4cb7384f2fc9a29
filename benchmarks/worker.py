"""One side of a measurement: a process that answers one JSON line for each it reads.

| request | reply |
|---|---|
| `{"prepare": "module:factory", "options": {...}}` | `facts`, `versions`, seconds of `phases` |
| `{"run": k}` | `seconds`, for one of what the case counts |

A reply may also be `{"missing": package}`, or `{"error": sentence}` with the traceback on stderr.
"""

import importlib
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import Any, TextIO

from benchmarks.task import Task

PACKAGES = (
    "jax", "jaxlib", "flax", "optax", "diffrax", "numpy", "scipy",
    "torch", "torchcfm", "flow_matching", "torchdiffeq", "diffusers", "pot",
    "stix-ml", "hackable-diffusion", "kauldron", "ott-jax",
)  # fmt: skip


def keep_to(threads: int) -> None:
    """Keep this process to the first `threads` of its cores, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def prepare(name: str, options: Mapping[str, Any]) -> tuple[Task, dict[str, float]]:
    """Import, build and run the task once; and the seconds that each took."""
    module, factory = name.split(":")
    start = time.perf_counter()
    found = importlib.import_module(module)
    imported = time.perf_counter()
    task = getattr(found, factory)(**options)
    built = time.perf_counter()
    task.run(1)
    ran = time.perf_counter()
    return task, {"import": imported - start, "build": built - imported, "first": ran - built}


def measure(task: Task, k: int) -> float:
    """Seconds for one of what the case counts, over `k` units."""
    start = time.perf_counter()
    task.run(k)
    return (time.perf_counter() - start) / (k * task.size)


def versions() -> dict[str, str]:
    """Those of Python and of the packages that are installed here."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def serve(requests: Iterable[str], replies: TextIO) -> None:
    """Answer until the requests end."""
    task: Task | None = None
    for line in requests:
        request = json.loads(line)
        try:
            if "prepare" in request:
                task, phases = prepare(request["prepare"], request["options"])
                facts = {**task.facts, **task.later()}
                reply = {"facts": facts, "versions": versions(), "phases": phases}
            else:
                reply = {"seconds": measure(task, request["run"])}
        except ModuleNotFoundError as error:
            reply = {"missing": error.name}
        except Exception as error:
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {error}"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    keep_to(int(sys.argv[1]))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not mix with the replies
    serve(sys.stdin, answers)

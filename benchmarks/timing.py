"""Two workers driven in turn, A B A B; their medians, and the ratio pair by pair."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Case", "Effort", "Setting", "Side", "Worker", "measure"]

ROOT = Path(__file__).parent.parent
AGREE = {"parameters": 0, "loss": 1e-5, "points": 0.01}


class Side(NamedTuple):
    """A factory of a `Task`, as "benchmarks.ours.steps:dit", and its options."""

    factory: str
    options: Mapping[str, Any]


class Case(NamedTuple):
    """One row of the table: the same work on both sides.

    `goal` is the ratio of the peer's seconds to ours that is to be reached, if there is one. With
    `startup` it is the whole life of a process up to the end of its first unit that is timed.
    `pythons` are the interpreters of the two sides, by their names in a `Setting`.
    """

    name: str
    unit: str
    ours: Side
    peer: Side
    goal: float | None = None
    startup: bool = False
    pythons: tuple[str, str] = ("ours", "peer")


class Effort(NamedTuple):
    """How long to measure: `rounds` pairs, each side about `seconds` a round."""

    rounds: int
    seconds: float


class Setting(NamedTuple):
    """The interpreters, the threads of a side, and what is added to its environment.

    `ours` has jaxflow, `peer` the PyTorch peers, `rivals` the JAX libraries and jaxflow, so that
    both sides beside those run on the same jax.
    """

    ours: str = sys.executable
    peer: str = sys.executable
    rivals: str = sys.executable
    threads: int = os.cpu_count() or 1
    environment: Mapping[str, str] = {}


class Worker:
    """A process that prepares a task and runs it when asked."""

    def __init__(self, python: str, setting: Setting):
        threads = str(setting.threads)
        variables = {
            **os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads,
            "OPENBLAS_NUM_THREADS": threads, **setting.environment,
        }  # fmt: skip
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.worker", threads],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=variables,
        )  # fmt: skip

    def ask(self, **request: Any) -> dict[str, Any]:
        """The reply to one request; an error where the worker met one or is gone."""
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return {"error": f"the worker ended with exit code {self._process.wait()}"}
        line = self._process.stdout.readline()
        if not line:
            return {"error": f"the worker ended with exit code {self._process.wait()}"}
        return json.loads(line)

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *error: object) -> None:
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


def measure(case: Case, setting: Setting, effort: Effort) -> dict[str, Any]:
    """One row: both sides' seconds, their ratio, and what is known of each.

    Raises:
        ValueError: where the two sides differ in what `Task` says that they agree on.
    """
    return (_startups if case.startup else _alternated)(case, setting, effort)


def _alternated(case: Case, setting: Setting, effort: Effort) -> dict[str, Any]:
    pythons = [getattr(setting, name) for name in case.pythons]
    with Worker(pythons[0], setting) as ours, Worker(pythons[1], setting) as peer:
        replies = [_prepare(ours, case.ours), _prepare(peer, case.peer)]
        timers = [
            None if _failed(reply) else _timer(worker, effort.seconds)
            for worker, reply in zip((ours, peer), replies, strict=True)
        ]
        return _row(case, replies, _in_turn(timers, effort.rounds))


def _startups(case: Case, setting: Setting, effort: Effort) -> dict[str, Any]:
    replies: list[dict[str, Any]] = [{}, {}]

    def timer(i: int, python: str, side: Side) -> Callable[[], float]:
        def once() -> float:
            start = time.perf_counter()
            with Worker(python, setting) as worker:
                replies[i] = _prepare(worker, side)
                return time.perf_counter() - start

        return once

    pythons = [getattr(setting, name) for name in case.pythons]
    timers = [timer(0, pythons[0], case.ours), timer(1, pythons[1], case.peer)]
    seconds = _in_turn(timers, min(effort.rounds, 3))
    kept = [[] if _failed(reply) else s for reply, s in zip(replies, seconds, strict=True)]
    return _row(case, replies, kept)


def _prepare(worker: Worker, side: Side) -> dict[str, Any]:
    return worker.ask(prepare=side.factory, options=dict(side.options))


def _failed(reply: Mapping[str, Any]) -> bool:
    return "missing" in reply or "error" in reply


def _timer(worker: Worker, seconds: float) -> Callable[[], float]:
    """A call that runs the worker for about `seconds`, after a warm-up that finds how often."""

    def once(k: int) -> float:
        reply = worker.ask(run=k)
        if "seconds" not in reply:
            raise RuntimeError(f"a worker that had run once failed later: {reply}")
        return reply["seconds"]

    k, spent = 1, 0.0
    while spent < seconds / 2:
        start = time.perf_counter()
        once(k)
        spent = time.perf_counter() - start
        k = max(1, min(16 * k, round(k * seconds / spent)))
    return lambda: once(k)


def _in_turn(timers: Sequence[Callable[[], float] | None], rounds: int) -> list[list[float]]:
    seconds: list[list[float]] = [[] for _ in timers]
    for _ in range(rounds):
        for timer, series in zip(timers, seconds, strict=True):
            if timer is not None:
                series.append(timer())
    return seconds


def _row(
    case: Case, replies: Sequence[Mapping[str, Any]], seconds: Sequence[Sequence[float]]
) -> dict[str, Any]:
    _check(case.name, [reply["facts"] for reply in replies if "facts" in reply])
    ours, peer = (
        {**side._asdict(), **reply, **_summary(series)}
        for side, reply, series in zip((case.ours, case.peer), replies, seconds, strict=True)
    )
    pairs = [b / a for a, b in zip(*seconds, strict=False)]
    return {**case._asdict(), "ours": ours, "peer": peer, "ratio": _spread(pairs)}


def _check(name: str, facts: Sequence[Mapping[str, Any]]) -> None:
    for fact, tolerance in AGREE.items():
        values = [np.asarray(side[fact]) for side in facts if fact in side]
        if len(values) == 2 and not np.max(np.abs(values[0] - values[1])) <= tolerance:
            raise ValueError(
                f"{name}: the two sides differ in {fact}, {[v.tolist() for v in values]}"
            )


def _summary(seconds: Sequence[float]) -> dict[str, Any]:
    return {"seconds": _spread(seconds), "series": list(seconds)} if seconds else {}


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    """The median between its quartiles."""
    if not values:
        return None
    if len(values) == 1:
        return dict.fromkeys(("low", "median", "high"), values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"low": low, "median": median, "high": high}

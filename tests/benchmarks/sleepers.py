"""Tasks for workers under test."""

import os
import time

from benchmarks.task import Task


def sleep(seconds: float, parameters: int = 1, **later) -> Task:
    return Task(lambda k: time.sleep(k * seconds), {"parameters": parameters}, later=lambda: later)


def missing() -> Task:
    import no_such_package

    return no_such_package


def broken() -> Task:
    raise ValueError("a reason")


def gone() -> Task:
    os._exit(7)

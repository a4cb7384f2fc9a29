"""A run that stops moving is ended with its stacks; one that moves is left alone."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.run.exits import LOST
from experiments.run.watchdog import Watchdog

ROOT = Path(__file__).parents[2]
STUCK = """
import time
from experiments.run.watchdog import Watchdog
def stuck_in_here():
    time.sleep(60)
with Watchdog(0.5) as watchdog:
    watchdog.beat()
    stuck_in_here()
"""


def test_a_stalled_run_ends_with_stacks():
    done = subprocess.run(
        [sys.executable, "-c", STUCK],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == LOST
    assert "nothing moved for" in done.stderr
    assert "stuck_in_here" in done.stderr


def test_a_run_that_moves_is_left_alone():
    with Watchdog(0.3) as watchdog:
        for _ in range(8):
            time.sleep(0.1)
            watchdog.beat()
    time.sleep(0.5)


def test_zero_never_ends_anything():
    with Watchdog(0):
        time.sleep(0.1)


def test_negative_seconds():
    with pytest.raises(ValueError, match=r"^seconds must not be negative; got -1$"):
        Watchdog(-1)

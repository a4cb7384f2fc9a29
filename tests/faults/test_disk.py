"""A full disk and lost permissions end in one sentence, and tear nothing."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.run import exits
from tests.commands import DIGITS, ROOT, environment, finish, steps_saved

pytestmark = pytest.mark.faults
RUN = ("experiments.train", *DIGITS, "--config.checkpoint.every=10")


def limited(folder: Path, largest_file: int) -> subprocess.CompletedProcess[str]:
    """The run where no file may grow above so many KiB, as on a disk that is full."""
    command = [sys.executable, "-m", *RUN, f"--workdir={folder}", "--config.steps=40"]
    return subprocess.run(
        ["bash", "-c", f"ulimit -f {largest_file}; exec {shlex.join(command)}"],
        cwd=ROOT,
        env=environment(JAX_ENABLE_COMPILATION_CACHE="false"),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def assert_last_line_says(stderr: str, *words: str) -> None:
    """And it says so without a traceback of whoever met it first."""
    last = stderr.strip().splitlines()[-1]
    assert last.startswith("error: "), stderr
    assert "Traceback" not in stderr
    assert all(word in last for word in words), last


def test_no_room_for_a_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    finish(*RUN, f"--workdir={folder}", "--config.steps=20", log=tmp_path / "log")
    done = limited(folder, 4)
    assert done.returncode == exits.REFUSED, done.stderr
    assert_last_line_says(done.stderr, "too large", "the same command goes on")
    assert max(steps_saved(folder)) == 20
    finish(*RUN, f"--workdir={folder}", "--config.steps=40", log=tmp_path / "log")
    assert max(steps_saved(folder)) == 40


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_full_file_system(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)],
        capture_output=True, check=False,
    )  # fmt: skip
    if mounted.returncode:
        pytest.skip("this machine mounts no tmpfs")
    try:
        folder = small / "run"
        command = [sys.executable, "-m", *RUN, f"--workdir={folder}", "--config.steps=200"]
        done = subprocess.run(
            [*command, "--config.checkpoint.keep=100"],
            cwd=ROOT, env=environment(JAX_ENABLE_COMPILATION_CACHE="false"),
            capture_output=True, text=True, timeout=200, check=False,
        )  # fmt: skip
        assert done.returncode == exits.REFUSED, done.stderr
        assert_last_line_says(done.stderr, "o space left", "the same command goes on")
        assert steps_saved(folder)
        subprocess.run(["mount", "-o", "remount,size=20m", str(small)], check=True)
        finish(*RUN, f"--workdir={folder}", "--config.steps=200", log=tmp_path / "log")
        assert max(steps_saved(folder)) == 200
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)

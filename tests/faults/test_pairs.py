"""Pairs whose making is killed end as if nothing had happened."""

import signal
from pathlib import Path

import numpy as np
import pytest

from tests.commands import DIGITS, finish, started, until

pytestmark = pytest.mark.faults


def test_killed_between_parts(tmp_path: Path) -> None:
    """Twice, and then trained on."""
    run, log = tmp_path / "run", tmp_path / "log"
    finish("experiments.train", *DIGITS, "--config.steps=10", f"--workdir={run}", log=log)
    command = (
        "experiments.pairs", f"--workdir={run}", "--num=2000", "--config.sampler.batch_size=20",
        "--config.sampler.kwargs.grid.kwargs.n=50",
    )  # fmt: skip
    straight, output = tmp_path / "straight", tmp_path / "pairs"
    finish(*command, f"--output={straight}", log=log)
    parts = tmp_path / "pairs.parts"
    for _ in range(2):
        there = len(list(parts.glob("0*.npz")))
        with started(*command, f"--output={output}", log=log) as child:
            until(lambda there=there: len(list(parts.glob("0*.npz"))) > there + 2, child)
            child.signal(signal.SIGKILL)
            child.wait()
        assert 0 < len(list(parts.glob("0*.npz"))) < 100
        assert not output.exists()
    finish(*command, f"--output={output}", log=log)
    files = sorted(file.name for file in straight.iterdir())
    assert files == ["label.npy", "pairs.json", "x0.npy", "x1.npy"]
    assert files == sorted(file.name for file in output.iterdir())
    for name in files:
        assert (output / name).read_bytes() == (straight / name).read_bytes()
    assert len(np.load(output / "x1.npy")) == 2000
    more = ("--config.steps=10", f"--config.pairs={output}", f"--workdir={tmp_path / 'next'}")
    finish("experiments.train", *DIGITS, *more, log=log)

"""The time to the first step, of a run that is as small as runs get."""

import pytest

from benchmarks import first_step

TINY = (
    "batch_size=16", "network.kwargs.width=8", "network.kwargs.depth=1",
    "sampler.kwargs.grid.kwargs.n=2",
)  # fmt: skip


@pytest.mark.slow
def test_both_runs_are_told_of(capsys):
    first_step.main(["--config=configs/digits.py", "--set", *TINY])
    cold, warm, ratio = capsys.readouterr().out.splitlines()
    assert cold.startswith("without compiled programs: first step after ")
    assert warm.startswith("with them: first step after ")
    assert 0 < float(ratio.split()[-1]) < 2

"""The benchmarks of few steps run, and tell of what they are asked."""

import re
from pathlib import Path

import pytest

from benchmarks import few_step, step_cost
from benchmarks.few_step import PLAIN


@pytest.mark.slow
def test_rows_of_every_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A map, a student in rounds, and a one-step generator, which has one step alone."""
    methods = ["terminal_velocity", "progressive", "distribution_matching"]
    arguments = ["two_moons", f"--workdir={tmp_path}", f"--methods={','.join(methods)}"]
    few_step.main([*arguments, "--steps=2", "--num=20", "--seeds=2"])
    last = capsys.readouterr().out.rpartition("two_moons, 20 samples, 2 seeds")[2]
    rows = {
        line.split("│")[1].strip(): line.count("±") for line in last.splitlines() if "│" in line
    }
    assert rows == {PLAIN: 5, "terminal_velocity": 4, "progressive": 4, "distribution_matching": 1}
    assert (tmp_path / "two_moons.png").stat().st_size > 10_000
    rounds = {folder.name for folder in (tmp_path / "two_moons").iterdir()}
    assert rounds == {"plain_flow", *methods[::2], *(f"progressive_{i}" for i in (1, 2, 3, 4))}


@pytest.mark.slow
def test_the_cost_of_a_step(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--width=16", "--depth=1", "--batch=64", "--rounds=2"]
    step_cost.main([*sizes, "--methods=mean_flow,distribution_matching"])
    told = capsys.readouterr().out
    found = dict(
        re.findall(r"(plain flow|mean_flow|distribution_matching).*?([\d.]+) │$", told, re.M)
    )
    assert float(found["plain flow"]) == 1
    assert 1 < float(found["mean_flow"]) < 1.3
    assert 2 < float(found["distribution_matching"]) < 4


@pytest.mark.parametrize("module", [few_step, step_cost])
def test_an_unknown_method(
    module: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["two_moons", f"--workdir={tmp_path}"] if module is few_step else []
    with pytest.raises(SystemExit):
        module.main([*data, "--methods=mean_flo"])  # type: ignore[attr-defined]
    assert "no method 'mean_flo'; known are mean_flow" in capsys.readouterr().err

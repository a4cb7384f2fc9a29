"""A run that is started again and again and reaches nothing is refused in the end."""

import json
from pathlib import Path

import jax
import pytest
from etils import epath
from ml_collections import ConfigDict

from experiments.run import loop, workdir
from experiments.run.starts import FRUITLESS, counted
from jaxflow.training import Preempted


class Killed(BaseException):
    """What no handler sees, as a SIGKILL."""


def start(folder: Path, step: int, end: BaseException | None = None) -> None:
    with counted(epath.Path(folder), step):
        if end is not None:
            raise end


def killed(folder: Path, step: int, times: int) -> None:
    for _ in range(times):
        with pytest.raises(Killed):
            start(folder, step, Killed())


def test_starts_from_one_step_are_refused_in_the_end(tmp_path: Path) -> None:
    killed(tmp_path, 30, FRUITLESS)
    with pytest.raises(ValueError, match=rf"{FRUITLESS} times at step 30.*starts\.json"):
        start(tmp_path, 30)
    with pytest.raises(ValueError, match="times at step 30"):
        start(tmp_path, 30)
    (tmp_path / "starts.json").unlink()
    start(tmp_path, 30)


def test_a_checkpoint_between_them_starts_the_count_anew(tmp_path: Path) -> None:
    killed(tmp_path, 30, FRUITLESS)
    killed(tmp_path, 40, FRUITLESS)


@pytest.mark.parametrize("end", [None, Preempted(3), KeyboardInterrupt(), ValueError("wrong")])
def test_a_good_end_and_one_on_purpose_are_not_counted(
    tmp_path: Path, end: BaseException | None
) -> None:
    killed(tmp_path, 30, FRUITLESS - 1)
    if end is None:
        start(tmp_path, 30)
    else:
        with pytest.raises(type(end)):
            start(tmp_path, 30, end)
    killed(tmp_path, 30, FRUITLESS)


def test_an_error_among_several_processes_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever restarts them cannot tell it from a process that was lost."""
    monkeypatch.setattr("experiments.run.starts.processes.agree", lambda mine: mine)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    for _ in range(FRUITLESS):
        with pytest.raises(OSError, match="no disk here"):
            start(tmp_path, 0, OSError("no disk here"))
    with pytest.raises(ValueError, match="times at step 0"):
        start(tmp_path, 0)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"step": 30}'])
def test_a_damaged_count_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "starts.json").write_text(text)
    killed(tmp_path, 30, FRUITLESS)


def test_of_a_run(config: ConfigDict, tmp_path: Path) -> None:
    workdir.create(epath.Path(tmp_path), config)
    count = tmp_path / "starts.json"
    count.write_text(json.dumps({"step": 0, "starts": FRUITLESS}))
    with pytest.raises(ValueError, match="times at step 0"):
        loop.train(config, epath.Path(tmp_path))
    count.write_text(json.dumps({"step": 0, "starts": FRUITLESS - 1}))
    assert int(loop.train(config, epath.Path(tmp_path)).state.step) == config.steps
    assert not count.exists()

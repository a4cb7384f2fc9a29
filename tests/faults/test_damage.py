"""Whatever happens to the files of a checkpoint, nothing wrong is ever restored."""

import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.commands import DIGITS, arrays_of, finish, state_of, steps_saved

pytestmark = pytest.mark.faults
RUN = ("experiments.train", *DIGITS, "--config.checkpoint.every=10", "--config.checkpoint.keep=3")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints of the steps 10, 20 and 30."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    finish(*RUN, f"--workdir={folder}", "--config.steps=30", log=folder.with_name("log"))
    assert steps_saved(folder) == [10, 20, 30]
    return folder


def files_of(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size)


def flip(file: Path, chance: random.Random) -> None:
    content = bytearray(file.read_bytes())
    place = chance.randrange(8 * len(content))
    content[place // 8] ^= 1 << place % 8
    file.write_bytes(content)


def restored(folder: Path) -> tuple[int, dict[str, np.ndarray]]:
    """What the run would go on from, read as training reads it."""
    from experiments.run import workdir
    from experiments.setup import build
    from jaxflow.training.checkpoint import Checkpoints

    config = workdir.read_config(folder)
    compiled = build.program(config)
    with Checkpoints(folder / "checkpoints") as checkpoints:
        found = checkpoints.restore(build.initial_state(config, compiled))
    assert found is not None
    return int(found.state.step), arrays_of(found.state)


def assert_right(folder: Path, whole: Path) -> int:
    step, arrays = restored(folder)
    expected = state_of(whole, step)
    assert arrays.keys() == expected.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)
    return step


def test_ten_flipped_bits_in_ten_files(whole: Path, tmp_path: Path) -> None:
    """One at a time: refused, and the one before is taken, or without consequence."""
    chance = random.Random(0)
    files = [f.relative_to(whole) for f in files_of(whole / "checkpoints" / "30")]
    assert len(files) >= 10
    largest = sorted(files, key=lambda f: -(whole / f).stat().st_size)[:5]
    others = chance.sample([f for f in files if f not in largest], 5)
    steps = []
    for i, file in enumerate([*largest, *others]):
        folder = tmp_path / str(i) / "run"
        shutil.copytree(whole, folder)
        flip(folder / file, chance)
        steps.append(assert_right(folder, whole))
    assert set(steps) <= {20, 30}
    assert 20 in steps


def test_ten_flipped_bits_at_once(whole: Path, tmp_path: Path) -> None:
    folder, chance = tmp_path / "run", random.Random(1)
    shutil.copytree(whole, folder)
    for file in chance.sample(files_of(folder / "checkpoints" / "30"), 10):
        flip(file, chance)
    assert assert_right(folder, whole) in (20, 30)


def truncate(folder: Path) -> None:
    for file in files_of(folder / "state"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def delete_one(folder: Path) -> None:
    max(files_of(folder / "state" / "d"), key=lambda f: f.stat().st_size).unlink()


def empty_newer(folder: Path) -> None:
    (folder.parent / "40").mkdir()


def half_written(folder: Path) -> None:
    shutil.copytree(folder, folder.parent / "40.orbax-checkpoint-tmp-1")
    shutil.rmtree(folder.parent / "40.orbax-checkpoint-tmp-1" / "meta")


def foreign(folder: Path) -> None:
    (folder.parent / "notes").mkdir()
    (folder.parent / "notes" / "todo.txt").write_text("mine")


@pytest.mark.parametrize(
    ("damage", "step"),
    [(truncate, 20), (delete_one, 20), (empty_newer, 30), (half_written, 30), (foreign, 30)],
)
def test_damaged_folders(whole: Path, tmp_path: Path, damage, step: int) -> None:  # type: ignore[no-untyped-def]
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    damage(folder / "checkpoints" / "30")
    assert assert_right(folder, whole) == step


def test_the_command_says_what_it_refused_and_goes_on(whole: Path, tmp_path: Path) -> None:
    """And ends where the run that was never damaged ends."""
    runs = [tmp_path / "damaged" / "run", tmp_path / "sound" / "run"]
    for folder in runs:
        shutil.copytree(whole, folder)
    truncate(runs[0] / "checkpoints" / "30")
    outputs = [
        finish(*RUN, f"--workdir={f}", "--config.steps=40", log=f.with_name("log")) for f in runs
    ]
    assert "going on from step 20" in outputs[0]
    assert "checkpoint 30 was refused" in outputs[0]
    left, right = (state_of(folder, 40) for folder in runs)
    for name in left:
        np.testing.assert_array_equal(left[name], right[name])
    assert (runs[0] / "checkpoints" / "refused-30-0").exists()

"""A run that is killed at any moment goes on as if nothing had happened."""

import contextlib
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from experiments.run import exits
from jaxflow import data
from tests.commands import DIGITS, assert_same_run, finish, several, started, steps_saved, until

pytestmark = pytest.mark.faults
STEPS = 600
FEWER = "--config.steps=200"
RUN = (
    *DIGITS,
    f"--config.steps={STEPS}",
    "--config.checkpoint.every=10",
    "--config.log.every=7",
    "--config.network.kwargs.dropout=0.1",
)


def train(folder: Path, *more: str) -> tuple[str, ...]:
    return ("experiments.train", *RUN, f"--workdir={folder}", *more)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("straight") / "run"
    finish(*train(folder), log=folder.with_name("log"))
    return folder


@pytest.fixture(scope="module")
def uninterrupted_by_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("straight") / "run"
    finish(*train(folder, FEWER), log=folder.with_name("log"), n=2)
    return folder


def writing(folder: Path) -> bool:
    return any("tmp" in p.name for p in (folder / "checkpoints").glob("*"))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kills", [10, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_again_and_again(uninterrupted: Path, tmp_path: Path, kills: int) -> None:
    """At random moments, every other one while a checkpoint is being written.

    With compiled programs of its own, which a kill may tear too.
    """
    folder, chance = tmp_path / "run", random.Random(0)
    alone = {"JAX_COMPILATION_CACHE_DIR": None, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    for kill in range(kills):
        saved = steps_saved(folder)
        with started(*train(folder), log=tmp_path / f"log{kill}", **alone) as child:
            until(lambda saved=saved: steps_saved(folder) != saved, child)
            if kill % 2:
                until(lambda: writing(folder), child)
            else:
                time.sleep(chance.uniform(0, 0.4))
            child.signal(signal.SIGKILL)
            child.wait()
        assert STEPS not in steps_saved(folder), "the run ended before it was killed"
    assert any((tmp_path / "cache" / "jaxflow" / "compiled").glob("*-cache"))
    finish(*train(folder), log=tmp_path / "log", **alone)
    assert_same_run(folder, uninterrupted, STEPS)


@pytest.mark.slow
def test_a_run_of_text_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    """Its windows, masks and times too."""
    letters = data.vocabulary.Characters("".join(map(chr, range(97, 123))) + " ")
    rows = np.random.default_rng(0).integers(0, 27, 5_000).astype(np.uint8)
    data.store_text("text8", {"train": rows, "test": rows[:500]}, letters, tmp_path)
    command = (
        "experiments.train", "--config=configs/text8_mask.py", "--config.steps=120",
        f"--config.data.source.kwargs.data_dir={tmp_path}", "--config.log.pictures_every=1000",
        "--config.checkpoint.every=10", "--config.log.every=7", "--config.batch_size=8",
        "--config.network.kwargs.width=16", "--config.network.kwargs.depth=1",
    )  # fmt: skip
    straight, folder = tmp_path / "straight", tmp_path / "run"
    finish(*command, f"--workdir={straight}", log=tmp_path / "log")
    for kill in range(3):
        saved = steps_saved(folder)
        with started(*command, f"--workdir={folder}", log=tmp_path / f"log{kill}") as child:
            until(lambda saved=saved: steps_saved(folder) != saved, child)
            child.signal(signal.SIGKILL)
            child.wait()
        assert 120 not in steps_saved(folder), "the run ended before it was killed"
    finish(*command, f"--workdir={folder}", log=tmp_path / "log")
    assert_same_run(folder, straight, 120)


def test_sigterm_saves_and_says_how_to_go_on(uninterrupted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with started(*train(folder), log=tmp_path / "log") as child:
        until(lambda: bool(steps_saved(folder)), child)
        child.signal(signal.SIGTERM)
        assert child.wait() == exits.PREEMPTED
        assert f"saved at step {max(steps_saved(folder))}" in child.output()
        assert "same command" in child.output()
    assert max(steps_saved(folder)) < STEPS
    finish(*train(folder), log=tmp_path / "log")
    assert_same_run(folder, uninterrupted, STEPS)


@pytest.mark.slow
def test_sigterm_to_one_of_two_stops_both(uninterrupted_by_two: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with several(2, *train(folder, FEWER), log=tmp_path / "log") as children:
        until(lambda: bool(steps_saved(folder)), children[0])
        children[1].signal(signal.SIGTERM)
        assert [child.wait() for child in children] == [exits.PREEMPTED] * 2
        assert f"saved at step {max(steps_saved(folder))}" in children[0].output()
    assert max(steps_saved(folder)) < 200
    finish(*train(folder, FEWER), log=tmp_path / "log", n=2)
    assert_same_run(folder, uninterrupted_by_two, 200)


@pytest.mark.parametrize("n", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_interrupted_is_saved_and_goes_on(
    request: pytest.FixtureRequest, tmp_path: Path, n: int
) -> None:
    """Of several processes all save and stop, whichever of them was interrupted."""
    folder, more, end = tmp_path / "run", [FEWER] * (n - 1), (STEPS, 200)[n - 1]
    with several(n, *train(folder, *more), log=tmp_path / "log", devices=n) as children:
        until(lambda: bool(steps_saved(folder)), children[0])
        children[-1].signal(signal.SIGINT)
        codes = [child.wait() for child in children]
        assert codes == [exits.PREEMPTED] * (n - 1) + [exits.INTERRUPTED]
        assert f"saved at step {max(steps_saved(folder))}" in children[-1].output()
    assert max(steps_saved(folder)) < end
    finish(*train(folder, *more), log=tmp_path / "log", n=n)
    straight = request.getfixturevalue(("uninterrupted", "uninterrupted_by_two")[n - 1])
    assert_same_run(folder, straight, end)


def test_word_that_comes_before_the_first_step_of_a_resumed_run(tmp_path: Path) -> None:
    """Of two processes, which count their steps from where they went on."""
    folder = tmp_path / "run"
    finish(*train(folder, "--config.steps=20"), log=tmp_path / "log", n=2)
    with several(2, *train(folder), log=tmp_path / "log") as children:
        until(lambda: "going on from step 20" in children[0].output(), children[0])
        for child in children:
            child.signal(signal.SIGTERM)
        assert [child.wait() for child in children] == [exits.PREEMPTED] * 2
    assert 20 < max(steps_saved(folder)) < STEPS


def test_a_second_run_in_a_folder_leaves_the_first_alone(tmp_path: Path) -> None:
    """Though the first has saved nothing yet, and the second has another config."""
    folder = tmp_path / "run"
    rare = ("--config.checkpoint.every=100000", "--config.steps=100000")
    with started(*train(folder, *rare), log=tmp_path / "first") as first:
        until((folder / "metrics.jsonl").exists, first)
        snapshot = (folder / "config.json").read_text()
        with started(*train(folder, *rare, "--config.seed=1"), log=tmp_path / "log") as second:
            assert second.wait() == exits.LOST
            assert "another run is at work" in second.output()
        assert first.running()
        assert (folder / "config.json").read_text() == snapshot


def test_workers_end_with_a_run_that_was_killed(tmp_path: Path) -> None:
    with started(*train(tmp_path / "run", "--config.data.workers=1"), log=tmp_path / "log") as run:
        until(lambda: bool(steps_saved(tmp_path / "run")), run)
        workers = [pid for pid, (_, parent) in processes().items() if parent == run.process.pid]
        assert workers
        run.signal(signal.SIGKILL)
        run.wait()
    end = time.monotonic() + 20
    while any(processes().get(worker, ("Z",))[0] != "Z" for worker in workers):
        assert time.monotonic() < end, workers
        time.sleep(0.1)


@pytest.mark.parametrize("n", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_killed_worker_ends_the_run_as_a_lost_process(n: int, tmp_path: Path) -> None:
    """And all the others, soon."""
    folder = tmp_path / "run"
    command = train(folder, "--config.data.workers=1")
    with several(n, *command, log=tmp_path / "log", devices=1) as children:
        until(lambda: bool(steps_saved(folder)), children[0])
        mine = children[-1].process.pid
        for pid in [pid for pid, (_, parent) in processes().items() if parent == mine]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        codes = [child.wait() for child in children]
        assert codes[-1] == exits.LOST
        assert "a process that reads data was ended" in children[-1].output()
        assert set(codes) <= {exits.LOST, -signal.SIGABRT}


@pytest.mark.parametrize("layout", [pytest.param("data", marks=pytest.mark.slow), "fsdp"])
def test_a_program_of_several_devices_and_steps_goes_on(layout: str, tmp_path: Path) -> None:
    """Where a program that is loaded again could wait for itself."""
    command = (
        "experiments.train", *DIGITS, f"--workdir={tmp_path / 'run'}", "--config.log.every=30",
        "--config.data.on_device=True", f"--config.parallel.layout={layout}",
        "--config.parallel.steps_per_call=10",
    )  # fmt: skip
    for steps in (30, 60):
        alone = {"JAX_NUM_CPU_DEVICES": "2", "JAX_COMPILATION_CACHE_DIR": None}
        finish(*command, f"--config.steps={steps}", log=tmp_path / "log", **alone)
    assert max(steps_saved(tmp_path / "run")) == 60


def processes() -> dict[int, tuple[str, int]]:
    """State ("Z" is dead, waiting to be buried) and parent of every process there is."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            state, parent = (folder / "stat").read_text().rsplit(")", 1)[1].split()[:2]
            found[int(folder.name)] = state, int(parent)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_a_killed_peer_ends_the_other(
    uninterrupted_by_two: Path, tmp_path: Path, lost: int
) -> None:
    """Ours or, where JAX notices first, JAX's own line says so."""
    folder = tmp_path / "run"
    with several(
        2, *train(folder, FEWER, "--heartbeat_seconds=10"), log=tmp_path / "log"
    ) as children:
        until(lambda: bool(steps_saved(folder)), children[0])
        children[lost].signal(signal.SIGKILL)
        left = children[1 - lost]
        code, output = left.wait(), left.output()
        if code == -signal.SIGABRT:
            assert "another task died" in output
        else:
            assert code == exits.LOST
            assert "another process was lost" in output
            assert "same command" in output
    finish(*train(folder, FEWER), log=tmp_path / "log", n=2)
    assert_same_run(folder, uninterrupted_by_two, 200)


def test_a_stalled_peer_is_noticed_by_the_watchdog(tmp_path: Path) -> None:
    """After longer than a compilation takes beside other work, and before a heartbeat is missed."""
    folder = tmp_path / "run"
    command = train(folder, "--config.health.stall_seconds=60", "--heartbeat_seconds=600")
    with several(2, *command, log=tmp_path / "log") as children:
        until(lambda: bool(steps_saved(folder)), children[0])
        children[1].signal(signal.SIGSTOP)
        assert children[0].wait() == exits.LOST
        output = children[0].output()
        assert "nothing moved for" in output
        assert "Thread 0x" in output
        assert "loop.py" in output

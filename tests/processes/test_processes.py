"""Several processes are one run: the same gradients, losses, samples and figures."""

import json
import socket
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.run import exits
from jaxflow.training import processes
from jaxflow.training.checkpoint import Checkpoints
from tests.commands import (
    DIGITS,
    Child,
    finish,
    free_port,
    lines,
    several,
    started,
    state_of,
    steps_saved,
    until,
)
from tests.processes.worker import FROZEN
from tests.training import test_layouts as cases

pytestmark = pytest.mark.faults
SIZES = {"patch": 2, "width": 32, "depth": 2, "heads": 4, "num_classes": 10}
IMAGES = (
    DIGITS[0],
    f"--config.network={ {'name': 'dit', 'kwargs': SIZES} }",
    *(flag for flag in DIGITS[1:] if "config.network" not in flag),
)
ALL = (
    ["data"],
    ["fsdp"],
    ["hybrid", "--config.parallel.axes.fsdp=2"],
    ["tensor", "--config.parallel.axes.tensor=2"],
    ["tensor", "--config.parallel.axes.tensor=4"],
    ["tensor", "--config.parallel.axes.tensor=2", "--config.parallel.axes.fsdp=2"],
)


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 4])
def test_gradients_are_those_of_one_device(n: int, tmp_path: Path) -> None:
    """To 1e-5 in float32 and 1e-12 in float64, each process with its rows."""
    output = tmp_path / "found.npz"
    layouts = "data,tensor,tensor by fsdp" if n == 2 else "fsdp,hybrid"
    arguments = (f"--layout={layouts}", f"--output={output}")
    finish("tests.processes.worker", *arguments, log=tmp_path / "log", n=n)
    found = np.load(output)
    for dtype, tolerance in (("float32", 1e-5), ("float64", 1e-12)):
        expected, loss = cases.of_one_device(dtype)
        norm = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(expected)))
        paths = jax.tree_util.tree_flatten_with_path((expected, loss))[0]
        for name in layouts.split(","):
            for path, array in paths:
                key = jax.tree_util.keystr(path, simple=True, separator="/")
                error = np.linalg.norm(found[f"{name}|{dtype}|{key}"] - array) / norm
                assert error < tolerance, (name, dtype, key)


def test_what_is_frozen_is_stored_once_by_all(tmp_path: Path) -> None:
    """Each of two processes holds a half; one process reads what both wrote."""
    folder = tmp_path / "checkpoints"
    finish("tests.processes.worker", f"--checkpoints={folder}", log=tmp_path / "log", n=2)
    assert len(list((folder / "frozen").iterdir())) == 1
    run = cases.compiled(cases.laid("data", 1))
    shapes = jax.eval_shape(run.init, cases.parameters("float32"), jax.random.key(5), FROZEN)
    with Checkpoints(folder) as kept:
        restored = kept.restore(run.layout.like(shapes))
    assert int(restored.state.step) == 2
    np.testing.assert_array_equal(restored.state.frozen["kernel"], FROZEN["kernel"])


def curve(folder: Path, *more: str, n: int = 1, devices: int = 1) -> np.ndarray:
    """The loss of each of 50 steps."""
    arguments = (*IMAGES, "--config.steps=50", "--config.log.every=1", f"--workdir={folder}", *more)
    env = {"devices": devices} if n > 1 else {"JAX_NUM_CPU_DEVICES": str(devices)}
    finish("experiments.train", *arguments, log=folder.with_name("log"), n=n, **env)
    return np.array([line["loss"] for line in lines(folder)])


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    return curve(tmp_path_factory.mktemp("alone") / "run")


@pytest.mark.slow
@pytest.mark.parametrize("sizes", ALL, ids=["data", "fsdp", "hybrid", "tensor2", "tensor4", "both"])
def test_loss_curves_on_eight_devices(sizes: list[str], alone: np.ndarray, tmp_path: Path) -> None:
    got = curve(tmp_path / "run", f"--config.parallel.layout={sizes[0]}", *sizes[1:], devices=8)
    assert len(got) == 50
    np.testing.assert_allclose(got, alone, rtol=1e-5)


@pytest.mark.parametrize(
    ("n", "sizes"),
    [
        (2, ["data"]),
        pytest.param(2, ["tensor", "--config.parallel.axes.tensor=4"], marks=pytest.mark.slow),
        pytest.param(4, ["fsdp"], marks=pytest.mark.slow),
    ],
    ids=["2-data", "2-tensor", "4-fsdp"],
)
def test_loss_curves_of_several_processes(
    n: int, sizes: list[str], alone: np.ndarray, tmp_path: Path
) -> None:
    got = curve(
        tmp_path / "run", f"--config.parallel.layout={sizes[0]}", *sizes[1:], n=n, devices=2
    )
    np.testing.assert_allclose(got, alone, rtol=1e-5)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    finish(
        "experiments.train", *DIGITS, "--config.steps=50", f"--workdir={folder}",
        log=folder.with_name("log"),
    )  # fmt: skip
    return folder


def samples(folder: Path, output: Path, *more: str, n: int = 1, devices: int = 1) -> np.ndarray:
    arguments = (f"--workdir={folder}", "--num=1000", f"--output={output}", *more)
    env = {"devices": devices} if n > 1 else {"JAX_NUM_CPU_DEVICES": str(devices)}
    finish("experiments.sample", *arguments, log=output.with_suffix(".log"), n=n, **env)
    assert not output.with_name(output.name + ".parts").exists()
    found = np.load(output)
    assert set(found.files) == {"x", "label", "nfe", "success"}
    np.testing.assert_array_equal(found["label"], np.arange(1000) % 10)
    assert found["success"].all()
    return found["x"]


def test_samples_are_the_same_however_they_are_made(trained: Path, tmp_path: Path) -> None:
    """Bitwise when repeated; to 1e-5 for other batches, devices and processes."""
    first = samples(trained, tmp_path / "a.npz")
    np.testing.assert_array_equal(samples(trained, tmp_path / "b.npz"), first)
    for name, more, where in [
        ("c", ["--config.sampler.batch_size=100"], {}),
        ("d", ["--config.sampler.batch_size=250"], {}),
        ("e", ["--config.sampler.batch_size=250"], {"devices": 8}),
        ("f", ["--config.sampler.batch_size=100"], {"n": 2, "devices": 2}),
    ]:
        got = samples(trained, tmp_path / f"{name}.npz", *more, **where)
        np.testing.assert_allclose(got, first, atol=1e-5)


def test_sampling_goes_on_with_the_parts_that_are_missing(trained: Path, tmp_path: Path) -> None:
    output = tmp_path / "x.npz"
    arguments = (f"--workdir={trained}", "--num=1000", f"--output={output}")
    parts = output.with_name("x.npz.parts")
    log = tmp_path / "log"
    finish("experiments.sample", *arguments, "--config.sampler.batch_size=100", log=log)
    whole = np.load(output)["x"]
    parts.mkdir()
    output.unlink()
    with started(
        "experiments.sample", *arguments, "--config.sampler.batch_size=100", log=log
    ) as child:
        until(lambda: len(list(parts.glob("*.npz"))) >= 2 or output.exists(), child)
    kept = {p.name: p.stat().st_mtime_ns for p in parts.glob("0*.npz")}
    other = ("--config.sampler.batch_size=200",)
    if kept:
        with started("experiments.sample", *arguments, *other, log=log) as child:
            assert child.wait() == 2
            assert "size was 100 and is 200" in child.output()
        plan = parts / "plan.json"
        ours = plan.read_text()
        plan.write_text(json.dumps(json.loads(ours) | {"parameters": 0}, sort_keys=True, indent=1))
        with started(
            "experiments.sample", *arguments, "--config.sampler.batch_size=100", log=log
        ) as child:
            assert child.wait() == 2
            assert "parameters was 0" in child.output()
        plan.write_text(ours)
    finish("experiments.sample", *arguments, "--config.sampler.batch_size=100", log=log)
    np.testing.assert_array_equal(np.load(output)["x"], whole)


def test_evaluation_of_two_processes_is_that_of_one(trained: Path, tmp_path: Path) -> None:
    found = []
    for n in (1, 2):
        finish("experiments.evaluate", f"--workdir={trained}", log=tmp_path / "log", n=n)
        found.append(json.loads((trained / "evaluation.json").read_text()))
    assert found[0]["rows"]["held-out data"] == found[1]["rows"]["held-out data"]
    for name, value in found[0]["rows"]["samples"].items():
        assert found[1]["rows"]["samples"][name] == pytest.approx(value, rel=1e-3)


def test_a_run_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    """Saved by one process of two devices as fsdp, gone on by two of one as data."""
    runs = tmp_path / "moved" / "run", tmp_path / "stayed" / "run"
    for folder in runs:
        folder.parent.mkdir()
        finish(
            "experiments.train", *DIGITS, "--config.steps=10", f"--workdir={folder}",
            "--config.parallel.layout=fsdp", log=folder.with_name("log"), JAX_NUM_CPU_DEVICES="2",
        )  # fmt: skip
    finish(
        "experiments.train", *DIGITS, "--config.steps=20", f"--workdir={runs[0]}",
        log=tmp_path / "log", n=2, devices=1,
    )  # fmt: skip
    finish(
        "experiments.train", *DIGITS, "--config.steps=20", f"--workdir={runs[1]}",
        log=tmp_path / "log",
    )  # fmt: skip
    moved, stayed = (state_of(folder, 20) for folder in runs)
    for name, array in moved.items():
        np.testing.assert_allclose(array, stayed[name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_wrong_numbers_of_processes() -> None:
    for given, received in [
        (("127.0.0.1:1", None, None), "belong together"),
        (("127.0.0.1:1", 2, 2), "process_id 2"),
        (("127.0.0.1", 2, 0), "'127.0.0.1', but must be HOST:PORT"),
        ((":8476", 2, 0), "':8476'"),
        (("host:http", 2, 0), "'host:http'"),
        (("", 2, 0), "coordinator is ''"),
    ]:
        with pytest.raises(ValueError, match=received):
            processes.connect(*given)
    with pytest.raises(ValueError, match="heartbeat_seconds must be at least 1; it is -5"):
        processes.connect("127.0.0.1:1", 2, 0, heartbeat_seconds=-5)


def test_nobody_at_the_coordinator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "JOIN_SECONDS", 1)
    with pytest.raises(ConnectionError, match=r"nobody listened at 127\.0\.0\.1:1 for 1 s"):
        processes.connect("127.0.0.1:1", 2, 1)


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        told = f"127.0.0.1:{port}"
        with started(
            "experiments.train", *DIGITS, f"--workdir={tmp_path / 'run'}", f"--coordinator={told}",
            "--num_processes=1", "--process_id=0", log=tmp_path / "log",
        ) as child:  # fmt: skip
            assert child.wait() == exits.LOST
            last = child.output().strip().splitlines()[-1]
            assert last.startswith(f"error: the port of the coordinator {told} cannot be had")


ALONE = "from jaxflow.training import processes; print('found', processes.connect())"


def test_processes_find_each_other_by_the_variables_of_slurm(tmp_path: Path) -> None:
    """And a process without such variables is one alone."""
    job = str(free_port() % 2**12)
    children = []
    try:
        for i in range(2):
            slurm = {
                "SLURM_JOB_ID": job,
                "SLURM_STEP_NODELIST": "127.0.0.1",
                "SLURM_NTASKS": "2",
                "SLURM_PROCID": str(i),
                "SLURM_LOCALID": str(i),
                "SLURM_STEP_NUM_NODES": "1",
            }
            children.append(Child(["-c", ALONE], tmp_path / f"log{i}", **slurm))
        children.append(Child(["-c", ALONE], tmp_path / "log2"))
        assert [child.wait() for child in children] == [0, 0, 0], children[0].output()
        assert ["found 2" in child.output() for child in children] == [True, True, False]
        assert "found 1" in children[2].output()
    finally:
        for child in children:
            child.kill()


@pytest.mark.parametrize(
    "part", ["ocdbt.process_1/d/*", pytest.param("**/d/*", marks=pytest.mark.slow)]
)
def test_two_processes_meet_a_damaged_checkpoint_together(part: str, tmp_path: Path) -> None:
    """Both refuse it where it matters to either; neither waits for the other for ever."""
    folder = tmp_path / "run"
    run = ("experiments.train", *DIGITS, "--config.checkpoint.every=10", f"--workdir={folder}")
    run = (*run, "--config.parallel.layout=fsdp")
    finish(*run, "--config.steps=20", log=tmp_path / "log", n=2)
    torn = [f for f in (folder / "checkpoints" / "20" / "state").glob(part) if f.is_file()]
    assert torn
    for file in torn:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    output = finish(*run, "--config.steps=30", log=tmp_path / "log", n=2)
    refused = "checkpoint 20 was refused" in output
    assert refused or part != "**/d/*"  # what one process wrote may have been copied elsewhere
    assert f"going on from step {10 if refused else 20}" in output
    assert steps_saved(folder)[-1] == 30


@pytest.mark.parametrize("flag", ["steps", pytest.param("seed", marks=pytest.mark.slow)])
def test_processes_of_different_configs_are_refused(flag: str, tmp_path: Path) -> None:
    """Whether the key may change from start to start or not."""
    run = ("experiments.train", *DIGITS, f"--workdir={tmp_path / 'run'}")
    apart = [f"--config.{flag}=20", f"--config.{flag}=40"]
    with several(2, *run, log=tmp_path / "log", apart=apart) as children:
        assert [child.wait() for child in children] == [exits.REFUSED] * 2
        assert all("different configs" in child.output() for child in children)


def test_processes_that_do_not_share_a_folder_are_refused(tmp_path: Path) -> None:
    apart = [f"--workdir={tmp_path / name}" for name in "ab"]
    run = ("experiments.train", *DIGITS, "--config.steps=20")
    with several(2, *run, log=tmp_path / "log", apart=apart) as children:
        assert [child.wait() for child in children] == [exits.REFUSED] * 2
        assert all("must be one folder that every process sees" in c.output() for c in children)


def test_two_processes_diagnose_together(tmp_path: Path) -> None:
    """The batch that they look at is the one of that step, each row of it once."""
    folder = tmp_path / "run"
    run = ("experiments.train", *DIGITS, f"--workdir={folder}", "--config.data.on_device=True")
    wild = "{'learning_rate': {'name': 'constant', 'kwargs': {'peak': 1e30}}}"
    run = (*run, "--config.health.abort_after=4", "--config.log.every=4")
    with several(2, *run, f"--config.optimizer.kwargs={wild}", log=tmp_path / "log") as children:
        assert [child.wait() for child in children] == [exits.REFUSED] * 2
        outputs = [child.output() for child in children]
    assert all("in a row" in output for output in outputs)
    found = json.loads((folder / "diagnosis.json").read_text())
    assert found["batch_of_the_last"]["x1"]["shape"] == [16, 8, 8, 1]
    assert found["batch_of_the_last"]["cond/label"]["shape"] == [16]

"""Whole runs: train, resume, sample, evaluate, on every config."""

import importlib
import json
import shutil
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict

from experiments import train
from experiments.output import figures, maps
from experiments.output.generate import average, generator
from experiments.output.shards import Shards, joined
from experiments.run import duties, loop, workdir
from experiments.setup import build
from experiments.setup.check import check
from experiments.setup.operations import flops
from jaxflow import training
from jaxflow.training.checkpoint import read_params
from tests.experiments.conftest import shared_programs, tiny, tiny_digits
from tests.problems import some_fast

CONFIGS = sorted(p.stem for p in (Path(__file__).parents[2] / "configs").glob("[!_]*.py"))
SMALL = {
    "cifar10_tokens": {
        "network": {"kwargs": {"channels": 32, "blocks": 1, "multipliers": (1,), "attention": ()}},
        "features": 2,
    },
    "cifar10": {"channels": 32, "blocks": 1, "multipliers": (1,), "attention": (), "dtype": None},
    "imagenet_latents": {"width": 16, "depth": 1, "heads": 1},
    "fashion_mnist": {"multipliers": (1,), "blocks": 1},
    "digits": {"width": 16, "depth": 1},
    "text8_mask": {"width": 16, "depth": 1},
    "tinyshakespeare": {"width": 16, "depth": 1},
    "text8_uniform": {"width": 16, "depth": 1},
    "text8_blocks": {"width": 16, "depth": 1},
    "text8_words": {"width": 16, "depth": 1},
    "two_moons": {"width": 8, "depth": 1},
}


def numbers(tree: object) -> list[np.ndarray]:
    """The leaves as arrays, keys by their data."""

    def plain(leaf: jax.Array) -> np.ndarray:
        is_key = jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf)

    return [plain(leaf) for leaf in jax.tree.leaves(tree)]


def run(config: ConfigDict, folder: Path) -> loop.Trained:
    workdir.create(epath.Path(folder), config)
    return loop.train(config, epath.Path(folder))


class Finished(NamedTuple):
    """A run that came to its end, which no test may change."""

    folder: Path
    trained: loop.Trained


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The run of `config`, on devices that are known to be slow."""
    folder = tmp_path_factory.mktemp("finished")
    with shared_programs(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "peak_flops", lambda device: 1e9)
        return Finished(folder, run(tiny_digits(), folder))


def untimed(line: dict) -> dict:
    """A line of the log without what differs between any two runs."""
    return {name: v for name, v in line.items() if "second" not in name}


def small(name: str, stored: Path) -> ConfigDict:
    config = tiny(importlib.import_module(f"configs.{name}").get_config(), steps=2)
    config.network.kwargs.update(SMALL[name])
    if config.data.source.name in ("tfds", "text", "pieces"):
        config.data.source.kwargs.data_dir = str(stored)
    if config.sampler.name == "adaptive":
        config.sampler.kwargs.update({"rtol": 0.1, "atol": 0.1})
    else:
        config.sampler.kwargs.grid.kwargs.n = 2
    return config


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_is_one(name: str, stored: Path) -> None:
    config = small(name, stored)
    check(config)
    assert jax.eval_shape(lambda key: build.parameters(config, key), jax.random.key(0))


# Of one network and kind of data with another that is trained here.
LIKE_ANOTHER = ("cifar10_tokens", "fashion_mnist", "text8_uniform", "tinyshakespeare")


@pytest.mark.parametrize("name", some_fast(CONFIGS, set(CONFIGS) - set(LIKE_ANOTHER)))
def test_every_config_trains_and_samples(
    name: str, stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duties, "PICTURED", 8)
    trained = run(small(name, stored), tmp_path)
    assert int(trained.state.step) == 2
    assert np.isfinite(trained.metrics["loss"])
    assert (tmp_path / "samples" / "step_0000002.png").exists()
    assert [line["step"] for line in workdir.read_lines(tmp_path / "metrics.jsonl")] == [2]
    assert (tmp_path / "loss.png").exists()


@pytest.mark.usefixtures("sharing")
def test_what_was_not_drawn_before_a_stop_is_drawn_after(
    config: ConfigDict, finished: Finished, tmp_path: Path
) -> None:
    """A run that had saved its last step goes on to its pictures, and tells its last metrics."""
    shutil.copytree(finished.folder, tmp_path, dirs_exist_ok=True)
    files = tmp_path / "samples" / "step_0000004.png", tmp_path / "loss.png"
    drawn = [file.read_bytes() for file in files]
    for file in files:
        file.unlink()
    again = run(config, tmp_path)
    assert again.start == 4
    assert [file.read_bytes() for file in files] == drawn
    assert again.metrics == finished.trained.metrics


@pytest.mark.usefixtures("sharing")
@pytest.mark.parametrize("on_device", [True, False])
@pytest.mark.parametrize("coupling", ["independent", "host transport"])
def test_a_resumed_run_is_the_uninterrupted_one(
    config: ConfigDict, tmp_path: Path, on_device: bool, coupling: str
) -> None:
    config.data.on_device = on_device
    config.network.kwargs.dropout = 0.2
    if coupling == "host transport":
        config.coupling = {"name": "optimal_transport", "kwargs": {"on_host": True}}
    straight = run(config, tmp_path / "straight")
    config.steps = 2
    run(config, tmp_path / "resumed")
    config.steps = 4
    resumed = run(config, tmp_path / "resumed")
    assert resumed.start == 2
    for a, b in zip(numbers(straight.state), numbers(resumed.state), strict=True):
        np.testing.assert_array_equal(a, b)
    lines = [workdir.read_lines(tmp_path / d / "metrics.jsonl") for d in ("straight", "resumed")]
    for a, b in zip(*lines, strict=True):
        assert untimed(a) == untimed(b)


def test_lines_after_the_checkpoint_are_written_once(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    for step in (2, 4, 6):
        workdir.append_line(file, {"step": step, "loss": 1.0})
    with file.open("a") as torn:
        torn.write('{"step": 8, "lo')
    workdir.forget_after(file, 4)
    assert [line["step"] for line in workdir.read_lines(file)] == [2, 4]
    assert file.read_text().count("\n") == 2


def test_samples_do_not_depend_on_their_number(config: ConfigDict, finished: Finished) -> None:
    ema, step = read_params(finished.folder / "checkpoints")
    assert step == int(finished.trained.state.step)
    some = generator(config, 30)
    many, few = generator(config, 100)(ema, 5, 100), some(ema, 5, 30)
    np.testing.assert_allclose(many.x[:30], few.x, atol=1e-5)
    np.testing.assert_array_equal(many.cond["label"][:30], few.cond["label"])
    assert np.abs(many.x).max() <= 1
    assert many.x.shape == (100, 8, 8, 1)
    assert set(many.nfe) == {2}
    assert many.success.all()
    assert not np.array_equal(few.x, some(ema, 6, 30).x)


def test_processes_sample_from_the_newest_step_that_all_can_read(
    finished: Finished, monkeypatch
) -> None:
    newest = average(epath.Path(finished.folder))
    monkeypatch.setattr(
        "jaxflow.training.processes.gathered", lambda mine: np.concatenate([mine, mine - 2])
    )
    agreed = average(epath.Path(finished.folder))
    assert (newest.step, agreed.step) == (4, 2)
    before = read_params(finished.folder / "checkpoints", step=2).params
    jax.tree.map(np.testing.assert_array_equal, agreed.params, before)


def test_guidance_doubles_the_calls_of_the_network(config: ConfigDict) -> None:
    config.sampler.guidance = 2.0
    params = build.parameters(config, jax.random.key(0))
    samples = generator(config, 16)(params, 0, 16)
    assert samples.evaluations == 2
    assert set(samples.nfe) == {2}


def test_samples_start_where_the_path_does() -> None:
    """From noise of size 80 on edm; a network that says nothing leaves it there."""
    config = tiny(importlib.import_module("configs.two_moons").get_config())
    config.network.kwargs.update(SMALL["two_moons"])
    params = jax.tree.map(np.zeros_like, build.parameters(config, jax.random.key(0)))
    linear = generator(config, 16)(params, 0, 16)
    config.path = {"name": "edm", "kwargs": {"sigma_max": 80.0}}
    check(config)
    np.testing.assert_allclose(generator(config, 16)(params, 0, 16).x, 80 * linear.x, rtol=1e-6)
    config.path = {
        "name": "shifted",
        "kwargs": {"path": {"name": "vp", "kwargs": {}}, "shift": 3.0},
    }
    check(config)


def test_folder_of_a_run_holds_what_it_says(finished: Finished) -> None:
    assert json.loads((finished.folder / "config.json").read_text())["seed"] == 0
    assert {
        "checkpoints",
        "config.json",
        "loss.png",
        "metrics.jsonl",
        "samples",
        "tensorboard",
    } <= {p.name for p in finished.folder.iterdir()}
    for line in workdir.read_lines(finished.folder / "metrics.jsonl"):
        assert {"step", "loss", "grad_norm", "skipped", "steps_per_second"} <= line.keys()
        assert not set(maps.NAMES) & line.keys()


def test_looking_at_a_run_changes_nothing_of_its_config(config: ConfigDict, tmp_path: Path) -> None:
    config.sampler.guidance = 2.0
    config.evaluation.likelihoods = 2
    config.parallel.mode = "pmap"
    before = config.to_json()
    state = run(config, tmp_path).state
    train.dry_run(config)
    assert np.isfinite(figures.likelihood(config, state.ema)["bits_per_dim"])
    assert config.to_json() == before


def test_sampling_holds_no_collective(config: ConfigDict) -> None:
    """Eight devices, each on its own."""
    params = build.parameters(config, jax.random.key(0))
    run = generator(config, 64)
    text = run.lowered(params, 0).compile().as_text()
    for name in ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter"):
        assert name not in text


def test_seconds_and_utilisation_are_logged(config: ConfigDict, finished: Finished) -> None:
    """The buckets sum to the run's time, and FLOPs are those of the step."""
    trained = finished.trained
    last = workdir.read_lines(finished.folder / "metrics.jsonl")[-1]
    buckets = {name for name in last if name.startswith("seconds/")}
    assert buckets == {f"seconds/{name}" for name in trained.seconds}
    operations = flops(config, trained.state)
    assert operations is not None
    expected = operations * last["steps_per_second"] / (8 * 1e9)
    assert last["mfu"] == pytest.approx(expected)


@pytest.mark.usefixtures("sharing")
def test_a_trace_of_some_steps(config: ConfigDict, tmp_path: Path) -> None:
    config.parallel.steps_per_call = 1
    workdir.create(epath.Path(tmp_path), config)
    loop.train(config, epath.Path(tmp_path), profile=(3, 4))
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    with pytest.raises(ValueError, match="5:2"):
        train.steps_of("5:2")


def test_samples_of_parts_are_joined(config: ConfigDict, tmp_path: Path) -> None:
    params = build.parameters(config, jax.random.key(0))
    config.sampler.batch_size = 16
    made = generator(config, 40)
    output = epath.Path(tmp_path / "x.npz")

    def columns(start: int, stop: int) -> dict[str, np.ndarray]:
        samples = made.rows(params, 0, start, stop)
        return {"x": samples.x, "nfe": samples.nfe, **samples.cond}

    shards = Shards(output, {"seed": 0}, num=40, size=made.size)
    assert shards.missing() == [0, 1, 2]
    for part in (2, 0):
        shards.write(part, columns(*shards.rows(part)))
    again = Shards(output, {"seed": 0}, num=40, size=made.size)
    assert again.missing() == [1]
    again.write(1, columns(*again.rows(1)))
    small = joined(again)
    found, whole = np.load(tmp_path / "x.npz"), made(params, 0, 40)
    np.testing.assert_array_equal(found["x"], whole.x)
    np.testing.assert_array_equal(found["label"], whole.cond["label"])
    np.testing.assert_array_equal(small["nfe"], whole.nfe)
    assert [p.name for p in tmp_path.iterdir()] == ["x.npz"]


def test_parts_of_other_samples_are_refused(tmp_path: Path) -> None:
    output = epath.Path(tmp_path / "x.npz")
    Shards(output, {"seed": 0}, num=40, size=8)
    with pytest.raises(ValueError, match="seed was 0 and is 1"):
        Shards(output, {"seed": 1}, num=40, size=8)

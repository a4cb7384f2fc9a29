"""Pairs of a run's flow: made in parts, kept whole, and trained on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict

from experiments.output import buckets
from experiments.output.generate import average, generator
from experiments.output.pairs import columns, stored
from experiments.output.shards import Shards
from experiments.run import loop, pairs, workdir
from experiments.setup import build, dataset
from experiments.setup.check import check, check_parts
from jaxflow import data
from jaxflow.training import processes
from jaxflow.types import Dependent
from tests.experiments.conftest import shared_programs, tiny_digits

NUM, SIZE = 40, 16


def of_digits() -> ConfigDict:
    config = tiny_digits()
    config.sampler.batch_size = SIZE
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> epath.Path:
    """A run that no test may change."""
    folder = epath.Path(tmp_path_factory.mktemp("run"))
    with shared_programs():
        workdir.create(folder, of_digits())
        loop.train(of_digits(), folder)
    return folder


@pytest.fixture(scope="module")
def whole(run: epath.Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its pairs, made at once."""
    output = tmp_path_factory.mktemp("pairs") / "whole"
    make(run, output)
    return output


def make(run: epath.Path, output: Path, seed: int = 0, num: int = NUM) -> dict[str, Any]:
    return pairs.make_pairs(of_digits(), run, epath.Path(output), num=num, seed=seed)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_pairs_are_the_runs_own_flow(run: epath.Path, whole: Path) -> None:
    """From the draws of the samples' keys to the solver's end, to the last bit, and not clipped."""
    found, config, params = data.load(data.pairs(whole)), of_digits(), average(run).params
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(0), i))(np.arange(NUM))
    x0 = jax.jit(jax.vmap(lambda key: jax.random.normal(key, (8, 8, 1))))(keys)
    np.testing.assert_array_equal(found["x0"], x0)
    np.testing.assert_array_equal(found["label"], np.arange(NUM) % 10)
    velocity, sampler = build.flow(config, params), build.sampler(config)
    each = SIZE // jax.device_count()
    for i in range(0, NUM, each):
        rows = slice(i, i + each)
        end = sampler(velocity, found["x0"][rows], cond={"label": found["label"][rows]}).x
        np.testing.assert_array_equal(found["x1"][rows], end)
    assert np.abs(found["x1"]).max() > 1
    samples = generator(config, NUM)(params, 0, NUM)
    np.testing.assert_array_equal(samples.x, np.clip(found["x1"], -1, 1))


def test_the_folder_says_what_it_was_made_of(run: epath.Path, whole: Path) -> None:
    made_of = data.pairs(whole).made_of
    wanted = {"run": str(run), "step": 4, "seed": 0, "num": NUM, "pairs": NUM, "left_out": 0}
    assert made_of.items() >= wanted.items()
    assert made_of["sampler"] == json.loads(of_digits().sampler.to_json())
    assert sorted(contents(whole)) == ["label.npy", "pairs.json", "x0.npy", "x1.npy"]
    assert [file.name for file in whole.parent.iterdir()] == [whole.name]


def test_a_stopped_command_goes_on(
    run: epath.Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After any part, and while the folder is made of them; what is there is not made again."""
    output, write, made = tmp_path / "pairs", Shards.write, []

    def once(shards: Shards, part: int, columns: Any) -> None:
        if made and len(made) % 2:
            made.append(None)
            raise KeyboardInterrupt
        write(shards, part, columns)
        made.append(part)

    monkeypatch.setattr(Shards, "write", once)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            make(run, output)
        assert not output.exists()
    with monkeypatch.context() as patch:
        patch.setattr(Shards, "remove", lambda shards: 1 / 0)
        patch.setattr("experiments.output.pairs.RECORD", "later")
        with pytest.raises(ZeroDivisionError):
            make(run, output)
    (output / "later").unlink()
    with pytest.raises(ValueError, match="or not all of them"):
        data.pairs(output)
    make(run, output)
    assert [part for part in made if part is not None] == [0, 1, 2]
    assert contents(output) == contents(whole)
    assert [file.name for file in tmp_path.iterdir()] == ["pairs"]


def test_pairs_that_are_whole_are_left_alone(run: epath.Path, whole: Path) -> None:
    before = {file.name: file.stat().st_mtime_ns for file in whole.iterdir()}
    assert make(run, whole) == data.pairs(whole).made_of
    assert {file.name: file.stat().st_mtime_ns for file in whole.iterdir()} == before


def test_shares_of_two_processes_make_the_same_folder(
    run: epath.Path, whole: Path, tmp_path: Path
) -> None:
    config, params = of_digits(), average(run).params
    output, made = epath.Path(tmp_path / "pairs"), generator(config, NUM)
    shards = Shards(output, {"seed": 0}, num=NUM, size=made.size)
    shares = [shards.missing()[process::2] for process in range(2)]
    for part in [*shares[1], *shares[0]]:
        shards.write(part, columns(made.pairs(params, 0, *shards.rows(part))))
    stored(shards, {})
    ours, theirs = contents(tmp_path / "pairs"), contents(whole)
    del ours["pairs.json"], theirs["pairs.json"]
    assert ours == theirs


@pytest.mark.parametrize("bad", [[], [3], [0, 1, 2, 3, 9], range(10)])
def test_samples_that_failed_make_no_pair(bad: list[int], tmp_path: Path) -> None:
    """They are counted; a part may lose all of its rows, but the folder not."""
    shards = Shards(epath.Path(tmp_path / "pairs"), {}, num=10, size=4)
    success, x = ~np.isin(np.arange(10), bad), np.arange(20.0).reshape(10, 2)
    for part in range(3):
        rows = slice(*shards.rows(part))
        told = {"nfe": np.ones(10, np.int32)[rows], "success": success[rows]}
        shards.write(part, {"x0": x[rows], "x1": -x[rows], **told})
    if not success.any():
        with pytest.raises(ValueError, match="of 10 samples none is finite and finished"):
            stored(shards, {})
        assert not (tmp_path / "pairs").exists()
        return
    record = stored(shards, {})
    assert (record["pairs"], record["left_out"]) == (10 - len(bad), len(bad))
    found = data.pairs(tmp_path / "pairs")
    np.testing.assert_array_equal(found.columns["x0"], x[success])
    np.testing.assert_array_equal(found.columns["x1"], -x[success])
    assert found.columns.keys() == {"x0", "x1"}


def begun(run: epath.Path, folder: Path) -> None:
    Shards(epath.Path(folder / "pairs"), {"seed": 0}, num=NUM, size=SIZE)


def other(run: epath.Path, folder: Path) -> None:
    (folder / "pairs").mkdir()
    (folder / "pairs" / "notes.txt").touch()


@pytest.mark.parametrize(
    ("before", "given", "told"),
    [
        (lambda run, d: make(run, d / "pairs", num=SIZE), {"seed": 1}, r"\(num was 16 and is 40; "),
        (lambda run, d: make(run, d / "pairs", num=SIZE), {}, r"holds other pairs \(num was 16"),
        (begun, {}, r"holds a part of other samples \(data was None"),
        (other, {}, r"is there already and holds no pairs: choose another"),
        (lambda run, d: (d / "pairs").touch(), {}, r"is there already and holds no pairs"),
        (lambda run, d: None, {"num": 0}, r"num must be at least 1; it is 0"),
    ],
)
def test_what_is_not_written_over(
    run: epath.Path, tmp_path: Path, before: Callable[..., Any], given: dict, told: str
) -> None:
    before(run, tmp_path)
    there = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(ValueError, match=told):
        make(run, tmp_path / "pairs", **given)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == there


def train(folder: Path, config: ConfigDict) -> loop.Trained:
    check(config)
    workdir.create(epath.Path(folder), config)
    return loop.train(config, epath.Path(folder))


def numbers(state: Any) -> list[np.ndarray]:
    plain = jax.tree.map(
        lambda a: (
            jax.random.key_data(a) if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key) else a
        ),
        state,
    )
    return [np.asarray(leaf) for leaf in jax.tree.leaves(plain)]


def assert_same(a: Any, b: Any) -> None:
    for one, two in zip(numbers(a), numbers(b), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.usefixtures("sharing")
@pytest.mark.parametrize("on_device", [True, False])
def test_training_on_pairs_is_what_python_composes(
    whole: Path, tmp_path: Path, on_device: bool
) -> None:
    """Batches of both ends in the order of the data, and the draw keeps them; resumes bitwise."""
    config = of_digits()
    config.pairs, config.data.on_device = str(whole), on_device
    straight = train(tmp_path / "straight", config).state
    config.steps = 2
    train(tmp_path / "resumed", config)
    config.steps = 4
    resumed = train(tmp_path / "resumed", config)
    assert resumed.start == 2
    assert_same(straight, resumed.state)
    compiled, found = build.program(config), data.pairs(whole)
    state, given = build.initial_state(config, compiled), {"batch_size": 16, "seed": 0}
    if on_device:
        stream = data.on_device(data.load(found), **given)
        stream = processes.distribute(stream, compiled.layout.whole)
        for _ in range(2):
            state, _ = compiled.steps(state, stream, 2)
    else:
        batches = data.pipeline(found, cond=("label",), **given)
        for _ in range(4):
            state, _ = compiled.step(state, compiled.place(next(batches)))
        batches.close()
    assert_same(straight, state)


def test_the_draw_keeps_the_pairs(whole: Path) -> None:
    config = of_digits()
    config.pairs = str(whole)
    batch = dataset.batches(config, 0).batch(0)
    starts = np.load(whole / "x0.npy")
    number = [int(np.argmax((starts == x0).all((1, 2, 3)))) for x0 in np.asarray(batch["x0"])]
    np.testing.assert_array_equal(batch["x0"], starts[number])
    np.testing.assert_array_equal(batch["x1"], np.load(whole / "x1.npy")[number])
    np.testing.assert_array_equal(batch["cond"]["label"], np.load(whole / "label.npy")[number])
    drawn = build.draw(config)(jax.random.key(0), batch)
    np.testing.assert_array_equal(drawn["x0"], batch["x0"])
    np.testing.assert_array_equal(drawn["x1"], batch["x1"])
    assert isinstance(drawn["z"], Dependent)
    measured = buckets._to_draw(config, 5)
    assert measured.keys() == {"x0", "x1", "label"}
    assert all((starts == x0).all((1, 2, 3)).any() for x0 in measured["x0"])


def test_a_student_of_one_step_learns_at_the_source() -> None:
    config = of_digits()
    config.times = {"name": "constant", "kwargs": {"time": 0.0}}
    check_parts(config)
    drawn = build.draw(config)(jax.random.key(0), dataset.example_batch(config, 4))
    np.testing.assert_array_equal(drawn["t"], np.zeros(4))


UNCONDITIONAL = {"data.cond": (), "drop.rate": 0.0, "drop.null": {}}


@pytest.fixture
def two_moons(tmp_path: Path) -> str:
    """Pairs of points without conditions."""
    for name in ("x0", "x1"):
        np.save(tmp_path / f"{name}.npy", np.zeros((4, 2), np.float32))
    (tmp_path / "pairs.json").write_text("{}")
    return str(tmp_path)


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        ({"pairs": "/no/such"}, FileNotFoundError, r"^no pairs at /no/such: make them with "),
        ({"pairs": "{run}"}, ValueError, r"holds no pairs, or not all of them"),
        ({"pairs": "{moons}"}, ValueError, r"names 'label', but config\.pairs .* \['x0', 'x1'\]"),
        ({"pairs": "{moons}", **UNCONDITIONAL}, ValueError, r"x1 \[2\], but .* \[8, 8, 1\]"),
        (
            {"coupling.name": "optimal_transport"},
            ValueError,
            r"^config\.coupling is 'optimal_transport', but config\.pairs .* paired already",
        ),
        (
            {"source.name": "uniform", "source.kwargs": {"low": -1.0, "high": 1.0}},
            ValueError,
            r"^config\.source is .*'uniform'.* start from .*'normal'.*: set it to that",
        ),
        (
            {"sampler.kwargs.method": {"name": "ddim", "kwargs": {"eta": 0.5}}},
            ValueError,
            r"reads a score, but .* 'independent' of the pairs of a flow",
        ),
        (
            {"loss.kwargs": {"prediction": "score", "weight": {"name": "sigma", "kwargs": {}}}},
            ValueError,
            r"loss reads a score, but .* 'independent' of the pairs of a flow",
        ),
    ],
)
def test_what_it_refuses(
    run: epath.Path, whole: Path, two_moons: str, change: dict, error: type, told: str
) -> None:
    config = of_digits()
    config.pairs = str(whole)
    check(config)
    if "pairs" in change:
        change = change | {"pairs": change["pairs"].format(run=run, moons=two_moons)}
    with config.unlocked():
        config.update_from_flattened_dict(change)
    with pytest.raises(error, match=told):
        check(config)


def test_runs_of_before_have_no_pairs(tmp_path: Path) -> None:
    before = of_digits().to_dict()
    del before["pairs"]
    (tmp_path / "config.json").write_text(json.dumps(before))
    read = workdir.read_config(epath.Path(tmp_path))
    assert read.pairs == ""
    check_parts(read)


def test_a_run_on_pairs_is_sampled_without_them() -> None:
    config = of_digits()
    config.pairs = "/no/such"
    check_parts(config)

"""Steps that are not finite are skipped, counted, told of, and left behind."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict

from experiments.run import loop, workdir
from experiments.run.positions import Positions, Shifted
from experiments.setup import dataset
from experiments.setup.check import check
from jaxflow.training import NotFinite, Window
from jaxflow.training.checkpoint import read_params

pytestmark = pytest.mark.usefixtures("sharing")


@jax.tree_util.register_pytree_node_class
class Spoiled:
    """A stream of which some batches hold NaN; which, is no part of a program that reads it."""

    def __init__(self, stream, bad):
        self.stream, self.bad = stream, bad

    def tree_flatten(self):
        return (self.stream, self.bad), None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)

    def batch(self, step):
        batch = self.stream.batch(step)
        return {**batch, "x1": jnp.where(self.bad[step], jnp.nan, batch["x1"])}


@pytest.fixture
def spoil(monkeypatch):
    """Put NaN into the batches of some positions of a run's data."""
    whole = dataset.batches

    def spoil(bad):
        spoiled = np.isin(np.arange(100), bad)
        monkeypatch.setattr(dataset, "batches", lambda *args: Spoiled(whole(*args), spoiled))

    return spoil


def numbers(tree: object) -> list[np.ndarray]:
    """The leaves as arrays, keys by their data."""
    leaves = jax.tree.leaves(tree)
    keys = [jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves]
    return [
        np.asarray(jax.random.key_data(a) if k else a) for a, k in zip(leaves, keys, strict=True)
    ]


def train(config: ConfigDict, folder: Path) -> loop.Trained:
    config.log.pictures_every = 1000
    workdir.create(epath.Path(folder), config)
    return loop.train(config, epath.Path(folder))


def test_abort_with_a_diagnosis(config: ConfigDict, tmp_path: Path, spoil) -> None:
    config.steps, config.checkpoint.every, config.log.every = 40, 4, 4
    config.health.abort_after = 5
    spoil(np.arange(6, 100))
    with pytest.raises(ArithmeticError, match=r"6 steps in a row, 7 to 12, .*not finite in x1"):
        train(config, tmp_path)
    found = json.loads((tmp_path / "diagnosis.json").read_text())
    assert found["steps"] == [7, 12]
    assert found["positions_in_the_data"] == [6, 11]
    assert found["batch_of_the_last"]["x1"]["not_finite"] == 16 * 64
    assert found["batch_of_the_last"]["cond/label"]["not_finite"] == 0
    assert not np.isfinite(found["its_loss"])
    assert len(found["its_gradient_norms"]) > 4
    assert found["skipped_in_all"] == 6


def test_a_bad_batch_changes_nothing_but_the_counter(
    config: ConfigDict, tmp_path: Path, spoil
) -> None:
    config.steps, config.log.every, config.checkpoint.every = 6, 1, 1
    config.checkpoint.keep = 10
    spoil([3])
    train(config, tmp_path)
    before, after = (read_params(tmp_path / "checkpoints", step=s).params for s in (3, 4))
    jax.tree.map(np.testing.assert_array_equal, before, after)
    lines = workdir.read_lines(tmp_path / "metrics.jsonl")
    assert [line["skipped"] for line in lines] == [0, 0, 0, 1, 1, 1]
    assert [line["loss"] is None for line in lines] == [False] * 3 + [True] + [False] * 2


def test_roll_back_leaves_the_data_out(
    config: ConfigDict, tmp_path: Path, spoil, monkeypatch
) -> None:
    """What follows is the run whose data never held those batches."""
    config.steps, config.checkpoint.every, config.log.every = 12, 4, 2
    config.health.abort_after, config.health.rollbacks = 2, 1
    spoil([6, 7])
    trained = train(config, tmp_path / "rolled")
    assert int(trained.state.skipped) == 0
    left_out = read_meta(tmp_path / "rolled", 12)["left_out"]
    assert left_out == [[6, 8]]
    lines = workdir.read_lines(tmp_path / "rolled" / "metrics.jsonl")
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12]

    spoil([])
    config.steps = 4  # from here on the program is one that shifts, which rounds as it likes
    train(config, tmp_path / "without")
    sound, config.steps = dataset.batches, 12
    shifted = Positions(((6, 8),))
    monkeypatch.setattr(dataset, "batches", lambda *args: Shifted(sound(*args), shifted))
    without = train(config, tmp_path / "without")
    for a, b in zip(numbers(trained.state), numbers(without.state), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_trace_that_a_roll_back_interrupts_is_written(
    config: ConfigDict, tmp_path: Path, spoil
) -> None:
    config.steps, config.checkpoint.every, config.log.every = 8, 4, 2
    config.health.abort_after, config.health.rollbacks = 2, 1
    config.log.pictures_every = 1000
    spoil([6, 7])
    workdir.create(epath.Path(tmp_path), config)
    trained = loop.train(config, epath.Path(tmp_path), (3, 8))
    assert int(trained.state.step) == 8
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def read_meta(folder: Path, step: int) -> dict:
    file = folder / "checkpoints" / str(step) / "meta" / "metadata"
    return json.loads(file.read_text())["meta"]


def test_roll_backs_come_to_an_end(config: ConfigDict, tmp_path: Path, spoil) -> None:
    config.steps, config.checkpoint.every, config.log.every = 40, 4, 4
    config.health.abort_after, config.health.rollbacks = 4, 2
    spoil(np.arange(6, 100))
    with pytest.raises(ArithmeticError, match="rollbacks above 2"):
        train(config, tmp_path)


def test_positions_are_those_that_are_left():
    """Of any ranges left out, in any order: the step-th position that is not among them."""
    rng = np.random.default_rng(0)
    positions, out = Positions(), set()
    for _ in range(12):
        start = int(rng.integers(0, 30))
        stop = start + int(rng.integers(1, 5))
        left = [p for p in range(300) if p not in out]
        out |= set(left[start:stop])
        positions = positions.without(start, stop)
        left = [p for p in range(300) if p not in out]
        assert [positions.of(step) for step in range(60)] == left[:60]
        traced = jax.vmap(positions.of)(jnp.arange(60))
        np.testing.assert_array_equal(traced, left[:60])


def rows(*losses):
    return [{"loss": v, "grad_norm": 1.0, "skipped": 0.0} for v in losses]


@pytest.mark.parametrize("cut", range(1, 9))
def test_a_window_that_was_saved_goes_on(cut):
    """The summary does not know where the run was stopped, nor does the count of bad steps."""
    metrics = rows(1.0, 2.0, np.nan, 4.0, np.inf, 0.1, 0.2, np.nan, np.nan)
    straight = Window(3)
    for m in metrics:
        straight.add(m)
    first = Window(3)
    for m in metrics[:cut]:
        first.add(m)
    second = Window(3, json.loads(json.dumps(first.rows())), first.bad)
    for m in metrics[cut:]:
        second.add(m)
    assert second.summary(9) == straight.summary(9)
    assert second.bad == straight.bad == 2
    second.add(rows(np.nan)[0])
    with pytest.raises(NotFinite) as told:
        second.summary(10)
    assert (told.value.first, told.value.last) == (8, 10)


def test_the_first_long_run_of_bad_steps_is_told():
    window = Window(2)
    for m in rows(1.0, np.nan, np.nan, np.nan, 1.0, np.nan, np.nan):
        window.add(m)
    with pytest.raises(NotFinite) as told:
        window.summary(107)
    assert (told.value.first, told.value.last) == (102, 104)


def test_a_spike_is_left_out_and_counted(config: ConfigDict, tmp_path: Path) -> None:
    config.optimizer.spike_deviations = 6.0
    train(config, tmp_path)
    lines = workdir.read_lines(tmp_path / "metrics.jsonl")
    assert [line["spikes"] for line in lines] == [0.0, 0.0]


def test_rolling_back_needs_checkpoints_that_reach_back(
    config: ConfigDict, tmp_path: Path, spoil
) -> None:
    """Told before the run, and again where the checkpoints are gone all the same."""
    config.steps, config.log.every, config.checkpoint.every = 24, 4, 4
    config.health.abort_after, config.health.rollbacks = 4, 1
    config.checkpoint.keep = 2
    with pytest.raises(ValueError, match=r"6 back .* reach back only 4 .*keep more"):
        check(config)
    config.checkpoint.keep = 3
    check(config)
    config.checkpoint.keep = 1
    spoil(np.arange(10, 14))
    with pytest.raises(ArithmeticError, match=r"11 to 14, .*were not kept"):
        train(config, tmp_path)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["12"]

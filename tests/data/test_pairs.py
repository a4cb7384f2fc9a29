"""Folders of pairs: read where they lie, as batches with both ends, or refused in a sentence."""

import json
import pickle

import numpy as np
import pytest

from jaxflow import data

N = 10


@pytest.fixture
def folder(tmp_path):
    """Pairs whose rows tell their number."""
    x0 = np.arange(N * 4, dtype=np.float32).reshape(N, 2, 2)
    np.save(tmp_path / "x0.npy", x0)
    np.save(tmp_path / "x1.npy", x0 + 100)
    np.save(tmp_path / "label.npy", np.arange(N, dtype=np.int64))
    (tmp_path / "pairs.json").write_text(json.dumps({"seed": 3}))
    return tmp_path


def assert_paired(batch):
    np.testing.assert_array_equal(batch["x1"], np.asarray(batch["x0"]) + 100)
    np.testing.assert_array_equal(np.asarray(batch["x0"])[:, 0, 0] / 4, batch["cond"]["label"])
    assert batch["cond"].keys() == {"label"}
    assert batch["cond"]["label"].dtype == np.int32


def test_rows_are_read_from_disk(folder):
    found = data.pairs(folder)
    assert isinstance(found, data.Dataset)
    assert (len(found), found.made_of) == (N, {"seed": 3})
    assert all(not column.flags.owndata for column in found.columns.values())
    np.testing.assert_array_equal(found[3]["x1"], found[3]["x0"] + 100)
    for name, column in data.load(found).items():
        np.testing.assert_array_equal(column, np.load(folder / f"{name}.npy"))


def test_another_process_opens_the_folder_itself(folder):
    handed = pickle.dumps(data.pairs(folder))
    assert len(handed) < 1000
    np.testing.assert_array_equal(pickle.loads(handed)[3]["x0"], data.pairs(folder)[3]["x0"])


def test_batches_keep_both_ends_together(folder):
    """By Grain and on the device, where no transform touches the start; each row once an epoch."""
    found = data.pairs(folder)
    host = data.pipeline(found, batch_size=5, seed=0)
    device = data.on_device(data.load(found), batch_size=5, seed=0)
    for batches in ([next(host), next(host)], [device.batch(0), device.batch(1)]):
        for batch in batches:
            assert_paired(batch)
        labels = np.concatenate([batch["cond"]["label"] for batch in batches])
        assert sorted(labels) == list(range(N))
    host.close()
    halved = (lambda x, key: x / 2,)
    moved = data.on_device(data.load(found), batch_size=5, seed=0, transforms=halved).batch(0)
    np.testing.assert_array_equal(moved["x0"], device.batch(0)["x0"])
    np.testing.assert_array_equal(moved["x1"], device.batch(0)["x1"] / 2)


def cut(folder):
    file = folder / "x1.npy"
    file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda d: (d / "pairs.json").unlink(), r"or not all of them \(it has no pairs\.json\)"),
        (lambda d: (d / "pairs.json").write_text("{"), r"pairs\.json is damaged \("),
        (lambda d: (d / "pairs.json").write_text("3"), r"pairs\.json is damaged \("),
        (lambda d: (d / "x0.npy").unlink(), r"has no x0\.npy: make the pairs again"),
        (lambda d: np.save(d / "x0.npy", np.zeros((N, 3))), r"x0 \[10, 3\] and x1 \[10, 2, 2\]"),
        (lambda d: np.save(d / "label.npy", np.zeros(3)), r"one length in common"),
        (cut, r"x1\.npy is damaged \("),
        (lambda d: (d / "x1.npy").write_bytes(b""), r"x1\.npy is damaged \("),
    ],
)
def test_what_is_no_folder_of_pairs(folder, spoil, told):
    spoil(folder)
    with pytest.raises(ValueError, match=told):
        data.pairs(folder)


def test_folders_that_are_not_here(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"none: make them with python -m experiments\.pair"
    ):
        data.pairs(tmp_path / "none")
    with pytest.raises(ValueError, match=r"gs://b/pairs is no folder of this machine: copy it"):
        data.pairs("gs://b/pairs")

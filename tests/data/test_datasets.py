"""Sources: what is written to disk comes back bit for bit, without TensorFlow."""

import multiprocessing
import shutil
import subprocess
import sys

import numpy as np
import pytest

from jaxflow.data import arrays, digits, load, pipeline, store, tfds, transforms


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return arrays(
        image=rng.integers(0, 256, (30, 5, 4, 3)).astype(np.uint8),
        angle=rng.normal(size=(30, 2)).astype(np.float32),
        label=np.arange(30) % 3,
    )


def test_round_trip_is_bit_exact(images, tmp_path):
    folder = store("little", {"train": images, "test": arrays(**load(images))}, tmp_path)
    assert folder == tmp_path / "little" / "1.0.0"
    for source in (tfds("little", "train", tmp_path), tfds(folder, "test")):
        back = load(source)
        for name, column in images.columns.items():
            assert back[name].dtype == column.dtype
            np.testing.assert_array_equal(back[name], column)
    assert len(tfds("little", "train[:50%]+test", tmp_path)) == 45
    assert "tensorflow" not in sys.modules


def test_tfds_through_the_pipeline(images, tmp_path):
    store("little", {"train": images}, tmp_path)
    source = tfds("little", "train", tmp_path)
    batches = pipeline(source, batch_size=10, seed=0, transforms=(transforms.scale(),))
    rows = [next(batches) for _ in range(3)]
    batches.close()
    assert rows[0]["cond"].keys() == {"angle", "label"}
    found = np.concatenate([transforms.pixels(row["x1"]) for row in rows])
    for one, other in ((found, images.columns["image"]), (images.columns["image"], found)):
        assert {image.tobytes() for image in one} <= {image.tobytes() for image in other}


def test_digits_are_the_scans(cache):
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    scans = load_digits()
    train, test = train_test_split(
        np.arange(1797), test_size=360, random_state=0, stratify=scans.target
    )
    for split, indices in (("train", train), ("test", test)):
        back = load(digits(split, cache))
        assert back["image"].dtype == np.uint8
        assert back["image"].shape == (len(indices), 8, 8, 1)
        np.testing.assert_array_equal(back["image"][..., 0], scans.images[indices])
        np.testing.assert_array_equal(back["label"], scans.target[indices])
    assert (len(train), len(test)) == (1437, 360)


def _prepare(cache, barrier, results):
    barrier.wait()
    results.put(len(digits("train", cache)))


@pytest.mark.slow
def test_two_processes_may_prepare_at_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    racers = [context.Process(target=_prepare, args=(tmp_path, barrier, results)) for _ in range(2)]
    for racer in racers:
        racer.start()
    assert [results.get(timeout=60) for _ in racers] == [1437, 1437]
    for racer in racers:
        racer.join()
    assert [path.name for path in (tmp_path / "digits").iterdir()] == ["1.0.0"]


def test_what_is_still_being_written_is_not_read(images, tmp_path):
    folder = store("little", {"train": images}, tmp_path)
    shutil.copytree(folder, folder.with_name(".incomplete-99"))
    newer = shutil.copytree(folder, folder.with_name("1.10.0"))
    assert len(tfds("little", "train", tmp_path)) == 30
    (newer / "dataset_info.json").unlink()
    assert len(tfds("little:1.0.0", "train", tmp_path)) == 30
    assert len(tfds("little", "train", tmp_path)) == 30


def test_a_failure_leaves_nothing(images, tmp_path):
    uneven = [images[0], {"image": np.zeros((2, 2), np.uint8)}]
    with pytest.raises(ValueError, match="example 1 of split 'train'"):
        store("broken", {"train": uneven}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(images, tmp_path):
    store("little", {"train": images}, tmp_path)
    with pytest.raises(FileExistsError, match="holds a data set already"):
        store("little", {"train": images}, tmp_path)


def test_names_and_empty_splits_are_refused(images, tmp_path):
    with pytest.raises(ValueError, match="'Big-Name'"):
        store("Big-Name", {"train": images}, tmp_path)
    with pytest.raises(ValueError, match="'test' of little is empty"):
        store("little", {"train": images, "test": arrays(image=np.zeros((0, 2)))}, tmp_path)


def test_a_missing_data_set_is_named_with_its_remedy(images, tmp_path):
    store("little", {"train": images}, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"'litle'.*did you mean 'little'.*prepare"):
        tfds("litle", "train", tmp_path)
    with pytest.raises(ValueError, match=r"no split 'trian' \(did you mean 'train'\?\)"):
        tfds("little", "trian", tmp_path)


def test_arrays_share_a_length():
    with pytest.raises(ValueError, match="'label': 2"):
        arrays(x1=np.zeros(3), label=np.zeros(2))
    with pytest.raises(ValueError, match="one length"):
        arrays()


def test_toy_alone_is_light():
    code = (
        "import sys, jaxflow.data.toy; "
        "sys.exit(any(m in sys.modules for m in ('grain', 'tensorflow_datasets', 'sklearn')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

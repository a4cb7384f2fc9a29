"""Readers of the forms that data sets are handed around in."""

import gzip
import io
import struct

import numpy as np
import pytest
from PIL import Image

from experiments import formats
from jaxflow.data import arrays, load

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (6, 5, 4)).astype(np.uint8)
LABELS = np.arange(6, dtype=np.uint8) % 3


def idx_bytes(array):
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_idx(folder, images=IMAGES, labels=LABELS, compress=True):
    for prefix in ("train", "t10k"):
        for stem, array in (("images-idx3", images), ("labels-idx1", labels)):
            name, data = f"{prefix}-{stem}-ubyte", idx_bytes(array)
            if compress:
                name, data = f"{name}.gz", gzip.compress(data)
            (folder / name).write_bytes(data)


@pytest.mark.parametrize("compress", [True, False])
def test_idx(tmp_path, compress):
    write_idx(tmp_path, compress=compress)
    splits = formats.idx(tmp_path)
    assert list(splits.sources) == ["train", "test"]
    for source in splits.sources.values():
        whole = load(source)
        np.testing.assert_array_equal(whole["image"][..., 0], IMAGES)
        np.testing.assert_array_equal(whole["label"], LABELS)


def test_idx_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no"):
        formats.idx(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"lacks train-images-idx3-ubyte\.gz"):
        formats.idx(tmp_path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: data[:-20], "is damaged"),
        (lambda data: data[:40] + b"xx" + data[42:], "is damaged"),
        (lambda data: b"not gzip at all", "is damaged"),
        (lambda data: gzip.compress(b"abcdefgh"), "is not an idx file"),
        (lambda data: gzip.compress(b""), "is not an idx file"),
        (lambda data: gzip.compress(b"\0\0\x08\x03\0\0"), "is cut short"),
        (lambda data: gzip.compress(idx_bytes(IMAGES)[:-1]), "is cut short"),
    ],
)
def test_idx_damaged(tmp_path, spoil, message):
    write_idx(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ValueError, match=message):
        formats.idx(tmp_path)


def test_idx_labels_that_do_not_match(tmp_path):
    write_idx(tmp_path, labels=LABELS[:4])
    with pytest.raises(ValueError, match="6 train images and 4 labels"):
        formats.idx(tmp_path)


def jpeg(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG")
    return buffer.getvalue()


def write_pack(path, labels=LABELS, **extra):
    files = [jpeg(np.repeat(image[..., None], 3, -1)) for image in IMAGES]
    np.savez(
        path,
        train_jpeg=np.frombuffer(b"".join(files), np.uint8),
        train_offsets=np.cumsum([0, *map(len, files)]),
        train_labels=labels,
        class_names=np.array(["a", "b", "c"]),
        **extra,
    )
    return files


def test_jpeg_pack(tmp_path):
    files = write_pack(tmp_path / "pack.npz")
    splits = formats.jpeg_pack(tmp_path)
    assert splits.classes == ("a", "b", "c")
    whole = load(splits.sources["train"])
    assert whole["image"].shape == (6, 5, 4, 3)
    np.testing.assert_array_equal(whole["image"][4], np.asarray(Image.open(io.BytesIO(files[4]))))
    np.testing.assert_array_equal(whole["label"], LABELS)


def test_jpeg_pack_damaged(tmp_path):
    path = tmp_path / "pack.npz"
    write_pack(path, labels=LABELS[:3])
    with pytest.raises(ValueError, match=r"6 train images .* 3 labels"):
        formats.jpeg_pack(path)
    write_pack(path, test_jpeg=np.zeros(3, np.uint8))
    with pytest.raises(ValueError, match="lacks test_labels, test_offsets"):
        formats.jpeg_pack(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="cannot be read"):
        formats.jpeg_pack(path)
    (tmp_path / "second.npz").touch()
    with pytest.raises(FileNotFoundError, match="has 2 such files"):
        formats.jpeg_pack(tmp_path)


def write_cifar10(folder):
    """Two images a file, whose red, green and blue are told apart."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (12, 32, 32, 3), np.uint8), rng.integers(0, 10, 12)
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    folder.mkdir(parents=True)
    for i, name in enumerate(names):
        records = [
            bytes([label, *image[..., 0].flat, *image[..., 1].flat, *image[..., 2].flat])
            for image, label in zip(images[2 * i : 2 * i + 2], labels[2 * i :], strict=False)
        ]
        (folder / name).write_bytes(b"".join(records))
    return images, labels


def test_cifar10_as_its_authors_give_it(tmp_path):
    images, labels = write_cifar10(tmp_path / "cifar-10-batches-bin")
    for path in (tmp_path, tmp_path / "cifar-10-batches-bin"):
        splits = formats.cifar10(path)
        whole = [load(splits.sources[split]) for split in ("train", "test")]
        np.testing.assert_array_equal(np.concatenate([w["image"] for w in whole]), images)
        np.testing.assert_array_equal(np.concatenate([w["label"] for w in whole]), labels)
        assert len(whole[1]["image"]) == 2
        assert splits.classes is not None
        assert len(splits.classes) == 10


def test_cifar10_damaged(tmp_path):
    write_cifar10(tmp_path / "whole")
    (tmp_path / "whole" / "data_batch_3.bin").write_bytes(b"\x01" * 3000)
    with pytest.raises(ValueError, match=r"data_batch_3\.bin is not .* or cut short"):
        formats.cifar10(tmp_path / "whole")
    (tmp_path / "whole" / "data_batch_3.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks data_batch_3\.bin"):
        formats.cifar10(tmp_path / "whole")
    (tmp_path / "data_batch_1").touch()
    with pytest.raises(ValueError, match="fetch the binary version"):
        formats.cifar10(tmp_path)


def test_a_pack_stands_for_cifar10(tmp_path):
    write_pack(tmp_path / "pack.npz")
    for path in (tmp_path, tmp_path / "pack.npz"):
        assert set(formats.cifar10(path).sources) == set(formats.jpeg_pack(path).sources)


def test_npz(tmp_path):
    path = tmp_path / "points.npz"
    np.savez(path, x=RNG.normal(size=(6, 2)), label=LABELS)
    source = formats.npz(path).sources["train"]
    assert source[3].keys() == {"x1", "label"}
    assert source[3]["label"] == LABELS[3]
    np.savez(path, train_image=IMAGES, train_label=LABELS, test_image=IMAGES[:2], test_label=[1, 2])
    sources = formats.npz(path).sources
    assert {name: len(source) for name, source in sources.items()} == {"train": 6, "test": 2}


COLOUR = np.repeat(IMAGES[..., None], 3, -1)


@pytest.mark.parametrize(
    ("columns", "splits"),
    [
        ({"x_train": IMAGES, "y_train": LABELS[:, None], "x_test": IMAGES, "y_test": LABELS},
         ["train", "test"]),
        ({"train_images": IMAGES, "train_labels": LABELS, "val_images": IMAGES,
          "val_labels": LABELS[:, None]}, ["train", "val"]),
        ({"images": IMAGES, "labels": LABELS.astype(np.float32)}, ["train"]),
        ({"data": COLOUR, "targets": LABELS}, ["train"]),
        ({"X": IMAGES.astype(np.int32), "y": LABELS}, ["train"]),
        ({"arr_0": IMAGES}, ["train"]),
    ],
)  # fmt: skip
def test_usual_names_of_arrays(tmp_path, columns, splits):
    np.savez(tmp_path / "a.npz", **columns)
    sources = formats.npz(tmp_path / "a.npz").sources
    assert list(sources) == splits
    expected = COLOUR if "data" in columns else IMAGES[..., None]
    for source in sources.values():
        whole = load(source)
        np.testing.assert_array_equal(whole["image"], expected)
        if "arr_0" not in columns:
            assert whole["label"].dtype == np.int64
            np.testing.assert_array_equal(whole["label"], LABELS)


def test_points_are_no_images(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=RNG.normal(size=(6, 5, 4)), mask_train=np.ones(6))
    assert load(formats.npz(tmp_path / "a.npz").sources["train"]).keys() == {"x1", "mask"}


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.9])
def test_a_share_of_every_label_is_held_back(share):
    labels = RNG.permutation(np.repeat(np.arange(5), [3, 10, 40, 100, 47]))
    whole = formats.Splits({"train": arrays(x1=np.arange(200), label=labels)}, tuple("abcde"))
    splits = formats.parted(whole, share)
    train, test = (load(splits.sources[name]) for name in ("train", "test"))
    assert sorted([*train["x1"], *test["x1"]]) == list(range(200))
    assert len(test["x1"]) == round(200 * share)
    for part in (train, test):
        np.testing.assert_array_equal(part["label"], labels[part["x1"]])
    for label, n in enumerate(np.bincount(labels)):
        assert abs((test["label"] == label).sum() - n * share) <= 1
    again = load(formats.parted(whole, share).sources["test"])
    np.testing.assert_array_equal(again["x1"], test["x1"])
    assert splits.classes == whole.classes


def test_a_share_of_what_has_no_labels():
    whole = formats.Splits({"train": arrays(x1=np.arange(200))})
    test = load(formats.parted(whole, 0.25).sources["test"])["x1"]
    assert len(test) == 50
    z = (test.mean() - 99.5) / (200 / np.sqrt(12 * 50))
    assert abs(z) < 4
    assert len(np.unique(np.diff(test))) > 4


@pytest.mark.parametrize(
    ("splits", "share", "message"),
    [
        (["train"], 0.0, "--test_share=0.0 must be a share between 0 and 1"),
        (["train"], 1.0, "must be a share"),
        (["train"], float("nan"), "must be a share"),
        (["train"], 0.01, "of 20 examples leaves one split empty"),
        (["train", "test"], 0.1, "has train, test already: leave it out"),
        (["test"], 0.1, "has test already"),
    ],
)
def test_shares_that_cannot_be(splits, share, message):
    source = arrays(x1=np.arange(20))
    with pytest.raises(ValueError, match=message):
        formats.parted(formats.Splits(dict.fromkeys(splits, source)), share)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"x": np.zeros(3), "images": np.zeros(3)}, "does not tell the data"),
        ({"arr_0": np.zeros(3), "y": np.zeros(3), "labels": np.zeros(3)}, "does not tell"),
        ({"x": np.zeros(3), "y": np.array([0.0, 1.5, 2.0])}, "y holds 1.5, but labels are whole"),
        ({"x": np.zeros(3), "y": np.array([0.0, np.nan, 2.0])}, "y holds nan"),
        ({"x": np.zeros(3), "y": np.array(["a", "b", "c"])}, "y holds <U1: labels are whole"),
        ({"x": np.zeros(3), "label": np.zeros(2)}, "one length"),
        ({"y": np.zeros(3)}, r"has \['y'\], .* named image, images, x1, x, X, data, arr_0, and"),
        ({"train_x": np.zeros(3), "other": np.zeros(3)}, "'other'"),
        ({"x": np.array([{}, {}])}, "cannot be read"),
    ],
)
def test_npz_wrong(tmp_path, columns, message):
    np.savez(tmp_path / "a.npz", **columns)
    with pytest.raises(ValueError, match=message):
        formats.npz(tmp_path / "a.npz")


def write_images(folder, images=IMAGES, suffix="png"):
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i}.{suffix}")


def test_folder_of_classes(tmp_path):
    write_images(tmp_path / "cat", IMAGES[:2])
    write_images(tmp_path / "dog", IMAGES[2:])
    (tmp_path / "dog" / "notes.txt").write_text("not an image")
    splits = formats.image_folder(tmp_path)
    assert splits.classes == ("cat", "dog")
    whole = load(splits.sources["train"])
    np.testing.assert_array_equal(whole["image"][..., 0], IMAGES)
    assert whole["label"].tolist() == [0, 0, 1, 1, 1, 1]
    held = load(formats.parted(splits, 0.5).sources["test"])
    assert held["label"].tolist() == [0, 1, 1]


def test_flat_folder_and_size(tmp_path):
    colour = RNG.integers(0, 256, (3, 9, 12, 3)).astype(np.uint8)
    write_images(tmp_path, colour)
    splits = formats.image_folder(tmp_path)
    assert splits.classes is None
    np.testing.assert_array_equal(load(splits.sources["train"])["image"], colour)
    assert formats.image_folder(tmp_path, size=4).sources["train"][1]["image"].shape == (4, 4, 3)


def test_folder_of_splits(tmp_path):
    for split in ("train", "test"):
        write_images(tmp_path / split / "a", IMAGES[:3])
        write_images(tmp_path / split / "b", IMAGES[3:5])
    splits = formats.image_folder(tmp_path)
    assert {name: len(source) for name, source in splits.sources.items()} == {"train": 5, "test": 5}
    write_images(tmp_path / "test" / "c")
    with pytest.raises(ValueError, match="same class folders"):
        formats.image_folder(tmp_path)


def test_folder_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no images"):
        formats.image_folder(tmp_path)
    write_images(tmp_path)
    Image.fromarray(IMAGES[0, :3]).save(tmp_path / "8.png")
    (tmp_path / "9.png").write_bytes((tmp_path / "8.png").read_bytes()[:40])
    source = formats.image_folder(tmp_path).sources["train"]
    with pytest.raises(ValueError, match="give a size"):
        source[6]
    with pytest.raises(ValueError, match=r"9\.png cannot be read"):
        source[7]
    Image.fromarray(np.zeros((5, 4, 3), np.uint8)).save(tmp_path / "5.png")
    with pytest.raises(ValueError, match="in colour"):
        source[5]

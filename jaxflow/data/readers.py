"""Reads data sets in the forms they are handed around in, one source a split."""

import gzip
import io
import math
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from jaxflow.data.sources import Source, arrays

__all__ = ["Examples", "Splits", "cifar10", "idx", "image_folder", "jpeg_pack", "npz"]

CIFAR10 = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
SPLITS = ("train", "test", "validation", "val")


@dataclass(frozen=True)
class Splits:
    """A source for each split, and the names of the classes where they are known."""

    sources: Mapping[str, Source]
    classes: tuple[str, ...] | None = None


@dataclass(frozen=True, eq=False, repr=False)
class Examples(Sequence[Mapping[str, Any]]):
    """Examples that are decoded when they are asked for."""

    length: int
    read: Callable[[int], Mapping[str, Any]]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self.read(index)


def idx(directory: str | PathLike[str]) -> Splits:
    """MNIST and its kin: `train-` and `t10k-` files `images-idx3-ubyte` and `labels-idx1-ubyte`.

    The files may be compressed by gzip. Images become uint8 `[H, W, 1]`.

    Raises:
        FileNotFoundError: where a file is missing.
        ValueError: for a file that is damaged or not of the format, or labels that do not match.
    """
    folder = _existing(directory)
    sources = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images = _read_idx(_find_idx(folder, f"{prefix}-images", 3))
        labels = _read_idx(_find_idx(folder, f"{prefix}-labels", 1))
        if len(images) != len(labels):
            raise ValueError(
                f"{folder} has {len(images)} {split} images and {len(labels)} labels: "
                "the files do not belong together"
            )
        sources[split] = arrays(image=images[..., None], label=labels.astype(np.int64))
    return Splits(sources)


def cifar10(path: str | PathLike[str]) -> Splits:
    """CIFAR-10 as its authors give it, in the binary version: `data_batch_1.bin` and so on.

    Each record is a byte of label and 32 x 32 bytes each of red, green and blue. Images become
    uint8 `[32, 32, 3]`, in the order of the files.

    Args:
        path: the folder of these files, or the one that holds it; or a pack of JPEGs, as
            `jpeg_pack` takes it, which is smaller and not the same pixels.

    Raises:
        FileNotFoundError: where a file is missing.
        ValueError: for a file that is not of the format.
    """
    folder = _existing(path)
    if (folder / "cifar-10-batches-bin").is_dir():
        folder = folder / "cifar-10-batches-bin"
    if (folder / "data_batch_1").exists():
        raise ValueError(f"{folder} is CIFAR-10 as Python pickles: fetch the binary version")
    if folder.is_file() or not [*folder.glob("*.bin")]:
        return jpeg_pack(folder)
    files = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
    sources = {}
    for split, names in files.items():
        records = np.concatenate([_read_cifar10(folder / name) for name in names])
        images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        sources[split] = arrays(image=images, label=records[:, 0].astype(np.int64))
    return Splits(sources, CIFAR10)


def _read_cifar10(path: Path) -> np.ndarray:
    if not path.exists():
        raise FileNotFoundError(f"{path.parent} lacks {path.name}: unpack the whole archive there")
    data = np.fromfile(path, np.uint8)
    if not len(data) or len(data) % 3073 or data[::3073].max() > 9:
        raise ValueError(f"{path} is not of CIFAR-10's binary version, or cut short")
    return data.reshape(-1, 3073)


def jpeg_pack(path: str | PathLike[str]) -> Splits:
    """Images kept as JPEG in one `.npz`: for each split `_jpeg`, `_offsets` and `_labels`.

    Image `i` is `jpeg[offsets[i]:offsets[i + 1]]`, and `class_names` names the labels.

    Args:
        path: the file, or a folder with one such file.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where it is damaged, lacks an array, or labels do not match.
    """
    path = _existing(path)
    if path.is_dir():
        path = _only([*path.glob("*.npz")], path, "one .npz file")
    pack = _read_npz(path)
    found = [name.removesuffix("_jpeg") for name in pack if name.endswith("_jpeg")]
    if not found:
        raise ValueError(f"{path} has {sorted(pack)}: a pack of JPEGs has train_jpeg and so on")
    names = pack.get("class_names")
    return Splits(
        {split: _unpack(path, pack, split) for split in sorted(found, reverse=True)},
        None if names is None else tuple(str(name) for name in names),
    )


def npz(path: str | PathLike[str]) -> Splits:
    """Arrays in an `.npz`: the data under `image`, `x` or `x1`, conditions by name, as `label`.

    With `train_` and `test_` before each name there are two splits, else one, `"train"`.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where it is damaged, has no data, or lengths differ.
    """
    path = _existing(path)
    columns = _read_npz(path)
    splits = [part for part in SPLITS if any(name.startswith(f"{part}_") for name in columns)]
    if not splits:
        return Splits({"train": _columns(path, columns)})
    parted = {part: _prefixed(columns, f"{part}_") for part in splits}
    stray = columns.keys() - {f"{part}_{name}" for part in parted for name in parted[part]}
    if stray:
        raise ValueError(f"{path} has {sorted(stray)}, which belong to no split of {splits}")
    return Splits({part: _columns(path, found) for part, found in parted.items()})


def image_folder(directory: str | PathLike[str], size: int | None = None) -> Splits:
    """A folder of images: one subfolder a class, or flat and without labels.

    Subfolders `train`, `test` or `validation` are splits, else all is `"train"`. Images are opened
    one at a time. They become grey or RGB as the first one is.

    Args:
        directory: the folder.
        size: crop the middle square and resize it to `size x size`; without, all images must
            have one shape.

    Raises:
        FileNotFoundError: without the folder or without images.
        ValueError: for an image that cannot be read, or differs in shape or colour.
    """
    folder = _existing(directory)
    parts = [name for name in SPLITS if (folder / name).is_dir()]
    files = {part: _images(folder / part) for part in parts} or {"train": _images(folder)}
    classes = {tuple(labels) for labels in files.values()}
    if len(classes) != 1:
        raise ValueError(f"{folder}: its splits do not have the same class folders")
    classes = next(iter(classes))
    first = next(path for paths in files.values() for group in paths.values() for path in group)
    mode = "L" if _open(first).mode in ("1", "L") else "RGB"
    wanted = (first, mode, _pixels(first, mode, size).shape)
    return Splits(
        {part: _labelled(groups, wanted, size) for part, groups in files.items()},
        None if classes == ("",) else classes,
    )


def _labelled(
    groups: Mapping[str, Sequence[Path]], wanted: tuple[Path, str, Any], size: int | None
) -> Examples:
    entries = [(path, i) for i, group in enumerate(groups.values()) for path in group]
    first, mode, shape = wanted

    def read(index: int) -> Mapping[str, Any]:
        path, label = entries[index]
        image = _pixels(path, mode, size)
        if image.shape != shape:
            raise ValueError(
                f"{path} has shape {image.shape} and {first.name} {shape}: "
                "give a size, to which all are cropped and resized"
            )
        return {"image": image} if "" in groups else {"image": image, "label": np.int64(label)}

    return Examples(len(entries), read)


def _images(folder: Path) -> dict[str, list[Path]]:
    """The images of each class; of the class `""` where the folder is flat."""
    known = Image.registered_extensions()
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    found = {
        path.name if classes else "": sorted(
            file for file in path.iterdir() if file.suffix.lower() in known and file.name[0] != "."
        )
        for path in classes or [folder]
    }
    empty = [name or folder.name for name, files in found.items() if not files]
    if empty:
        raise FileNotFoundError(
            f"{folder} has no images in {', '.join(empty)}: it must hold images, "
            "or one subfolder of images a class"
        )
    return found


def _pixels(path: Path, mode: str, size: int | None) -> np.ndarray:
    image = _open(path)
    if mode == "L" and image.mode not in ("1", "L"):
        raise ValueError(f"{path} is in colour, but the first image is grey: convert either")
    image = image.convert(mode)
    if size is not None:
        image = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
    return np.atleast_3d(np.asarray(image))


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from error


def _unpack(path: Path, pack: Mapping[str, np.ndarray], split: str) -> Examples:
    lacking = {f"{split}_offsets", f"{split}_labels"} - pack.keys()
    if lacking:
        raise ValueError(f"{path} lacks {', '.join(sorted(lacking))}")
    data, offsets, labels = (pack[f"{split}_{part}"] for part in ("jpeg", "offsets", "labels"))
    if len(offsets) != len(labels) + 1 or offsets[-1] != len(data):
        raise ValueError(
            f"{path} has {len(offsets) - 1} {split} images over {offsets[-1]} of {len(data)} bytes "
            f"and {len(labels)} labels: they do not belong together"
        )

    def read(index: int) -> Mapping[str, Any]:
        encoded = data[offsets[index] : offsets[index + 1]].tobytes()
        try:
            image = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
        except (UnidentifiedImageError, OSError) as error:
            raise ValueError(f"{path}: {split} image {index} is not a JPEG: {error}") from error
        return {"image": image, "label": np.int64(labels[index])}

    return Examples(len(labels), read)


def _prefixed(columns: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {k.removeprefix(prefix): v for k, v in columns.items() if k.startswith(prefix)}


def _columns(path: Path, columns: Mapping[str, np.ndarray]) -> Source:
    columns = {"x1" if name == "x" else name: column for name, column in columns.items()}
    if not {"image", "x1"} & columns.keys():
        raise ValueError(f"{path} has {sorted(columns)}: the data goes under 'image' or 'x'")
    if "label" in columns:
        columns["label"] = columns["label"].astype(np.int64)
    try:
        return arrays(**columns)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path) as file:
            return dict(file)
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, AttributeError) as error:
        raise ValueError(f"{path} cannot be read as an .npz of arrays: {error}") from error


def _find_idx(folder: Path, stem: str, rank: int) -> Path:
    names = [f"{stem}{dot}idx{rank}-ubyte{end}" for dot in "-." for end in ("", ".gz")]
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise FileNotFoundError(f"{folder} lacks {names[1]}: fetch it, or name the folder with it")


def _read_idx(path: Path) -> np.ndarray:
    """Four bytes of type and rank, the shape in big-endian, then the values."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{path} is damaged ({error}): fetch it again") from error
    rank = data[3] if len(data) >= 4 else 0
    if data[:3] != b"\0\0\x08" or not rank:
        raise ValueError(f"{path} is not an idx file of bytes: it begins with {data[:4].hex()}")
    header = data[4 : 4 + 4 * rank]
    shape = tuple(np.frombuffer(header[: len(header) // 4 * 4], ">u4").tolist())
    if len(data) != 4 + 4 * rank + math.prod(shape):
        raise ValueError(f"{path} is cut short or too long for its shape {shape}: fetch it again")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)


def _existing(path: str | PathLike[str]) -> Path:
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}: give the folder or file that holds the data")
    return path


def _only(found: Sequence[Path], folder: Path, what: str) -> Path:
    if len(found) != 1:
        raise FileNotFoundError(f"{folder} has {len(found)} such files where {what} is needed")
    return found[0]

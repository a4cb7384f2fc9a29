"""Images kept as JPEG in one file."""

import io
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from experiments.formats.npz import read_npz
from experiments.formats.splits import Examples, Splits, existing

__all__ = ["jpeg_pack"]


def jpeg_pack(path: str | PathLike[str]) -> Splits:
    """Images kept as JPEG in one `.npz`: for each split `_jpeg`, `_offsets` and `_labels`.

    Image `i` is `jpeg[offsets[i]:offsets[i + 1]]`, and `class_names` names the labels.

    Args:
        path: the file, or a folder with one such file.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where it is damaged, lacks an array, or labels do not match.
    """
    path = existing(path)
    if path.is_dir():
        path = _only([*path.glob("*.npz")], path, "one .npz file")
    pack = read_npz(path)
    found = [name.removesuffix("_jpeg") for name in pack if name.endswith("_jpeg")]
    if not found:
        raise ValueError(f"{path} has {sorted(pack)}: a pack of JPEGs has train_jpeg and so on")
    names = pack.get("class_names")
    return Splits(
        {split: _unpack(path, pack, split) for split in sorted(found, reverse=True)},
        None if names is None else tuple(str(name) for name in names),
    )


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

    return Examples(len(labels), read, labels)


def _only(found: Sequence[Path], folder: Path, what: str) -> Path:
    if len(found) != 1:
        raise FileNotFoundError(f"{folder} has {len(found)} such files where {what} is needed")
    return found[0]

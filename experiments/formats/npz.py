"""Arrays in an `.npz`."""

import re
import zipfile
import zlib
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

import numpy as np

from experiments.formats.splits import SPLITS, Splits, existing
from jaxflow.data import Dataset, arrays

__all__ = ["npz", "read_npz"]


DATA = ("image", "images", "x1", "x", "X", "data", "arr_0")
LABELS = ("label", "labels", "y", "Y", "target", "targets")
_SPLIT = "|".join(SPLITS)
_NAMED = re.compile(rf"(?P<before>{_SPLIT})_(?P<of_after>.+)|(?P<of_before>.+)_(?P<after>{_SPLIT})")


def npz(path: str | PathLike[str]) -> Splits:
    """Arrays in an `.npz`: the data, the labels if there are any, and conditions by their names.

    The data goes by one of `DATA` and the labels by one of `LABELS`. With a split before or after
    each name (`train_images`, `x_test`) there are these splits, else one, `"train"`. Whole numbers
    `[n, h, w]` or `[n, h, w, c]` are images, and grey ones become `[n, h, w, 1]`.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where it is damaged, where its names do not tell the data, where lengths differ,
            or where a label is no whole number.
    """
    path = existing(path)
    columns = read_npz(path)
    parts: dict[str, dict[str, np.ndarray]] = {}
    for name, column in columns.items():
        found = _NAMED.fullmatch(name)
        split = (found["before"] or found["after"]) if found else ""
        rest = (found["of_after"] or found["of_before"]) if found else name
        parts.setdefault(split, {})[rest] = column
    stray = sorted(parts.get("", {}))
    if stray and len(parts) > 1:
        splits = [split for split in parts if split]
        raise ValueError(f"{path} has {stray}, which belong to no split of {splits}")
    return Splits({split or "train": _columns(path, found) for split, found in parts.items()})


def _columns(path: Path, columns: Mapping[str, np.ndarray]) -> Dataset:
    of_data = [name for name in columns if name in DATA]
    of_labels = [name for name in columns if name in LABELS]
    if len(of_data) != 1 or len(of_labels) > 1:
        raise ValueError(
            f"{path} has {sorted(columns)}, which does not tell the data: one array is named "
            f"{', '.join(DATA)}, and one of labels, if there are any, {', '.join(LABELS)}, all "
            "with train_ and test_ before or _train and _test after where there are splits"
        )
    data = columns[of_data[0]]
    is_image = of_data[0] in ("image", "images") or (
        np.issubdtype(data.dtype, np.integer) and data.ndim in (3, 4)
    )
    found = {"image": data[..., None] if data.ndim == 3 else data} if is_image else {"x1": data}
    for name, column in columns.items():
        if name in of_labels:
            found["label"] = _labels(path, name, column)
        elif name not in of_data:
            found[name] = column
    try:
        return arrays(**found)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _labels(path: Path, name: str, labels: np.ndarray) -> np.ndarray:
    if not (np.issubdtype(labels.dtype, np.number) or labels.dtype == bool):
        raise ValueError(f"{path}: {name} holds {labels.dtype}: labels are whole numbers")
    whole = np.isfinite(labels) & (labels == np.floor(labels))
    if not whole.all():
        raise ValueError(
            f"{path}: {name} holds {labels[~whole].flat[0]}, but labels are whole numbers: give "
            "other values a name of their own, which makes them a condition"
        )
    flat = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    return flat.astype(np.int64)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a file.

    Raises:
        ValueError: where it is damaged, or holds what is no array.
    """
    try:
        with np.load(path) as file:
            return dict(file)
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, AttributeError) as error:
        raise ValueError(f"{path} cannot be read as an .npz of arrays: {error}") from error

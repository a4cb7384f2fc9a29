"""Arrays in an `.npz`."""

import zipfile
import zlib
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

import numpy as np

from experiments.formats.splits import SPLITS, Splits, existing
from jaxflow.data import Source, arrays

__all__ = ["npz", "read_npz"]


def npz(path: str | PathLike[str]) -> Splits:
    """Arrays in an `.npz`: the data under `image`, `x` or `x1`, conditions by name, as `label`.

    With `train_` and `test_` before each name there are two splits, else one, `"train"`.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where it is damaged, has no data, or lengths differ.
    """
    path = existing(path)
    columns = read_npz(path)
    splits = [part for part in SPLITS if any(name.startswith(f"{part}_") for name in columns)]
    if not splits:
        return Splits({"train": _columns(path, columns)})
    parted = {part: _prefixed(columns, f"{part}_") for part in splits}
    stray = columns.keys() - {f"{part}_{name}" for part in parted for name in parted[part]}
    if stray:
        raise ValueError(f"{path} has {sorted(stray)}, which belong to no split of {splits}")
    return Splits({part: _columns(path, found) for part, found in parted.items()})


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

"""Pairs of noise and of what a flow makes of it, in a folder that is read where it lies.

pairs.json     what they were made of; written last, so that a folder which has it is whole
x0.npy         draws of the source, `[n, *event]`
x1.npy         where the flow carried them
label.npy      and any other condition, by name
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from jaxflow.data.datasets import Arrays, arrays

__all__ = ["RECORD", "Pairs", "pairs"]

RECORD = "pairs.json"


@dataclass(frozen=True, eq=False)
class Pairs(Sequence[Mapping[str, Any]]):
    """Examples `{"x0": ..., "x1": ..., ...}` on disk, and what they were made of; made by `pairs`.

    A process that is handed one opens the folder itself.
    """

    folder: Path
    made_of: Mapping[str, Any]
    rows: Arrays

    @property
    def columns(self) -> Mapping[str, np.ndarray]:
        """All rows of each entry, mapped into memory and read as they are touched."""
        return self.rows.columns

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self.rows[index]

    def __reduce__(self) -> Any:
        return pairs, (self.folder,)


def pairs(folder: str | PathLike[str]) -> Pairs:
    """The pairs that `python -m experiments.pairs` wrote into a folder, by random access.

    Args:
        folder: on this machine's disk, or one that is mounted on it.

    Raises:
        FileNotFoundError: where there is no folder.
        ValueError: for a folder at a bucket, or one that holds no whole pairs.
    """
    if "://" in str(folder):
        raise ValueError(
            f"pairs are read where they lie, and {folder} is no folder of this machine: copy it to "
            "one first"
        )
    place = Path(folder).expanduser().absolute()
    if not place.exists():
        raise FileNotFoundError(
            f"no pairs at {place}: make them with python -m experiments.pairs --workdir=RUN_DIR "
            f"--num=N --output={place}"
        )
    if not (place / RECORD).is_file():
        raise ValueError(
            f"{place} holds no pairs, or not all of them (it has no {RECORD}): make them, or give "
            "the command that made them again"
        )
    return Pairs(place, _record(place / RECORD), _rows(place))


def _record(file: Path) -> Mapping[str, Any]:
    try:
        return dict(json.loads(file.read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file} is damaged ({error}): make the pairs again") from error


def _rows(place: Path) -> Arrays:
    columns = {file.stem: _column(file) for file in sorted(place.glob("*.npy"))}
    missing = [name for name in ("x0", "x1") if name not in columns]
    if missing:
        raise ValueError(f"{place} has no {missing[0]}.npy: make the pairs again")
    x0, x1 = columns["x0"], columns["x1"]
    if x0.shape != x1.shape or not len(x1):
        raise ValueError(
            f"{place} has x0 {list(x0.shape)} and x1 {list(x1.shape)}: pairs are of one shape, and "
            "there is at least one"
        )
    return arrays(**columns)


def _column(file: Path) -> np.ndarray:
    try:
        return np.load(file, mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise ValueError(f"{file} is damaged ({error}): make the pairs again") from error

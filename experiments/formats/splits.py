"""What every form is read as: a source of examples for each split."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from jaxflow.data import Arrays, Dataset

__all__ = ["SPLITS", "Examples", "Splits", "existing", "parted"]

SPLITS = ("train", "test", "validation", "val")


@dataclass(frozen=True)
class Splits:
    """A source for each split, and the names of the classes where they are known."""

    sources: Mapping[str, Dataset]
    classes: tuple[str, ...] | None = None


@dataclass(frozen=True, eq=False, repr=False)
class Examples(Sequence[Mapping[str, Any]]):
    """Examples that are decoded when they are asked for, and their labels where there are any."""

    length: int
    read: Callable[[int], Mapping[str, Any]]
    labels: np.ndarray | None = None

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self.read(index)


def existing(path: str | PathLike[str]) -> Path:
    """The path, its `~` expanded.

    Raises:
        FileNotFoundError: where there is nothing.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}: give the folder or file that holds the data")
    return path


def parted(splits: Splits, test_share: float) -> Splits:
    """What comes in one piece as `"train"` and `"test"`, the same way each time.

    Of every label the share goes to `"test"`, give or take one example, and of all examples too.

    Raises:
        ValueError: where there are splits already, or one of the two would be empty.
    """
    if not 0 < test_share < 1:
        raise ValueError(f"--test_share={test_share} must be a share between 0 and 1, as 0.1")
    if set(splits.sources) != {"train"}:
        raise ValueError(
            f"--test_share={test_share} splits what comes in one piece, and this has "
            f"{', '.join(splits.sources)} already: leave it out"
        )
    source = splits.sources["train"]
    labels = source.columns.get("label") if isinstance(source, Arrays) else _labels_of(source)
    places = np.random.default_rng(0).permutation(len(source))
    if labels is not None:
        places = places[np.lexsort(np.atleast_2d(labels[places].T))]
    taken = np.diff(np.rint(np.arange(len(source) + 1) * test_share)) == 1
    if taken.all() or not taken.any():
        raise ValueError(
            f"--test_share={test_share} of {len(source)} examples leaves one split empty"
        )
    parts = {"train": np.sort(places[~taken]), "test": np.sort(places[taken])}
    return Splits({name: _rows(source, part) for name, part in parts.items()}, splits.classes)


def _labels_of(source: Dataset) -> np.ndarray | None:
    return source.labels if isinstance(source, Examples) else None


def _rows(source: Dataset, places: np.ndarray) -> Examples:
    return Examples(len(places), lambda index: source[int(places[index])])

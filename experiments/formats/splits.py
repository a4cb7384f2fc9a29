"""What every form is read as: a source of examples for each split."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from jaxflow.data import Source

__all__ = ["SPLITS", "Examples", "Splits", "existing"]

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


def existing(path: str | PathLike[str]) -> Path:
    """The path, its `~` expanded.

    Raises:
        FileNotFoundError: where there is nothing.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}: give the folder or file that holds the data")
    return path

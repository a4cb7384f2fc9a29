"""Text as one long row of tokens on disk, read in windows where it lies.

DATA_DIR/NAME/1.0.0/vocabulary.json   how the text was written as tokens, and how many there are
DATA_DIR/NAME/1.0.0/SPLIT.npy         the tokens of a split
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from jaxflow.data.datasets import DATA_DIR
from jaxflow.data.store import VERSION, check_name, check_place, whole_or_nothing
from jaxflow.data.vocabulary import Vocabulary, from_json, smallest
from jaxflow.names import did_you_mean

__all__ = ["Text", "store_text", "text", "vocabulary_of"]

RECORD = "vocabulary.json"


@dataclass(frozen=True, eq=False, repr=False)
class Text(Sequence[Mapping[str, Any]]):
    """Windows `{"x1": int32 [length]}` of a stored text; made by `text`.

    A process that is handed one opens the file itself.
    """

    folder: Path
    split: str
    length: int
    stride: int
    vocabulary: Vocabulary
    tokens: np.ndarray

    def __len__(self) -> int:
        return (len(self.tokens) - self.length) // self.stride + 1

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"there are {len(self)} windows; got {index}")
        start = (index % len(self)) * self.stride
        return {"x1": np.asarray(self.tokens[start : start + self.length], np.int32)}

    def __reduce__(self) -> Any:
        return _opened, (self.folder, self.split, self.length, self.stride)

    def __repr__(self) -> str:
        return f"text({str(self.folder)!r}, {self.split!r}, {self.length}, {self.stride})"


def text(
    name: str,
    *,
    split: str,
    length: int,
    stride: int | None = None,
    data_dir: str | PathLike[str] = DATA_DIR,
) -> Text:
    """Windows of a text that `python -m experiments.prepare --dataset=text` wrote.

    Window `i` is the tokens `i stride .. i stride + length - 1`; what fills no window is left out.

    Args:
        name: of the text.
        split: of it, such as `"train"`.
        length: tokens a window.
        stride: tokens from one window to the next: `length` where None, so that windows follow
            each other; 1 for every window there is.
        data_dir: the folder that holds data sets, on this machine's disk.

    Raises:
        FileNotFoundError: where there is no such text.
        ValueError: for an unknown split, a length or stride below 1, a text that is shorter than
            a window, files that are damaged, or a bucket.
    """
    stride = length if stride is None else stride
    if length < 1 or stride < 1:
        raise ValueError(
            f"windows need a length and a stride of 1 at least; got length = {length}, "
            f"stride = {stride}"
        )
    return _opened(_folder(name, data_dir), split, length, stride)


def vocabulary_of(name: str, data_dir: str | PathLike[str] = DATA_DIR) -> Vocabulary:
    """How a stored text was written as tokens.

    Raises:
        FileNotFoundError: where there is no such text.
        ValueError: where its file is damaged, or for a bucket.
    """
    return _vocabulary(_folder(name, data_dir))


def store_text(
    name: str,
    splits: Mapping[str, np.ndarray],
    vocabulary: Vocabulary,
    data_dir: str | PathLike[str],
) -> Path:
    """Write a text where `text(name, split=..., length=...)` finds it, whole or not at all.

    Args:
        name: of the text: lower-case letters, digits and underscores.
        splits: the tokens of each, one long row.
        vocabulary: that they were written by.
        data_dir: the folder that holds data sets, on this machine's disk.

    Returns:
        The folder `data_dir/name/1.0.0`.

    Raises:
        ValueError: for another name, a bucket, no splits or an empty one, or what is no row of
            the vocabulary's tokens.
        FileExistsError: where there is a data set of that name already.
    """
    check_name(name, data_dir)
    if not splits:
        raise ValueError(f"{name} has no splits: there is nothing to write")
    for split, tokens in splits.items():
        _check_tokens(f"split {split!r} of {name}", tokens, vocabulary.size)
    place = check_place(name, data_dir)
    sizes = {split: len(tokens) for split, tokens in splits.items()}
    with whole_or_nothing(place) as folder:
        for split, tokens in splits.items():
            np.save(folder / f"{split}.npy", tokens.astype(smallest(vocabulary.size), copy=False))
        (folder / RECORD).write_text(json.dumps({**vocabulary.to_json(), "tokens": sizes}))
    return place


def _check_tokens(what: str, tokens: np.ndarray, size: int) -> None:
    if not len(tokens):
        raise ValueError(f"{what} is empty: there is nothing to write")
    if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
        raise ValueError(
            f"{what} is {tokens.dtype}{list(tokens.shape)}: a text is one row of whole numbers"
        )
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high >= size:
        raise ValueError(
            f"{what} holds {low if low < 0 else high}, but the tokens of its vocabulary are 0 to "
            f"{size - 1}"
        )


def _folder(name: str, data_dir: str | PathLike[str]) -> Path:
    if "://" in str(data_dir):
        raise ValueError(
            f"text is read where it lies, and {data_dir} is no folder of this machine: copy it to "
            "one first"
        )
    root = Path(data_dir).expanduser().absolute()
    folder = root / name / VERSION
    if not (folder / RECORD).is_file():
        known = sorted(file.parent.parent.name for file in root.glob(f"*/{VERSION}/{RECORD}"))
        raise FileNotFoundError(
            f"no text {name!r} in {root}{did_you_mean(name, known)}: write it there with "
            f"python -m experiments.prepare --dataset=text --source=FILE --name={name} "
            f"--output={root}, or give the data_dir that holds it"
        )
    return folder


def _opened(folder: Path, split: str, length: int, stride: int) -> Text:
    splits = sorted(file.stem for file in folder.glob("*.npy"))
    if split not in splits:
        raise ValueError(
            f"text {folder.parent.name} has no split {split!r}{did_you_mean(split, splits)}: "
            f"it has {', '.join(splits)}"
        )
    file = folder / f"{split}.npy"
    try:
        tokens = np.load(file, mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise ValueError(f"{file} is damaged ({error}): prepare the text again") from error
    if len(tokens) < length:
        raise ValueError(
            f"{split!r} of text {folder.parent.name} has {len(tokens):,} tokens, fewer than a "
            f"window of length = {length}: take shorter windows, or prepare a longer text"
        )
    return Text(folder, split, length, stride, _vocabulary(folder), tokens)


def _vocabulary(folder: Path) -> Vocabulary:
    file = folder / RECORD
    try:
        return from_json(dict(json.loads(file.read_text())))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file} is damaged ({error}): prepare the text again") from error

"""The pieces of a stored text, such as its words or lines: sequences of different lengths."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np

from jaxflow.data.datasets import DATA_DIR
from jaxflow.data.text import text
from jaxflow.data.vocabulary import Vocabulary

__all__ = ["Pieces", "pieces"]


@dataclass(frozen=True, eq=False, repr=False)
class Pieces(Sequence[Mapping[str, Any]]):
    """Rows `{"x1": int32 [length]}`, padded at their end by the token after the vocabulary."""

    made_by: Mapping[str, Any]
    vocabulary: Vocabulary
    tokens: np.ndarray
    starts: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"there are {len(self)} pieces; got {index}")
        own = self.tokens[self.starts[index] : self.ends[index]]
        row = np.full(self.made_by["length"], self.vocabulary.size, np.int32)
        row[: len(own)] = own
        return {"x1": row}

    def __reduce__(self) -> Any:
        return _again, (dict(self.made_by),)

    def __repr__(self) -> str:
        return f"pieces({', '.join(f'{k}={v!r}' for k, v in self.made_by.items())})"


def pieces(
    name: str,
    *,
    split: str,
    length: int,
    between: str = " ",
    data_dir: str | PathLike[str] = DATA_DIR,
) -> Pieces:
    """The pieces of a text that `python -m experiments.prepare --dataset=text` wrote.

    Args:
        name: of the text.
        split: of it, such as `"train"`.
        length: the most tokens of a piece; longer ones, and empty ones, are left out.
        between: the symbol that parts them: `" "` for words, a line's end for lines.
        data_dir: the folder that holds data sets, on this machine's disk.

    Raises:
        FileNotFoundError: where there is no such text.
        ValueError: as `text`; for what is no single symbol of the vocabulary, or a text without
            a piece of this length.
    """
    whole = text(name, split=split, length=1, data_dir=data_dir)
    if length < 1:
        raise ValueError(f"pieces need a length of 1 at least; got length = {length}")
    apart = whole.vocabulary.encode(between)
    if len(apart) != 1:
        raise ValueError(f"between is {between!r}, {len(apart)} tokens: pieces are parted by one")
    tokens = np.asarray(whole.tokens)
    cuts = np.flatnonzero(tokens == apart[0])
    starts, ends = np.append(0, cuts + 1), np.append(cuts, len(tokens))
    kept = (ends > starts) & (ends - starts <= length)
    if not np.any(kept):
        raise ValueError(
            f"{split!r} of text {name} has no piece of 1 to {length} tokens between {between!r}: "
            "take a greater length, or another symbol"
        )
    made_by = {
        "name": name, "split": split, "length": length, "between": between,
        "data_dir": str(data_dir),
    }  # fmt: skip
    return Pieces(made_by, whole.vocabulary, tokens, starts[kept], ends[kept])


def _again(made_by: dict[str, Any]) -> Pieces:
    return pieces(made_by.pop("name"), **made_by)

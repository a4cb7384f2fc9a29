"""How text becomes tokens, and tokens text again.

A vocabulary of `size` symbols has the tokens 0 to `size - 1`; the token `size` is the mask, which
no text holds.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from jaxflow.names import check_known

__all__ = [
    "Bytes",
    "Characters",
    "Tokenizer",
    "Vocabulary",
    "characters",
    "from_json",
    "smallest",
    "tokenizer",
]

MASK = "_"
SHOWN = 100


@dataclass(frozen=True)
class Characters:
    """A token a character, one of `symbols` in order.

    Raises:
        ValueError: without symbols, or where one of them repeats.
    """

    symbols: str

    def __post_init__(self):
        if not self.symbols:
            raise ValueError("a vocabulary of characters needs one at least; got none")
        if len(set(self.symbols)) < len(self.symbols):
            again = next(s for i, s in enumerate(self.symbols) if s in self.symbols[:i])
            raise ValueError(f"the symbol {again!r} stands twice in a vocabulary: name it once")

    @property
    def size(self) -> int:
        """How many symbols there are."""
        return len(self.symbols)

    def encode(self, text: str) -> np.ndarray:
        """The places of its characters among the symbols.

        Raises:
            ValueError: for a character that is none of them.

        >>> Characters("ab ").encode("a bb")
        array([0, 2, 1, 1], dtype=uint8)
        """
        table = np.full(sys.maxunicode + 1, self.size, smallest(self.size))
        table[_code_points(self.symbols)] = np.arange(self.size)
        tokens = table[_code_points(text)]
        wrong = np.flatnonzero(tokens == self.size)
        if len(wrong):
            at, more = int(wrong[0]), " and so on" if self.size > SHOWN else ""
            raise ValueError(
                f"the character {text[at]!r} at place {at} is none of the {self.size} symbols "
                f"{self.symbols[:SHOWN]!r}{more}: take it out of the text, or prepare the data "
                "with a vocabulary that has it"
            )
        return tokens

    def decode(self, tokens: Any, *, mask: str = MASK) -> str:
        """The characters, with `mask` for every mask.

        Raises:
            ValueError: for a token outside the vocabulary, or what is no row of tokens.

        >>> Characters("ab ").decode([0, 2, 1, 3])
        'a b_'
        """
        codes = _code_points(self.symbols)

        def plain(piece: np.ndarray) -> str:
            return codes[piece].tobytes().decode("utf-32-le", "surrogatepass")

        return _decoded(tokens, self.size, mask, plain)

    def to_json(self) -> dict[str, Any]:
        """What `from_json` makes it of again."""
        return {"kind": "characters", "symbols": self.symbols}


@dataclass(frozen=True)
class Bytes:
    """A token a byte of UTF-8."""

    @property
    def size(self) -> int:
        """256."""
        return 256

    def encode(self, text: str) -> np.ndarray:
        """Its bytes; what was read with `errors="surrogateescape"` has those that it was read of.

        >>> Bytes().encode("é")
        array([195, 169], dtype=uint16)
        """
        content = text.encode(errors="surrogateescape")
        return np.frombuffer(content, np.uint8).astype(smallest(self.size))

    def decode(self, tokens: Any, *, mask: str = MASK) -> str:
        """The text, with `mask` for every mask, and "�" for no UTF-8.

        Raises:
            ValueError: for a token outside the vocabulary, or what is no row of tokens.

        >>> Bytes().decode([195, 169, 256, 195])
        'é_�'
        """

        def plain(piece: np.ndarray) -> str:
            return piece.astype(np.uint8).tobytes().decode(errors="replace")

        return _decoded(tokens, self.size, mask, plain)

    def to_json(self) -> dict[str, Any]:
        """What `from_json` makes it of again."""
        return {"kind": "bytes"}


@dataclass(frozen=True)
class Tokenizer:
    """The tokens of a tokenizer of the `tokenizers` library, by the text of its JSON file.

    The library is needed once tokens are made or read, or counted.
    """

    text: str

    @cached_property
    def _tokenizer(self) -> Any:
        try:
            import tokenizers  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise ValueError(
                "this vocabulary is of the library tokenizers, which is not installed: "
                "pip install 'jaxflow[text]'"
            ) from None
        try:
            found = tokenizers.Tokenizer.from_str(self.text)
        except Exception as error:
            raise ValueError(
                f"the library tokenizers cannot read this tokenizer ({error}): give the text of "
                "the tokenizer.json that it saved"
            ) from error
        if not found.get_vocab_size():
            raise ValueError("this tokenizer has no tokens: train it first")
        return found

    @cached_property
    def _largest(self) -> int:
        return max(self._tokenizer.get_vocab().values())

    @property
    def size(self) -> int:
        """One more than its largest token, added ones too."""
        return self._largest + 1

    def encode(self, text: str) -> np.ndarray:
        """Its tokens, without any that mark beginning or end.

        Raises:
            ValueError: without the library, or for the text of no tokenizer.
        """
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        return np.asarray(ids, smallest(self.size))

    def decode(self, tokens: Any, *, mask: str = MASK) -> str:
        """The text, with `mask` for every mask; what lies between masks is decoded by itself.

        Raises:
            ValueError: for a token outside the vocabulary, what is no row of tokens, or as
                `encode`.
        """

        def plain(piece: np.ndarray) -> str:
            return self._tokenizer.decode(piece.tolist(), skip_special_tokens=False)

        return _decoded(tokens, self.size, mask, plain)

    def to_json(self) -> dict[str, Any]:
        """What `from_json` makes it of again."""
        return {"kind": "tokenizer", "text": self.text}


Vocabulary = Characters | Bytes | Tokenizer
KINDS: Mapping[str, Any] = {"bytes": Bytes, "characters": Characters, "tokenizer": Tokenizer}


def characters(text: str) -> Characters:
    """The characters of a text, in the order of their code points.

    Raises:
        ValueError: for an empty text.

    >>> characters("banana").symbols
    'abn'
    """
    if not text:
        raise ValueError("an empty text has no characters to make a vocabulary of")
    return Characters("".join(sorted(set(text))))


def tokenizer(path: str | PathLike[str]) -> Tokenizer:
    """The tokenizer of a JSON file, as the `tokenizers` library saves one.

    Raises:
        FileNotFoundError: where there is no file.
        ValueError: for a file that is no tokenizer, or without the library.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"there is no tokenizer {file}: give the tokenizer.json of one")
    try:
        found = Tokenizer(file.read_text(encoding="utf-8"))
        found.encode("")
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    return found


def from_json(mapping: Mapping[str, Any]) -> Vocabulary:
    """The vocabulary that `to_json` told of; other entries are left alone.

    Raises:
        ValueError: for another kind, or where an entry is missing.

    >>> from_json({"kind": "characters", "symbols": "ab"})
    Characters(symbols='ab')
    """
    kind = mapping.get("kind")
    check_known("the kind of a vocabulary", kind, KINDS)
    names = [field.name for field in fields(KINDS[str(kind)])]
    missing = [name for name in names if name not in mapping]
    if missing:
        raise ValueError(f"a vocabulary of {kind} needs {missing[0]!r}; got {sorted(mapping)}")
    return KINDS[str(kind)](**{name: mapping[name] for name in names})


def smallest(size: int) -> np.dtype[Any]:
    """The smallest of uint8, uint16 and int32 that holds `size` tokens and the mask."""
    return np.min_scalar_type(size) if size < 2**16 else np.dtype(np.int32)


def _decoded(tokens: Any, size: int, mask: str, plain: Callable[[np.ndarray], str]) -> str:
    """The pieces between masks, each made text by `plain`, joined by `mask`."""
    tokens = np.asarray(tokens)
    if not tokens.size:
        return ""
    if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
        raise ValueError(
            f"tokens are decoded a row at a time, whole numbers [n]; got {tokens.dtype}"
            f"{list(tokens.shape)}"
        )
    wrong = tokens[(tokens < 0) | (tokens > size)]
    if len(wrong):
        raise ValueError(f"{wrong[0]} is no token: they are 0 to {size}, the last of them the mask")
    first, *others = np.split(tokens, np.flatnonzero(tokens == size))
    return mask.join([plain(first), *(plain(piece[1:]) for piece in others)])


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)

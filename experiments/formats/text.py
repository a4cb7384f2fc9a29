"""Text: a file or a folder of files, as tokens, its end held back."""

import gzip
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.formats.splits import existing
from jaxflow.data import vocabulary as vocabularies
from jaxflow.data.vocabulary import Vocabulary

__all__ = ["Tokens", "text"]

ENDINGS = (".txt", ".txt.gz", ".md")


@dataclass(frozen=True, eq=False)
class Tokens:
    """The tokens of each split, and what they are tokens of."""

    splits: Mapping[str, np.ndarray]
    vocabulary: Vocabulary


def text(source: str, vocabulary: str = "characters", held_out: float = 0.05) -> Tokens:
    """A text in the order that it has, its last share the split test, the one before validation.

    Args:
        source: a file, gzip where it ends in `.gz`; or a folder, whose `ENDINGS`, those in folders
            of it too, are joined by newlines in the order of their names.
        vocabulary: `"characters"`, those of the text; `"bytes"`; or the JSON file of a tokenizer.
        held_out: the share, of the tokens.

    Raises:
        FileNotFoundError: where there is no such file, or no text in the folder.
        ValueError: for another vocabulary, a share outside (0, 0.5), a file that is empty,
            damaged, or not in UTF-8 (but for bytes), or a text too short to be parted so.
    """
    if not 0 < held_out < 0.5:
        raise ValueError(f"--held_out={held_out} must be a share between 0 and 0.5, as 0.05")
    known = _vocabulary(vocabulary)
    errors = "surrogateescape" if vocabulary == "bytes" else "strict"
    whole = "\n".join(_read(file, errors) for file in _files(existing(source)))
    known = vocabularies.characters(whole) if known is None else known
    return Tokens(_parted(known.encode(whole), held_out), known)


def _vocabulary(name: str) -> Vocabulary | None:
    """The vocabulary, where it is known before the text."""
    if name == "characters":
        return None
    if name == "bytes":
        return vocabularies.Bytes()
    if name.endswith(".json"):
        return vocabularies.tokenizer(name)
    raise ValueError(
        f"--vocabulary={name} must be characters, bytes, or the file of a tokenizer, FILE.json"
    )


def _files(place: Path) -> Sequence[Path]:
    if not place.is_dir():
        return [place]
    files = [file for file in place.rglob("*") if file.name.endswith(ENDINGS) and file.is_file()]
    if not files:
        raise FileNotFoundError(f"{place} holds no text: its files end in {', '.join(ENDINGS)}")
    return sorted(files)


def _read(file: Path, errors: str) -> str:
    content = file.read_bytes()
    try:
        content = gzip.decompress(content) if file.suffix == ".gz" else content
        if not content:
            raise ValueError(f"{file} is empty: there is nothing to prepare")
        return content.decode(errors=errors)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{file} is not UTF-8 at byte {error.start}: convert it, or take --vocabulary=bytes, "
            "which reads anything"
        ) from error
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{file} is damaged ({error}): fetch it again") from error


def _parted(tokens: np.ndarray, held_out: float) -> Mapping[str, np.ndarray]:
    held = int(held_out * len(tokens))
    if not held:
        raise ValueError(
            f"--held_out={held_out} of {len(tokens)} tokens leaves a split empty: hold more back, "
            "or give a longer text"
        )
    train, validation, test = np.split(tokens, [len(tokens) - 2 * held, len(tokens) - held])
    return {"train": train, "validation": validation, "test": test}

"""Samples of tokens as text: written out, drawn, and held against the data."""

import importlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict
from PIL import Image, ImageDraw, ImageFont

from experiments.output.generate import Samples
from experiments.setup import dataset
from experiments.setup.learns import are_edited, are_soft
from experiments.setup.tokens import vocabulary_of
from jaxflow import metrics

__all__ = [
    "compare",
    "draw_text",
    "given_of",
    "is_tokens",
    "page_of",
    "reference_of",
    "texts_of",
    "unfolding",
]

BLANK = "_"
ACROSS = 96  # letters a line
LINES = 40
SIZE = 14
COPIES = 32


def is_tokens(x: np.ndarray) -> bool:
    """Whether samples are sequences of whole numbers, `[n, length]`."""
    return x.ndim == 2 and np.issubdtype(x.dtype, np.integer)


def texts_of(config: ConfigDict, x: np.ndarray) -> list[str]:
    """Each sample as text; as numbers where the data is no text."""
    vocabulary = vocabulary_of(config)
    if vocabulary is None:
        return [" ".join(map(str, row)) for row in x]
    return [vocabulary.decode(row[row < vocabulary.size]) for row in x]


def given_of(config: ConfigDict, prompt: str | None, infill: str | None) -> np.ndarray | None:
    """The tokens that every sample has, `[length]`, -1 for one that is drawn; None for none.

    Args:
        config: of a run of text.
        prompt: how each begins.
        infill: the same, each "_" in it a token to be drawn.

    Raises:
        ValueError: for both, for data that is no text, a symbol outside its vocabulary, or more
            tokens than a sample has.
    """
    text = prompt if infill is None else infill
    if text is None:
        return None
    if prompt is not None and infill is not None:
        raise ValueError(
            "give a --prompt, or --infill with a _ for each token to be drawn, not both"
        )
    if are_soft(config) or are_edited(config):
        kind = "of soft tokens, which flow together" if are_soft(config) else "of edits"
        raise ValueError(
            f"config.path ({config.path.name!r}) is {kind}: prompts are of tokens that jump, "
            "config.path.name='mixture'"
        )
    vocabulary = vocabulary_of(config)
    if vocabulary is None:
        raise ValueError(f"config.data.source ({config.data.source.name!r}) is no text to be begun")
    pieces = [text] if infill is None else text.split(BLANK)
    tokens: list[int] = []
    for i, piece in enumerate(pieces):
        tokens += [-1] * (i > 0) + vocabulary.encode(piece).tolist()
    length = config.data.source.kwargs.length
    if len(tokens) > length:
        raise ValueError(
            f"{text!r} has {len(tokens)} tokens, but a sample of this run {length}: shorten it"
        )
    return np.array(tokens + [-1] * (length - len(tokens)), np.int32)


def unfolding(config: ConfigDict, x: np.ndarray) -> list[str]:
    """Each sequence as text, "_" in the place of a mask."""
    masks = x >= config.network.kwargs.vocabulary
    shown = []
    for row, masked in zip(x, masks, strict=True):
        cuts = np.flatnonzero(np.diff(masked)) + 1
        runs = zip(np.split(row, cuts), np.split(masked, cuts), strict=True)
        shown.append("".join(_run(config, run, bool(hidden[0])) for run, hidden in runs))
    return shown


def _run(config: ConfigDict, tokens: np.ndarray, hidden: bool) -> str:
    return BLANK * len(tokens) if hidden else texts_of(config, tokens[None])[0]


def draw_text(path: epath.Path, texts: Sequence[str]) -> None:
    """A picture of as many texts as fit on a page."""
    with path.open("wb") as file:
        page_of(texts).save(file, "PNG")


def page_of(texts: Sequence[str]) -> Image.Image:
    """As many texts as fit on a page, each begun on a line of its own."""
    import matplotlib as mpl

    font = ImageFont.truetype(f"{mpl.get_data_path()}/fonts/ttf/DejaVuSansMono.ttf", SIZE)
    lines: list[str] = []
    for text in texts:
        shown = "".join(letter if letter.isprintable() else "·" for letter in text)
        lines += [shown[i : i + ACROSS] for i in range(0, len(shown), ACROSS)] + [""]
    lines = lines[:LINES]
    width, height = math.ceil(font.getlength("m" * ACROSS)) + SIZE, int(1.4 * SIZE)
    page = Image.new("L", (width, height * len(lines) + SIZE), 255)
    for i, line in enumerate(lines):
        ImageDraw.Draw(page).text((SIZE // 2, SIZE // 2 + i * height), line, fill=0, font=font)
    return page


def compare(
    config: ConfigDict, samples: Samples, reference: Any = None
) -> dict[str, dict[str, float]]:
    """A row of figures for the samples, and one for as many held-out sequences.

    Entropies are those of a token given the one or two before it, in bits; the divergence is that
    of triples of tokens from those of the training text; and the perplexity that under a reference,
    where there is one.
    """
    if are_edited(config):
        return _of_pieces(config, samples.x)
    train = dataset.examples(config, config.data.source.kwargs.split)["x1"].ravel()
    held = dataset.examples(config, config.evaluation.split, len(samples.x))["x1"]
    vocabulary = vocabulary_of(config)
    known = None if vocabulary is None else metrics.words_of(vocabulary.decode(train))
    contenders = {"samples": samples.x, "held-out data": held}
    rows = {name: _figures(config, x, train, known) for name, x in contenders.items()}
    if reference is not None:
        for name, x in contenders.items():
            rows[name]["perplexity"] = metrics.perplexity(texts_of(config, x), reference)
    return rows


def _of_pieces(config: ConfigDict, x: np.ndarray) -> dict[str, dict[str, float]]:
    """How long they are, how many the training text has, and how many are none of the others."""
    split = config.data.source.kwargs.split
    known = set(texts_of(config, dataset.examples(config, split)["x1"]))
    held = dataset.examples(config, config.evaluation.split, len(x))["x1"]
    rows = {}
    for name, part in {"samples": x, "held-out data": held}.items():
        found = texts_of(config, part)
        rows[name] = {
            "symbols": float(np.mean([len(piece) for piece in found])),
            "known": float(np.mean([piece in known for piece in found])),
            "different": len(set(found)) / len(found),
        }
    return rows


def reference_of(name: str) -> Any:
    """The function that a flag names as `MODULE:FUNCTION`.

    Raises:
        ValueError: where there is none.
    """
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"--reference={name} names no function ({error}): it is MODULE:FUNCTION, importable "
            "here, from a list of texts to the log-probability of each and its number of tokens"
        ) from error


def _figures(
    config: ConfigDict, x: np.ndarray, train: np.ndarray, known: frozenset[str] | None
) -> dict[str, float]:
    size = config.network.kwargs.vocabulary
    row = {
        name: metrics.ngram_entropy(x, n, vocabulary=size)
        for n, name in ((1, "unigram bits"), (2, "bigram bits"), (3, "trigram bits"))
    }
    row["trigram divergence"] = metrics.ngram_kl(x, train, 3, vocabulary=size)
    if known is not None:
        row["spelled"] = metrics.spelling_rate(texts_of(config, x), known)
    row["longest copy"] = float(np.mean(metrics.longest_copy(x[:COPIES], train)))
    return row

r"""How sequences of tokens are held against text: their n-grams, their words, what they copied.

(1) the entropy of a token given the $n - 1$ before it, $H(w_n \mid w_{1..n-1}) = H_n - H_{n-1}$,
    with $H_n$ that of the n-grams as counted

(2) the divergence of the n-grams of samples, with shares $p$, from those of a reference with counts
    $c$, $\sum_w p_w \log_2 (p_w / q_w)$ and $q_w = (c_w + a) / (\sum_v c_v + a m)$, $a$ the
    smoothing and $m$ the number of n-grams that either has

N-grams lie within a row. A text that was read in one piece is a single row.
"""

import re
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from jaxflow.types import AnyArray

__all__ = ["longest_copy", "ngram_entropy", "ngram_kl", "spelling_rate", "words_of"]

Rows = Int[AnyArray, "*rows"]

_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")
SIEVE_BITS = 22
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def ngram_entropy(tokens: Any, n: int, *, vocabulary: int) -> float:
    """The entropy (1) of a token given those before it, in bits.

    Args:
        tokens: whole numbers, `[batch, length]`, or one row `[length]`.
        n: tokens of an n-gram, that of interest among them.
        vocabulary: how many tokens there are.

    Raises:
        ValueError: for a token outside the vocabulary, rows shorter than `n`, or none.

    >>> ngram_entropy(np.array([0, 1] * 50), 1, vocabulary=2)
    1.0
    """
    grams = _ngrams(tokens, n, vocabulary)
    if n == 1:
        return _entropy(grams)
    return max(0.0, _entropy(grams) - _entropy(grams // vocabulary))


def ngram_kl(
    samples: Any, reference: Any, n: int, *, vocabulary: int, smoothing: float = 0.5
) -> float:
    """The divergence (2) of the n-grams of samples from those of a reference, in bits.

    Args:
        samples, reference, n, vocabulary: as for `ngram_entropy`.
        smoothing: $a$ of (2).

    Raises:
        ValueError: as `ngram_entropy`; or without smoothing, for an n-gram not in the reference.

    >>> ngram_kl(np.array([0, 0, 1, 1]), np.array([0, 1]), 1, vocabulary=2, smoothing=0.0)
    0.0
    """
    if not smoothing >= 0:
        raise ValueError(f"smoothing is 0 or more; got {smoothing}")
    found, counts = np.unique(_ngrams(samples, n, vocabulary), return_counts=True)
    known, of_known = np.unique(_ngrams(reference, n, vocabulary), return_counts=True)
    place = np.minimum(np.searchsorted(known, found), len(known) - 1)
    seen = np.where(known[place] == found, of_known[place], 0)
    if smoothing == 0 and not np.all(seen):
        raise ValueError(
            f"the samples have an {n}-gram that the reference lacks, so their divergence is "
            "infinite: give smoothing=0.5"
        )
    either = len(known) + int(np.sum(seen == 0))
    q = (seen + smoothing) / (of_known.sum() + smoothing * either)
    p = counts / counts.sum()
    return float(np.sum(p * np.log2(p / q)))


def words_of(text: str) -> frozenset[str]:
    """The words of a text, in lower case: runs of letters, with apostrophes inside.

    >>> sorted(words_of("It's a cat, a CAT."))
    ['a', 'cat', "it's"]
    """
    return frozenset(_WORD.findall(text.lower()))


def spelling_rate(texts: Sequence[str], words: Collection[str]) -> float:
    """The share of the words of samples that are known; the ends of each, cut perhaps, left out.

    Args:
        texts: the samples.
        words: those that are known, in lower case, as `words_of` a training text.

    Raises:
        ValueError: where no text has a word inside.

    >>> spelling_rate(["he cat sat on teh mat"], {"cat", "sat", "on", "the", "mat"})
    0.75
    """
    found = [word for text in texts for word in _WORD.findall(text.lower())[1:-1]]
    if not found:
        raise ValueError(
            f"none of {len(texts)} texts has a word between its first and last: give longer ones"
        )
    return sum(word in words for word in found) / len(found)


def longest_copy(samples: Any, reference: Any) -> Int[np.ndarray, "batch"]:
    """How many tokens in a row each sample shares with the reference, at most.

    Args:
        samples: whole numbers, `[batch, length]`.
        reference: whole numbers, `[length]`.

    Raises:
        ValueError: for what are no whole numbers, or no rows.

    >>> longest_copy(np.array([[1, 2, 3, 9], [7, 7, 7, 7]]), np.array([0, 1, 2, 3, 4]))
    array([3, 0])
    """
    rows, text = _checked(samples), _checked(reference).ravel()
    if rows.ndim != 2 or not rows.size:
        raise ValueError(f"samples are rows of tokens [batch, length]; got shape {rows.shape}")
    low = np.zeros(len(rows), np.int64)
    step = 1 << (rows.shape[1].bit_length() - 1)
    while step:  # the largest length that is shared, bit by bit: what is shared is in its parts too
        tried = low + step
        for length in np.unique(tried[tried <= min(rows.shape[1], len(text))]):
            which = np.flatnonzero(tried == length)
            low[which] = np.where(_shares(rows[which], text, int(length)), length, low[which])
        step >>= 1
    return low


def _shares(rows: np.ndarray, text: np.ndarray, length: int) -> np.ndarray:
    """Whether each row has a run of `length` tokens that the text has."""
    known, wanted = _hashes(text[None], length)[0], _hashes(rows, length)
    sieve = np.zeros(1 << SIEVE_BITS, bool)
    shift = np.uint64(64 - SIEVE_BITS)
    sieve[(wanted * _FACTOR) >> shift] = True
    hits = np.flatnonzero(sieve[(known * _FACTOR) >> shift])
    if not hits.size:
        return np.zeros(len(rows), bool)
    alike, first = np.unique(known[hits], return_index=True)
    at = np.minimum(np.searchsorted(alike, wanted), alike.size - 1)
    likely = alike[at] == wanted
    row, start = np.nonzero(likely)
    steps = np.arange(length)
    runs = text[hits[first[at[row, start]]][:, None] + steps]
    same = np.all(runs == rows[row[:, None], start[:, None] + steps], axis=1)
    return np.bincount(row[same], minlength=len(rows)) > 0


def _hashes(rows: np.ndarray, length: int) -> np.ndarray:
    """A polynomial of each window modulo 2^64, by doubling: that of two halves, one behind."""
    base = (rows.astype(np.uint64) + np.uint64(1)) * _FACTOR
    base ^= base >> np.uint64(29)
    power, whole = _FACTOR | np.uint64(1), base
    total, done, factor = None, 0, np.uint64(1)
    size = 1
    with np.errstate(over="ignore"):
        while length >> (size.bit_length() - 1):
            if length & size:
                piece = whole[:, done:]
                if total is None:
                    total, factor = piece, power
                else:
                    n = min(total.shape[1], piece.shape[1])
                    total, factor = total[:, :n] + factor * piece[:, :n], factor * power
                done += size
            n = whole.shape[1] - size
            if n <= 0:
                break
            whole, power = whole[:, :n] + power * whole[:, size:], power * power
            size <<= 1
    assert total is not None
    return total[:, : rows.shape[1] - length + 1]


def _ngrams(tokens: Any, n: int, vocabulary: int) -> np.ndarray:
    """Each n-gram as a number."""
    rows = np.atleast_2d(_checked(tokens))
    if n < 1 or float(vocabulary) ** n >= 2**63:
        raise ValueError(f"n-grams of {vocabulary} tokens are numbers for n of 1 or more; got {n}")
    if not rows.size or rows.shape[1] < n:
        raise ValueError(f"rows of {rows.shape} tokens have no {n}-gram: give longer ones")
    low, high = int(rows.min()), int(rows.max())
    if low < 0 or high >= vocabulary:
        wrong = low if low < 0 else high
        raise ValueError(
            f"token {wrong} is outside the vocabulary, 0 to {vocabulary - 1}: a mask that is left "
            "in a sample is no token"
        )
    rows = rows.astype(np.int64)
    width = rows.shape[1] - n + 1
    grams = np.zeros((len(rows), width), np.int64)
    for i in range(n):
        grams = grams * vocabulary + rows[:, i : i + width]
    return grams.ravel()


def _checked(tokens: Any) -> np.ndarray:
    tokens = np.asarray(tokens)
    if not np.issubdtype(tokens.dtype, np.integer):
        raise ValueError(f"tokens are whole numbers; got {tokens.dtype}")
    return tokens


def _entropy(grams: np.ndarray) -> float:
    counts = np.unique(grams, return_counts=True)[1]
    shares = counts / counts.sum()
    return float(-np.sum(shares * np.log2(shares)))

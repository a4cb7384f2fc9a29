r"""Generated sequences of tokens against a text: their n-grams, their words, and what they copy.

(1) $H(w_n \mid w_1 \dots w_{n-1}) = \sum_w p_w \log_2 (c_{w_1 \dots w_{n-1}} / c_w)$, of n-grams
    $w$ with counts $c_w$ and shares $p_w$; of one token, its plain entropy

(2) $D = \sum_w p_w \log_2 (p_w / q_w)$ with $q_w = (r_w + a) / (\sum_v r_v + a m)$: shares $p_w$ of
    the samples' n-grams, counts $r_w$ of the reference's, smoothing $a$, and $m$ the number of
    different n-grams that either has

(3) $\exp(-\sum_i \log p(x_i) / \sum_i n_i)$ of texts $x_i$ of $n_i$ tokens under a reference model

N-grams lie within a row; a text read in one piece is a single row. (1) and (2) are plug-in
estimates, (1) biased downwards and (2) mostly upwards where n-grams are many for the tokens there
are: compare them with those of held-out text of the same size.
"""

import math
import re
from collections.abc import Callable, Collection, Sequence

import numpy as np
from numpy.typing import ArrayLike

from jaxflow.types import Int

__all__ = ["longest_copy", "ngram_entropy", "ngram_kl", "perplexity", "spelling_rate", "words_of"]

Reference = Callable[[Sequence[str]], tuple[ArrayLike, ArrayLike]]
WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")


def ngram_entropy(tokens: ArrayLike, n: int, *, vocabulary: int) -> float:
    """The entropy (1) of a token given the `n - 1` before it, in bits.

    Args:
        tokens: integers, `[batch, length]`, or a text as one row, `[length]`.
        n: the length of an n-gram, whose last token is the one in question.
        vocabulary: how many tokens there are.

    Raises:
        ValueError: for no integers, no tokens, a token outside the vocabulary, rows shorter than
            `n`, an `n` below 1, or n-grams too many to be numbered in 63 bits.

    >>> ngram_entropy([0, 1, 0, 1, 0, 1], 1, vocabulary=2)
    1.0
    >>> ngram_entropy([0, 1, 0, 1, 0, 1], 2, vocabulary=2)
    0.0
    """
    grams, counts = np.unique(_ngrams(tokens, n, vocabulary, "tokens"), return_counts=True)
    _, before = np.unique(grams // vocabulary, return_inverse=True)
    of_context = np.bincount(before, weights=counts)[before]
    return float(np.sum(counts * np.log2(of_context / counts)) / counts.sum())


def ngram_kl(
    samples: ArrayLike, reference: ArrayLike, n: int, *, vocabulary: int, smoothing: float = 0.5
) -> float:
    """The divergence (2) of the samples' n-grams from the reference's, in bits.

    Args:
        samples: integers, `[batch, length]`, or one row, `[length]`.
        reference: likewise, of any length.
        n: the length of an n-gram.
        vocabulary: how many tokens there are.
        smoothing: the $a$ of (2); 0 compares the counts themselves.

    Raises:
        ValueError: as `ngram_entropy`, for a negative or infinite smoothing, and for a smoothing of
            0 where the reference lacks an n-gram of the samples.

    >>> ngram_kl([0, 0, 1, 1], [0, 1], 1, vocabulary=2, smoothing=0.0)
    0.0
    >>> ngram_kl([0, 0], [0, 1], 1, vocabulary=2)
    1.0
    """
    if not 0 <= smoothing < math.inf:
        raise ValueError(f"got smoothing={smoothing}: give a finite number, 0 or more")
    found, counts = np.unique(_ngrams(samples, n, vocabulary, "samples"), return_counts=True)
    known, times = np.unique(_ngrams(reference, n, vocabulary, "reference"), return_counts=True)
    place = _places(found, known)
    seen = np.where(place >= 0, times[place], 0)
    unseen = int(np.sum(seen == 0))
    if smoothing == 0 and unseen:
        raise ValueError(
            f"the reference lacks {unseen} of the samples' {len(found)} {n}-grams, so the "
            "divergence is infinite with smoothing=0: give a positive one, such as 0.5"
        )
    q = (seen + smoothing) / (times.sum() + smoothing * (len(known) + unseen))
    p = counts / counts.sum()
    return float(np.sum(p * np.log2(p / q)))


def perplexity(texts: Sequence[str], reference: Reference) -> float:
    """The generative perplexity (3) of texts under a model of one's own: low for what it expects.

    Texts that repeat themselves are expected too, so it says little without `ngram_entropy`.

    Args:
        texts: the samples, as text.
        reference: from the texts to the log-probability of each, in nats, and its number of tokens,
            both `[n]`: of tokens of the reference's own, as a large language model has.

    Raises:
        ValueError: where the reference gives anything else, or no token at all.

    >>> perplexity(["ab", "abcd"], lambda texts: ([-2.0, -4.0], [len(text) for text in texts]))
    2.718281828459045
    """
    log_probs, counts = (np.asarray(a, np.float64) for a in reference(texts))
    if log_probs.shape != (len(texts),) or counts.shape != (len(texts),):
        raise ValueError(
            f"the reference gives log-probabilities of shape {log_probs.shape} and counts of shape "
            f"{counts.shape} for {len(texts)} texts: one of each a text is needed"
        )
    if not counts.sum() > 0:
        raise ValueError("the reference counts no token in all of the texts")
    return float(np.exp(-log_probs.sum() / counts.sum()))


def words_of(text: str) -> frozenset[str]:
    """The words of a text in lower case: runs of letters, with apostrophes inside them.

    >>> sorted(words_of("It's a 'cat', a CAT."))
    ['a', 'cat', "it's"]
    """
    return frozenset(WORD.findall(text.lower()))


def spelling_rate(texts: Sequence[str], words: Collection[str]) -> float:
    """The share of the whole words in samples that are known.

    Args:
        texts: the samples. The first and the last word of each may be cut and do not count.
        words: those that are known, in lower case, as `words_of` a training text gives them.

    Raises:
        ValueError: where no text has a word between its first and its last.

    Real text has a rate below 1 as well, by names and rare words: held-out text gives the scale.

    >>> spelling_rate(["he cat sat on teh mat of"], words_of("The cat sat on the mat."))
    0.8
    """
    known = frozenset(words)
    found = [word for text in texts for word in WORD.findall(text.lower())[1:-1]]
    if not found:
        raise ValueError(
            f"none of {len(texts)} texts has a whole word, between its first and its last: "
            "give longer texts"
        )
    return sum(word in known for word in found) / len(found)


def longest_copy(samples: ArrayLike, reference: ArrayLike) -> Int[np.ndarray, "batch"]:
    """For each sample, the length of its longest run of tokens that the reference has somewhere.

    Args:
        samples: integers, `[batch, length]`.
        reference: integers, `[n]`: a training text as one row.

    Raises:
        ValueError: for no integers, no tokens, or another number of axes.

    Exact: windows of the samples are named, those of twice the length by pairs of names, and the
    text is read in the same names. A run of `k` holds runs of `k - 1`, so the bits of the length
    are found from the highest down. Grows with the text: compare with held-out data.

    >>> longest_copy([[1, 2, 3, 9], [7, 7, 7, 7]], [0, 1, 2, 3, 4])
    array([3, 0])

    Reference: Karp, Miller and Rosenberg, Rapid Identification of Repeated Patterns in Strings,
    Trees and Arrays, 1972, STOC.
    """
    rows, text = _integers(samples, "samples", 2), _integers(reference, "reference", 1)
    names, row_names = np.unique(rows, return_inverse=True)
    levels = [(row_names.reshape(rows.shape), _places(text, names))]
    most = min(rows.shape[1], len(text))
    while 2 ** len(levels) <= most and np.any(levels[-1][1] >= 0):
        levels.append(_joined(*levels[-1], 2 ** (len(levels) - 1)))
    longest = np.zeros(len(rows), np.int64)
    for bit in reversed(range(len(levels))):
        tried = longest + 2**bit
        for length in map(int, np.unique(tried[tried <= most])):
            which = np.flatnonzero(tried == length)
            level = length.bit_length() - 1
            row_names, text_names = levels[level]
            shared = _shared(*_joined(row_names[which], text_names, length - 2**level))
            longest[which[shared]] = length
    return longest


def _joined(rows: np.ndarray, text: np.ndarray, apart: int) -> tuple[np.ndarray, np.ndarray]:
    """Names of the windows made of two that start `apart`; -1 for those of no row."""
    if apart == 0:
        return rows, text
    size = int(rows.max()) + 1
    pairs = rows[:, :-apart] * size + rows[:, apart:]
    names, row_names = np.unique(pairs, return_inverse=True)
    first, second = text[:-apart], text[apart:]
    at = np.flatnonzero((first >= 0) & (first < size) & (second >= 0) & (second < size))
    text_names = np.full(len(first), -1, np.int64)
    text_names[at] = _places(first[at] * size + second[at], names)
    return row_names.reshape(pairs.shape), text_names


def _shared(rows: np.ndarray, text: np.ndarray) -> np.ndarray:
    """Whether each row has a name that the text has."""
    has = np.zeros(int(rows.max()) + 1, bool)
    has[text[(text >= 0) & (text < len(has))]] = True
    return np.any(has[rows], axis=1)


def _places(values: np.ndarray, names: np.ndarray) -> np.ndarray:
    """Where each value stands among sorted names; -1 for none."""
    place = np.minimum(np.searchsorted(names, values), len(names) - 1)
    return np.where(names[place] == values, place, -1)


def _ngrams(tokens: ArrayLike, n: int, vocabulary: int, name: str) -> np.ndarray:
    """The number of each n-gram, its last token the lowest digit."""
    rows = np.atleast_2d(_integers(tokens, name, 1, 2))
    if n < 1:
        raise ValueError(f"got n={n}: an n-gram has at least one token, so give 1 or more")
    if rows.shape[1] < n:
        raise ValueError(f"got {name} of shape {rows.shape}, too short for n={n}: give longer rows")
    if vocabulary**n >= 2**63:
        raise ValueError(f"{vocabulary}^{n} n-grams are 2^63 or more: give a smaller n")
    wrong = rows[(rows < 0) | (rows >= vocabulary)]
    if wrong.size:
        raise ValueError(
            f"got the token {wrong[0]} in {name}, outside 0 to {vocabulary - 1}: a mask left in a "
            "sample is not a token, so finish or drop such samples"
        )
    width = rows.shape[1] - n + 1
    grams = np.zeros((len(rows), width), np.int64)
    for i in range(n):
        grams = grams * vocabulary + rows[:, i : i + width]
    return grams.ravel()


def _integers(tokens: ArrayLike, name: str, *axes: int) -> np.ndarray:
    x = np.asarray(tokens)
    if x.ndim not in axes or not x.size:
        shapes = " or ".join({1: "[length]", 2: "[batch, length]"}[a] for a in axes)
        raise ValueError(f"got {name} of shape {x.shape}: give at least one token, {shapes}")
    if not np.issubdtype(x.dtype, np.integer):
        raise ValueError(f"got {name} of {x.dtype}: tokens are integers, so give their indices")
    return x.astype(np.int64)

"""Metrics of sequences of tokens against closed forms, counts by hand and brute force."""

import itertools
import math
from collections import Counter

import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import metrics


def repeated(counts):
    """Rows, each as often as counted."""
    return np.array([row for row, count in counts.items() for _ in range(count)])


def de_bruijn(k, n):
    """A cycle in which every n-gram of `k` tokens stands once: the Lyndon words of lengths | n."""
    words = [
        w for m in range(1, n + 1) if n % m == 0 for w in itertools.product(range(k), repeat=m)
    ]
    lyndon = [w for w in words if all(w < w[i:] + w[:i] for i in range(1, len(w)))]
    return [token for word in sorted(lyndon) for token in word]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_entropy_of_an_enumerated_chain(n):
    """Stays at 0 with 1/2 and at 1 with 3/4, so is at 0 a third of the time; all rows counted."""
    stay, start = {0: 1 / 2, 1: 3 / 4}, {0: 1 / 3, 1: 2 / 3}
    rows = {}
    for row in itertools.product((0, 1), repeat=n):
        steps = [stay[a] if a == b else 1 - stay[a] for a, b in itertools.pairwise(row)]
        rows[row] = round(48 * start[row[0]] * math.prod(steps))
    assert sum(rows.values()) == 48
    quarter = 0.75 * math.log2(4 / 3) + 0.25 * 2
    expected = 1 / 3 + 2 / 3 * quarter if n > 1 else math.log2(3) - 2 / 3
    found = metrics.ngram_entropy(repeated(rows), n, vocabulary=2)
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("k", "n"), [(2, 1), (3, 2), (4, 3), (2, 8)])
def test_entropy_of_de_bruijn_cycles(k, n):
    """The next token is free given fewer than `n` before it, and told by `n` of them."""
    cycle = de_bruijn(k, n)
    assert len(cycle) == k**n
    for m in range(1, n + 1):
        unrolled = np.array(cycle + cycle[: m - 1])
        assert metrics.ngram_entropy(unrolled, m, vocabulary=k) == pytest.approx(math.log2(k))
    assert metrics.ngram_entropy(cycle + cycle[:n], n + 1, vocabulary=k) == 0


@pytest.mark.parametrize("n", [1, 2, 3])
def test_entropy_of_even_tokens(n):
    """What is missing is a likelihood ratio: of `(k - 1) k^(n - 1)` degrees; |z| < 4."""
    k, rows = 5, np.random.default_rng(n).integers(0, 5, (200_000, n))
    missing = math.log2(k) - metrics.ngram_entropy(rows, n, vocabulary=k)
    degrees = (k - 1) * k ** (n - 1)
    z = (2 * len(rows) * math.log(2) * missing - degrees) / math.sqrt(2 * degrees)
    assert abs(z) < 4


def test_entropy_of_a_sure_token_is_plain_zero():
    assert str(metrics.ngram_entropy([[2, 2]], 1, vocabulary=3)) == "0.0"


def test_rows_are_not_joined():
    rows = np.array([[0, 0], [1, 1]])
    assert metrics.ngram_entropy(rows, 2, vocabulary=2) == 0
    assert metrics.ngram_entropy(rows.ravel(), 2, vocabulary=2) == pytest.approx(2 / 3)
    assert metrics.ngram_kl(rows, [0, 0, 0, 1, 1], 2, vocabulary=2, smoothing=0) == pytest.approx(
        0.5 * math.log2(0.5 / 0.5) + 0.5 * math.log2(0.5 / 0.25)
    )


def test_divergence_by_hand():
    """Of 0 0 0 1 from 0 1 1 1 2, where three tokens are seen in either: never the fourth."""
    samples, reference = [0, 0, 0, 1], [0, 1, 1, 1, 2]
    plain = 0.75 * math.log2(0.75 / 0.2) + 0.25 * math.log2(0.25 / 0.6)
    smooth = 0.75 * math.log2(0.75 / (1.5 / 6.5)) + 0.25 * math.log2(0.25 / (3.5 / 6.5))
    unseen = math.log2(1 / (2 / 13))  # of 3 3, with all four tokens and a = 2
    for x, smoothing, expected in (
        (samples, 0.0, plain),
        (samples, 0.5, smooth),
        ([3, 3], 2.0, unseen),
    ):
        found = metrics.ngram_kl(x, reference, 1, vocabulary=4, smoothing=smoothing)
        assert found == pytest.approx(expected, rel=1e-12)
    assert metrics.ngram_kl(samples, reference, 1, vocabulary=4) == pytest.approx(smooth)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_divergence_is_its_definition(n):
    rng = np.random.default_rng(n)
    x, y = rng.integers(0, 4, (5, 9)), rng.integers(1, 6, (3, 20))
    of_x, of_y = (
        Counter(tuple(row[i : i + n]) for row in z.tolist() for i in range(len(row) - n + 1))
        for z in (x, y)
    )
    either = of_x.keys() | of_y.keys()
    q = {w: (of_y[w] + 0.1) / (of_y.total() + 0.1 * len(either)) for w in either}
    assert sum(q.values()) == pytest.approx(1)
    p = {w: c / of_x.total() for w, c in of_x.items()}
    expected = sum(p[w] * math.log2(p[w] / q[w]) for w in p)
    found = metrics.ngram_kl(x, y, n, vocabulary=6, smoothing=0.1)
    assert found == pytest.approx(expected, rel=1e-12)
    assert metrics.ngram_kl(x, x, n, vocabulary=6, smoothing=0) == 0
    assert metrics.ngram_kl(np.tile(x, (3, 1)), x, n, vocabulary=6, smoothing=0) == pytest.approx(0)


def test_numbers_up_to_the_last_bit():
    """6^24 lies between 2^62 and 2^63; the last n-gram is told from the one before."""
    rows = np.full((2, 24), 5, np.uint64)
    rows[1, -1] = 4
    assert metrics.ngram_entropy(rows, 24, vocabulary=6) == 1
    with pytest.raises(ValueError, match="smaller n"):
        metrics.ngram_entropy(np.zeros((1, 25), int), 25, vocabulary=6)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "uint32", "int64", "uint64"])
def test_every_kind_of_integer(dtype):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 27, (4, 30)), rng.integers(0, 27, 900)
    for call in (
        lambda x, y: metrics.ngram_entropy(x, 3, vocabulary=27),
        lambda x, y: metrics.ngram_kl(x, y, 2, vocabulary=27),
        lambda x, y: metrics.longest_copy(x, y).tolist(),
    ):
        expected = call(x, y)
        assert call(x.astype(dtype), y.astype(dtype)) == expected
        assert call(x.tolist(), y.tolist()) == expected
        assert call(jnp.asarray(x), jnp.asarray(y)) == expected


def longest(row, text):
    """By listing every run of the text."""
    runs = {tuple(text[i:j]) for i in range(len(text)) for j in range(i + 1, len(text) + 1)}
    spans = itertools.combinations(range(len(row) + 1), 2)
    return max((j - i for i, j in spans if tuple(row[i:j]) in runs), default=0)


@pytest.mark.parametrize("seed", range(10))
def test_longest_copy_is_that_of_brute_force(seed):
    rng = np.random.default_rng(seed)
    for _ in range(150):
        tokens = rng.integers(1, 5)
        text = rng.integers(0, tokens, rng.integers(1, 40))
        rows = rng.integers(
            0, tokens + rng.integers(0, 2), (rng.integers(1, 6), rng.integers(1, 24))
        )
        if len(text) > 4:  # a copy of its own, at either end or between
            piece = text[rng.integers(len(text) - 4) :][: rows.shape[1]]
            rows[0, : len(piece)] = piece
        found = metrics.longest_copy(rows, text)
        assert found.shape == (len(rows),)
        assert found.tolist() == [longest(row, text.tolist()) for row in rows.tolist()]


@pytest.mark.parametrize("length", [1, 2, 3, 31, 32, 33, 63, 64])
def test_longest_copy_of_planted_runs(length):
    """At the start, the end and between; tokens of the text are never those around the run."""
    text = np.random.default_rng(0).integers(0, 30, 5000)
    rows = np.full((3, 64), 99)
    rows[0, :length], rows[1, -length:] = text[:length], text[-length:]
    rows[2, (64 - length) // 2 :][:length] = text[2000 : 2000 + length]
    assert metrics.longest_copy(rows, text).tolist() == [length] * 3


def test_longest_copy_where_polynomial_hashes_collide():
    """A Thue-Morse word and its complement are one to every polynomial modulo 2^64."""
    word = np.array([i.bit_count() % 2 for i in range(2048)])
    text = np.concatenate([1 - word, [2], word])
    assert metrics.longest_copy([word], text) == 2048
    assert metrics.longest_copy([word], 1 - word) < 2048


def test_words():
    known = metrics.words_of("The cat's mat; a 'dog', 2nd_best: café.")
    assert known == {"the", "cat's", "mat", "a", "dog", "nd", "best", "café"}
    assert metrics.words_of("12, ' -") == frozenset()


@pytest.mark.parametrize(
    ("texts", "rate"),
    [
        (["the cat sat on the mat"], 1.0),
        (["e cat sat on the ma"], 1.0),  # the ends are cut
        (["the cta sat no the mat"], 0.5),
        (["THE Cat, SAT: on-the mat"], 1.0),
        (["x sat y", "x cat don't teh on y", "sat", ""], 0.6),  # of all words, not of texts
        (["the dog dog dog cat mat"], 0.25),  # each time
    ],
)
def test_spelling(texts, rate):
    known = metrics.words_of("The cat sat on the mat.")
    for words in (known, sorted(known), dict.fromkeys(known)):
        assert metrics.spelling_rate(texts, words) == rate


REFUSALS = {
    "token above": (lambda f: f([[0, 3]], 1), "token 3 in .*outside 0 to 2: a mask left in"),
    "token below": (lambda f: f([[0, -1]], 1), "token -1 in .*outside 0 to 2: a mask left in"),
    "short rows": (lambda f: f([[0, 1], [1, 0]], 3), r"of shape \(2, 2\), too short for n=3: give"),
    "n of 0": (lambda f: f([[0, 1]], 0), "got n=0: .*1 or more"),
    "n below 0": (lambda f: f([[0, 1]], -1), "got n=-1: .*1 or more"),
    "floats": (lambda f: f([[0.0, 1.0]], 1), "float64: tokens are integers"),
    "booleans": (lambda f: f([[True, False]], 1), "bool: tokens are integers"),
    "no rows": (lambda f: f(np.zeros((0, 4), int), 1), r"shape \(0, 4\): give at least one"),
    "no tokens": (lambda f: f(np.zeros((4, 0), int), 1), r"shape \(4, 0\): give at least one"),
    "an empty list": (lambda f: f([], 1), r"shape \(0,\): give at least one"),
    "a scalar": (lambda f: f(1, 1), r"shape \(\): give at least one"),
    "three axes": (lambda f: f(np.zeros((2, 3, 4), int), 1), r"shape \(2, 3, 4\): .*\[batch, len"),
}
OF_NGRAMS = {
    "tokens": lambda x, n: metrics.ngram_entropy(x, n, vocabulary=3),
    "samples": lambda x, n: metrics.ngram_kl(x, [0, 1, 2] * 3, n, vocabulary=3),
    "reference": lambda x, n: metrics.ngram_kl([0, 1, 2] * 3, x, n, vocabulary=3),
}


@pytest.mark.parametrize("case", REFUSALS)
@pytest.mark.parametrize("name", OF_NGRAMS)
def test_ngrams_refuse(name, case):
    call, match = REFUSALS[case]
    with pytest.raises(ValueError, match=match) as caught:
        call(OF_NGRAMS[name])
    assert name in str(caught.value) or "got n=" in str(caught.value)


@pytest.mark.parametrize("smoothing", [-0.5, math.inf, math.nan])
def test_divergence_refuses_a_smoothing(smoothing):
    with pytest.raises(ValueError, match=f"smoothing={smoothing}: give a finite"):
        metrics.ngram_kl([0], [0], 1, vocabulary=2, smoothing=smoothing)


def test_divergence_refuses_to_be_infinite():
    with pytest.raises(ValueError, match=r"lacks 1 of the samples' 2 1-grams.*give a pos"):
        metrics.ngram_kl([0, 1], [0, 2], 1, vocabulary=3, smoothing=0)


@pytest.mark.parametrize(
    ("samples", "reference", "match"),
    [
        ([[1.0]], [1], "samples of float64"),
        ([[1]], [1.0], "reference of float64"),
        ([1], [1], r"samples of shape \(1,\).*\[batch, length\]"),
        ([[1]], [[1]], r"reference of shape \(1, 1\).*\[length\]"),
        ([[]], [1], r"samples of shape \(1, 0\): give at least one"),
        ([[1]], [], r"reference of shape \(0,\): give at least one"),
    ],
)
def test_longest_copy_refuses(samples, reference, match):
    with pytest.raises(ValueError, match=match):
        metrics.longest_copy(samples, reference)


@pytest.mark.parametrize("texts", [[], [""], ["one two", "a", "12 - 34 ' 56"]])
def test_spelling_refuses_where_no_word_is_whole(texts):
    with pytest.raises(ValueError, match=f"none of {len(texts)} texts has a whole word"):
        metrics.spelling_rate(texts, {"one"})


def test_perplexity_is_of_all_tokens_together():
    """Of even tokens it is their number, whatever the lengths."""
    even = [-2 * np.log(9), 0.0, -5 * np.log(9)], [2, 0, 5]
    assert metrics.perplexity(["ab", "", "abcde"], lambda texts: even) == pytest.approx(9)
    for wrong, match in [
        (([1.0], [1]), "one of each a text"),
        (([0.0, 0.0, 0.0], [0, 0, 0]), "counts no token"),
    ]:
        with pytest.raises(ValueError, match=match):
            metrics.perplexity(["a", "b", "c"], lambda texts, wrong=wrong: wrong)

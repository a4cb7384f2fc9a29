"""Metrics of sequences of tokens against closed forms and a brute force."""

import itertools
import math

import numpy as np
import pytest

from jaxflow import metrics

RNG = np.random.default_rng(0)


def test_entropies_of_even_tokens_and_of_a_chain():
    """All sequences of four, once each; and a chain whose next token is one of two of three."""
    every = np.array(list(itertools.product(range(3), repeat=4)))
    for n in (1, 2, 3):
        assert metrics.ngram_entropy(every, n, vocabulary=3) == pytest.approx(math.log2(3))
    chain = np.array([[0, a, (a + b) % 3] for a in (1, 2) for b in (1, 2)] * 5)
    assert metrics.ngram_entropy(chain, 3, vocabulary=3) == pytest.approx(1.0)


def test_rows_are_not_joined():
    rows = np.array([[0, 0], [1, 1]])
    assert metrics.ngram_entropy(rows, 2, vocabulary=2) == 0
    assert metrics.ngram_entropy(rows.ravel(), 2, vocabulary=2) > 0.5


def test_divergence_of_what_was_counted_by_hand():
    samples, reference = np.array([0, 0, 0, 1]), np.array([0, 1, 1, 1, 2])
    plain = 0.75 * math.log2(0.75 / 0.2) + 0.25 * math.log2(0.25 / 0.6)
    found = metrics.ngram_kl(samples, reference, 1, vocabulary=4, smoothing=0.0)
    assert found == pytest.approx(plain)
    smooth = 0.75 * math.log2(0.75 / (1.5 / 6.5)) + 0.25 * math.log2(0.25 / (3.5 / 6.5))
    assert metrics.ngram_kl(samples, reference, 1, vocabulary=4) == pytest.approx(smooth)
    text = RNG.integers(0, 5, 500)
    assert metrics.ngram_kl(text, text, 3, vocabulary=5, smoothing=0.0) == pytest.approx(0.0)


def longest(row, text):
    found = 0
    for start in range(len(row)):
        while start + found < len(row) and any(
            np.array_equal(text[i : i + found + 1], row[start : start + found + 1])
            for i in range(len(text) - found)
        ):
            found += 1
    return found


@pytest.mark.parametrize("seed", range(40))
def test_the_longest_copy_is_that_of_a_brute_force(seed):
    rng = np.random.default_rng(seed)
    symbols = rng.integers(1, 4)
    text = rng.integers(0, symbols, rng.integers(1, 40))
    rows = rng.integers(0, symbols + 1, (4, rng.integers(1, 18)))
    found = metrics.longest_copy(rows, text)
    assert found.tolist() == [longest(row, text) for row in rows]


def test_words():
    known = metrics.words_of("The cat's mat; a dog.")
    assert known == {"the", "cat's", "mat", "a", "dog"}
    assert metrics.spelling_rate(["xx The cat's mta a", "q dog r"], known) == 0.75


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: metrics.ngram_entropy(np.array([0, 3]), 1, vocabulary=3), "token 3 is outside"),
        (lambda: metrics.ngram_entropy(np.array([0, -1]), 1, vocabulary=3), "token -1 is outside"),
        (lambda: metrics.ngram_entropy(np.array([0, 1]), 3, vocabulary=3), "give longer ones"),
        (lambda: metrics.ngram_entropy(np.array([0, 1]), 0, vocabulary=3), "n of 1 or more"),
        (lambda: metrics.ngram_entropy(np.array([0.5]), 1, vocabulary=3), "whole numbers"),
        (lambda: metrics.longest_copy(np.array([1]), np.array([1])), "rows of tokens"),
        (lambda: metrics.spelling_rate(["one two"], {"one"}), "between its first and last"),
        (
            lambda: metrics.ngram_kl(np.array([1]), np.array([0]), 1, vocabulary=2, smoothing=0.0),
            "give smoothing=0.5",
        ),
    ],
)
def test_refusals(call, match):
    with pytest.raises(ValueError, match=match):
        call()

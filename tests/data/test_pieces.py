"""Words and lines of a stored text, as padded sequences."""

import pickle

import numpy as np
import pytest

from jaxflow import data

LETTERS = data.vocabulary.Characters("abcdefghijklmnopqrstuvwxyz \n")
SIZE = LETTERS.size


@pytest.fixture
def folder(tmp_path):
    text = "a cat  sat\non the longestword mat"
    data.store_text("small", {"train": LETTERS.encode(text)}, LETTERS, tmp_path)
    return tmp_path


def told(found):
    return [LETTERS.decode(row["x1"][row["x1"] < SIZE]) for row in found]


def test_words_and_lines(folder):
    words = data.pieces("small", split="train", length=8, data_dir=folder)
    assert told(words) == ["a", "cat", "sat\non", "the", "mat"]
    assert words[1]["x1"].tolist() == [2, 0, 19, *[SIZE] * 5]
    assert words[-1]["x1"].tolist() == words[4]["x1"].tolist()
    lines = data.pieces("small", split="train", length=30, between="\n", data_dir=folder)
    assert told(lines) == ["a cat  sat", "on the longestword mat"]
    again = pickle.loads(pickle.dumps(words))
    assert told(again) == told(words)
    assert "between=' '" in repr(again)
    with pytest.raises(IndexError, match="there are 5 pieces; got 5"):
        words[5]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"length": 0}, "length of 1 at least; got length = 0"),
        ({"between": "at"}, "'at', 2 tokens: pieces are parted by one"),
        ({"between": "Ä"}, "none of the 28 symbols"),
        ({"between": "\n", "length": 5}, "no piece of 1 to 5 tokens"),
        ({"split": "trian"}, "did you mean 'train'"),
    ],
)
def test_refusals(folder, change, match):
    given = {"split": "train", "length": 8, "data_dir": folder, **change}
    with pytest.raises(ValueError, match=match) as refused:
        data.pieces("small", **given)
    assert "\n" not in str(refused.value)


def test_batches_of_them(folder):
    words = data.pieces("small", split="train", length=8, data_dir=folder)
    batch = next(iter(data.pipeline(words, batch_size=3, seed=0)))
    assert np.asarray(batch["x1"]).shape == (3, 8)

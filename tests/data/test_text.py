"""Text as tokens on disk: vocabularies, windows, and what is refused."""

import json
import os
import pickle
import signal
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxflow import data
from jaxflow.data import vocabulary

TEXT = "an apple, a pear — and 12 plums.\n" * 20


def vocabularies():
    return {"characters": vocabulary.characters(TEXT), "bytes": vocabulary.Bytes()}


@pytest.fixture
def splittable():
    """A tokenizer of the library, of words, with a special token and a hole in its numbers."""
    tokenizers = pytest.importorskip("tokenizers")
    words = {"a": 0, "pear": 1, "?": 2, "end": 5}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, "?"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.add_special_tokens(["end"])
    return made


@pytest.mark.parametrize("name", vocabularies())
def test_text_comes_back(name):
    known = vocabularies()[name]
    tokens = known.encode(TEXT)
    assert tokens.max() < known.size <= np.iinfo(tokens.dtype).max
    assert known.decode(tokens) == TEXT
    assert vocabulary.from_json(known.to_json()) == known
    assert isinstance(known, vocabulary.Vocabulary)
    with_mask = np.append(tokens[:2], known.size)
    assert known.decode(with_mask) == "an_"


@settings(max_examples=25, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=30), st.integers(0, 30), st.integers(0, 3))
def test_any_text_comes_back_with_masks_in_its_places(text, at, masks):
    """Characters of every plane, NUL too; a mask is a token that no text holds."""
    for known in (vocabulary.characters(text + "x"), vocabulary.Bytes()):
        tokens = known.encode(text)
        assert known.decode(tokens) == text
        assert known.decode(np.asarray(tokens, np.int32)) == text
        assert not np.any(tokens == known.size)
        start, end = tokens[:at], tokens[at:]
        hidden = known.decode([*start, *[known.size] * masks, *end], mask="[?]")
        assert hidden == known.decode(start) + "[?]" * masks + known.decode(end) or not masks


@settings(max_examples=25, deadline=None)
@given(st.binary(max_size=30))
def test_any_bytes_are_kept(content):
    text = content.decode(errors="surrogateescape")
    tokens = vocabulary.Bytes().encode(text)
    assert bytes(tokens.tolist()) == content
    assert vocabulary.Bytes().decode(tokens) == content.decode(errors="replace")


@pytest.mark.parametrize(
    ("size", "dtype"),
    [
        (1, "uint8"),
        (255, "uint8"),
        (256, "uint16"),
        (65_535, "uint16"),
        (65_536, "int32"),
    ],
)
def test_tokens_are_as_small_as_their_mask_allows(size, dtype):
    assert vocabulary.smallest(size) == dtype
    assert np.array(size, dtype) == size
    if size < 1_000:
        assert vocabulary.Characters("".join(map(chr, range(size)))).encode("\0").dtype == dtype


def test_a_tokenizer_of_the_library(tmp_path, splittable):
    splittable.save(str(tmp_path / "tokenizer.json"))
    known = vocabulary.tokenizer(tmp_path / "tokenizer.json")
    assert known.size == 6
    assert known.encode("a pear a plum").tolist() == [0, 1, 0, 2]
    assert known.encode("").tolist() == []
    assert known.decode(np.array([0, 6, 1])) == "a_pear"
    assert known.decode(known.encode("a pear end")) == "a pear end"
    assert vocabulary.from_json(json.loads(json.dumps(known.to_json()))) == known
    assert pickle.loads(pickle.dumps(known)).encode("pear").tolist() == [1]


def test_a_trained_tokenizer_is_stored_with_its_text(tmp_path):
    """Pairs of bytes, which give any text back: prepared, read and told of by name."""
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.ByteLevelBPETokenizer()
    made.train_from_iterator([TEXT], vocab_size=300, min_frequency=1, show_progress=False)
    known = vocabulary.Tokenizer(made.to_str())
    tokens = known.encode(TEXT)
    assert tokens.dtype == np.uint16
    assert len(tokens) < len(TEXT.encode())
    data.store_text("plums", {"train": tokens}, known, tmp_path)
    assert data.vocabulary_of("plums", tmp_path) == known
    whole = data.text("plums", split="train", length=len(tokens), data_dir=tmp_path)
    assert whole.vocabulary.decode(whole[0]["x1"]) == TEXT


def test_what_is_no_tokenizer(tmp_path):
    pytest.importorskip("tokenizers")
    for content in (b"{}", b"\xff"):
        (tmp_path / "tokenizer.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"tokenizer\.json: ") as stopped:
            vocabulary.tokenizer(tmp_path / "tokenizer.json")
        assert "\n" not in str(stopped.value)


def test_tokenizers_are_not_needed_until_they_are_used(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    known = vocabulary.from_json({"kind": "tokenizer", "text": "{}"})
    for use in (lambda: known.size, lambda: known.encode("a"), lambda: known.decode([0])):
        with pytest.raises(ValueError, match=r"not installed: pip install 'jaxflow\[text\]'"):
            use()


@pytest.mark.parametrize("tokens", [[0, -1], [3], [[0]], [0.0], 0])
def test_what_cannot_be_decoded(tokens):
    with pytest.raises(ValueError, match=r"is no token: they are 0 to 2|decoded a row at a time"):
        vocabulary.Characters("ab").decode(tokens)


@pytest.fixture
def stored(tmp_path):
    known = vocabulary.Characters("abcdefghij")
    splits = {"train": np.arange(103) % 10, "test": np.arange(20) % 10}
    data.store_text("letters", splits, known, tmp_path)
    return tmp_path


def test_windows(stored):
    packed = data.text("letters", split="train", length=10, data_dir=stored)
    assert len(packed) == 10
    assert all(packed[i]["x1"].tolist() == list(range(10)) for i in (0, 4, 9, -1))
    every = data.text("letters", split="train", length=10, stride=1, data_dir=stored)
    assert len(every) == 94
    assert every[3]["x1"].tolist() == [(3 + i) % 10 for i in range(10)]
    assert every[93]["x1"].dtype == np.int32
    again = pickle.loads(pickle.dumps(every))
    assert again[7]["x1"].tolist() == every[7]["x1"].tolist()
    assert again.vocabulary == every.vocabulary
    with pytest.raises(IndexError):
        every[94]
    assert data.load(packed)["x1"].shape == (10, 10)
    batches = data.pipeline(every, batch_size=4, seed=0)
    batch = next(batches)
    batches.close()
    assert batch["x1"].shape == (4, 10)
    assert np.all(np.diff(batch["x1"]) % 10 == 1)


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        ({"name": "leters"}, FileNotFoundError, "did you mean 'letters'"),
        (
            {"split": "tests"},
            ValueError,
            r"no split 'tests' \(did you mean 'test'\?\): it has test, train",
        ),
        (
            {"split": "test", "length": 21},
            ValueError,
            "20 tokens, fewer than a window of length = 21",
        ),
        ({"length": 0}, ValueError, "1 at least; got length = 0, stride = 0"),
        ({"stride": 0}, ValueError, "1 at least; got length = 5, stride = 0"),
        ({"data_dir": "gs://b"}, ValueError, "gs://b is no folder of this machine: copy it"),
    ],
)
def test_wrong_windows(stored, given, error, match):
    with pytest.raises(error, match=match):
        data.text(**{"name": "letters", "split": "train", "length": 5, "data_dir": stored, **given})


def test_wrong_texts(stored, tmp_path):
    known = vocabulary.Characters("ab")
    for name, splits, error, match in [
        ("letters", {"train": np.zeros(3, int)}, FileExistsError, "holds a data set already"),
        ("No Name", {"train": np.zeros(3, int)}, ValueError, "cannot name"),
        ("other", {"train": np.zeros(0, int)}, ValueError, "is empty"),
        (
            "other",
            {"train": np.array([0, 2])},
            ValueError,
            "holds 2, but the tokens of its vocabulary are 0 to 1",
        ),
        ("other", {"train": np.array([-1])}, ValueError, "holds -1, but"),
        (
            "other",
            {"train": np.zeros((2, 2), int)},
            ValueError,
            r"int64\[2, 2\]: a text is one row",
        ),
        ("other", {"train": np.zeros(2)}, ValueError, r"float64\[2\]: a text is one row"),
        ("other", {}, ValueError, "has no splits"),
    ]:
        with pytest.raises(error, match=match):
            data.store_text(name, splits, known, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["letters"]
    with pytest.raises(ValueError, match="'ä' at place 1 is none of the 2 symbols"):
        known.encode("aä")
    with pytest.raises(ValueError, match="empty text"):
        vocabulary.characters("")
    with pytest.raises(FileNotFoundError, match=r"there is no tokenizer .*none\.json"):
        vocabulary.tokenizer(tmp_path / "none.json")
    with pytest.raises(ValueError, match="is 'runes', but must be one of bytes, chara"):
        vocabulary.from_json({"kind": "runes"})
    with pytest.raises(ValueError, match="of characters needs 'symbols'"):
        vocabulary.from_json({"kind": "characters"})
    with pytest.raises(ValueError, match="'a' stands twice"):
        vocabulary.Characters("aba")
    with pytest.raises(ValueError, match="needs one at least"):
        vocabulary.Characters("")
    with pytest.raises(ValueError, match="cannot be written to gs://b"):
        data.store_text("other", {"train": np.zeros(3, int)}, known, "gs://b")


def test_windows_tile_a_text(stored):
    """By any length and stride: window i begins at i strides, and as many fit as there are."""
    whole = np.arange(103) % 10
    for length, stride in [(10, None), (7, None), (7, 3), (3, 7), (1, 1), (103, None), (60, 50)]:
        found = data.text("letters", split="train", length=length, stride=stride, data_dir=stored)
        step = stride or length
        starts = [i for i in range(0, 103, step) if i + length <= 103]
        wanted = np.stack([whole[i : i + length] for i in starts])
        np.testing.assert_array_equal(data.load(found)["x1"], wanted)
        np.testing.assert_array_equal([row["x1"] for row in found], wanted)


def test_a_text_is_read_from_disk(stored):
    found = data.text("letters", split="train", length=5, data_dir=stored)
    assert isinstance(found, data.Dataset)
    assert isinstance(found.tokens, np.memmap)
    assert found.tokens.dtype == np.uint8
    assert len(pickle.dumps(found)) < 1000
    assert data.vocabulary_of("letters", stored) == found.vocabulary
    record = json.loads((stored / "letters" / "1.0.0" / "vocabulary.json").read_text())
    assert record["tokens"] == {"train": 103, "test": 20}


@pytest.mark.parametrize("content", ["{", "3", "{}"])
def test_damaged_vocabularies(stored, content):
    (stored / "letters" / "1.0.0" / "vocabulary.json").write_text(content)
    with pytest.raises(ValueError, match=r"vocabulary\.json is damaged \(.*prepare the text again"):
        data.text("letters", split="train", length=5, data_dir=stored)
    with pytest.raises(ValueError, match="prepare the text again"):
        data.vocabulary_of("letters", stored)


@pytest.mark.parametrize("kept", [0, -1])
def test_damaged_tokens(stored, kept):
    file = stored / "letters" / "1.0.0" / "train.npy"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"train\.npy is damaged \(.*prepare the text again"):
        data.text("letters", split="train", length=5, data_dir=stored)


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    written = []

    def save(file, tokens):
        if written:
            raise OSError(28, "No space left on device")
        written.append(file)
        file.write_bytes(b"half")

    monkeypatch.setattr(np, "save", save)
    splits = {"train": np.zeros(3, int), "test": np.zeros(3, int)}
    with pytest.raises(OSError, match="No space left"):
        data.store_text("letters", splits, vocabulary.Characters("ab"), tmp_path)
    assert written
    assert not list(tmp_path.rglob("*"))


KILLED = """
import sys, time
import numpy as np
from jaxflow import data
from jaxflow.data import vocabulary
vocabulary.Bytes.to_json = lambda self: print("half", flush=True) or time.sleep(60)
splits = {"train": np.zeros(1_000, int)}
data.store_text("letters", splits, vocabulary.Bytes(), sys.argv[1])
"""


def test_a_write_that_is_killed_is_no_text(tmp_path):
    writer = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        stdout=subprocess.PIPE,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    assert writer.stdout.readline() == b"half\n"
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    assert list(tmp_path.rglob("train.npy"))
    with pytest.raises(FileNotFoundError, match=r"no text 'leters' in \S+: write"):
        data.text("leters", split="train", length=5, data_dir=tmp_path)
    again = {"train": np.ones(10, int)}
    data.store_text("letters", again, vocabulary.Bytes(), tmp_path)
    assert len(data.text("letters", split="train", length=5, data_dir=tmp_path)) == 2

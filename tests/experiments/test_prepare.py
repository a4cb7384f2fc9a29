"""The command that writes a data set, on tiny files and, where they are, on the real ones."""

import ast
import gzip
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from rich.console import Console

from experiments import formats, prepare
from jaxflow.data import load, pipeline, text, tfds, transforms, vocabulary, vocabulary_of

ROOT = Path(__file__).parents[2]


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "experiments.prepare", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def points(tmp_path):
    path = tmp_path / "My points.npz"
    x = np.random.default_rng(0).normal(size=(300, 2)).astype(np.float32)
    np.savez(path, x=x, label=np.arange(300) % 7)
    return path, x


def test_the_command_ends_with_what_trains(points, tmp_path):
    path, x = points
    done = run("--dataset=npz", f"--source={path}", f"--output={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    assert "300 examples" in done.stdout
    override = re.search(r'--config\.data\.source="(.*)"', done.stdout)
    source = ast.literal_eval(override.group(1))
    assert source["name"] == "tfds"
    np.testing.assert_array_equal(load(tfds(**source["kwargs"]))["x1"], x)


def test_a_share_is_held_back(points, tmp_path):
    path, x = points
    prepare.prepare("npz", str(path), str(tmp_path / "out"), "points", test_share=0.1)
    parts = [load(tfds("points", name, tmp_path / "out")) for name in ("train", "test")]
    assert [len(part["x1"]) for part in parts] == [270, 30]
    both = np.concatenate([part["x1"] for part in parts])
    np.testing.assert_array_equal(np.sort(both, 0), np.sort(x, 0))


def test_wrong_flags_end_in_one_sentence(points, tmp_path):
    path, _ = points
    wrong = run("--dataset=fashon_mnist", f"--source={path}", f"--output={tmp_path / 'out'}")
    assert wrong.returncode == 2
    assert "did you mean 'fashion_mnist'" in wrong.stderr
    assert "Traceback" not in wrong.stderr
    missing = run("--dataset=npz")
    assert missing.returncode == 1
    assert "--source" in missing.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dataset": "npz", "source": "nowhere.npz"}, "there is no nowhere.npz"),
        ({"dataset": "npz", "size": 8}, "--size is for --dataset=folder"),
        ({"dataset": "mnist"}, "lacks train-images"),
        ({"dataset": "npz", "name": "No Name"}, "'No Name' cannot name"),
        ({"dataset": "npz", "output": "/dev/null/x"}, "choose another data directory"),
    ],
)
def test_wrong_inputs_end_in_one_sentence(points, tmp_path, wrong, message):
    path, _ = points
    source = str(tmp_path if wrong["dataset"] == "mnist" else path)
    given = {"source": source, "output": str(tmp_path / "out")} | wrong
    with pytest.raises((ValueError, OSError), match=message) as stopped:
        prepare.prepare(**given)
    assert "\n" not in str(stopped.value)
    assert not (tmp_path / "out").exists()


def test_damage_met_halfway_leaves_nothing(tmp_path):
    from PIL import Image

    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(300):
        Image.fromarray(np.full((4, 4), i % 256, np.uint8)).save(folder / f"{i:03}.png")
    (folder / "280.png").write_bytes(b"torn")
    splits = prepare.read("folder", str(folder), None)
    with pytest.raises(ValueError, match=r"280\.png cannot be read"):
        prepare.write("torn", splits, str(tmp_path / "out"), Console(quiet=True))
    assert not list((tmp_path / "out").rglob("*"))


@pytest.mark.slow
def test_fashion_mnist_comes_back_bit_for_bit(shared_data, tmp_path):
    source = shared_data / "fashion_mnist"
    splits = prepare.read("fashion_mnist", str(source), None)
    little = {name: part for name, part in splits.sources.items() if name == "test"}
    prepare.write("fashion_mnist", formats.Splits(little), str(tmp_path), Console(quiet=True))
    data = gzip.decompress((source / "t10k-images-idx3-ubyte.gz").read_bytes())
    assert struct.unpack(">4I", data[:16])[1:] == (10_000, 28, 28)
    whole = load(tfds("fashion_mnist", "test", tmp_path))
    assert whole["image"].tobytes() == data[16:]
    batches = pipeline(
        tfds("fashion_mnist", "test[:300]", tmp_path),
        batch_size=100,
        seed=0,
        transforms=(transforms.scale(),),
        shuffle=False,
        repeat=False,
    )
    images = np.concatenate([transforms.pixels(batch["x1"]) for batch in batches])
    np.testing.assert_array_equal(images, whole["image"][:300])


@pytest.mark.slow
def test_cifar10_pack_is_decoded_as_pillow_does(shared_data, tmp_path):
    splits = prepare.read("cifar10", str(shared_data / "cifar10"), None)
    assert {name: len(part) for name, part in splits.sources.items()} == {
        "train": 50_000,
        "test": 10_000,
    }
    assert splits.classes[-1] == "truck"
    little = formats.Examples(200, splits.sources["test"].read)
    prepare.write("cifar10", formats.Splits({"test": little}), str(tmp_path), Console(quiet=True))
    back = load(tfds("cifar10", "test", tmp_path))
    np.testing.assert_array_equal(back["image"], load(little)["image"])


def test_a_text_is_parted_by_position(tmp_path):
    source = tmp_path / "my text.txt"
    source.write_text("".join("abcd"[i % 4] for i in range(1_000)))
    done = run("--dataset=text", f"--source={source}", f"--output={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "'name': 'text', 'kwargs': {'name': 'my_text', 'split': 'train'" in done.stdout
    override = ast.literal_eval(re.search(r'--config\.data\.source="(.*)"', done.stdout).group(1))
    assert override["kwargs"]["length"] == 256
    train = text(**override["kwargs"])
    assert (len(train), train.vocabulary) == (3, vocabulary.Characters("abcd"))
    assert "900 tokens" in done.stdout
    assert "".join(parts("my_text", tmp_path)) == source.read_text()


def parts(name, root):
    """Its splits as text."""
    for split, size in (("train", 900), ("validation", 50), ("test", 50)):
        found = text(name, split=split, length=size, data_dir=root)
        yield found.vocabulary.decode(found.tokens)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("text8_prefix.gz", "text8_prefix"),
        ("Tiny Shakespeare.txt.gz", "tiny_shakespeare"),
        ("v1.2.txt", "v1_2"),
        ("books/", "books"),
        ("text8", "text8"),
    ],
)
def test_a_text_is_called_as_its_file(source, name):
    assert prepare.name_of("text", source, None) == name
    assert prepare.name_of("text", source, "other") == "other"


def test_a_folder_is_one_text_in_the_order_of_names(tmp_path):
    folder = tmp_path / "books"
    (folder / "more.txt").mkdir(parents=True)
    (folder / "b.txt.gz").write_bytes(gzip.compress("zweiä".encode()))
    (folder / "a.md").write_text("one\r")
    (folder / "more.txt" / "c.txt").write_text("three" * 10)
    (folder / "picture.png").write_bytes(b"\xff")
    prepare.prepare_text(str(folder), str(tmp_path), held_out=0.2)
    splits = [np.load(tmp_path / f"books/1.0.0/{s}.npy") for s in ("train", "validation", "test")]
    assert [len(split) for split in splits] == [37, 12, 12]
    known = vocabulary_of("books", tmp_path)
    assert known.decode(np.concatenate(splits)) == "one\r\nzweiä\n" + "three" * 10


def test_bytes_are_of_anything(tmp_path):
    content = np.random.default_rng(0).bytes(2_000)
    (tmp_path / "noise.txt").write_bytes(content)
    prepare.prepare_text(str(tmp_path / "noise.txt"), str(tmp_path), vocabulary="bytes")
    assert vocabulary_of("noise", tmp_path) == vocabulary.Bytes()
    splits = [np.load(tmp_path / f"noise/1.0.0/{s}.npy") for s in ("train", "validation", "test")]
    assert bytes(np.concatenate(splits).tolist()) == content


def test_a_tokenizer_makes_tokens_of_words(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "pear": 1, "?": 2}, "?"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "words.json"))
    (tmp_path / "pears.txt").write_text("a pear " * 20)
    words = str(tmp_path / "words.json")
    prepare.prepare_text(str(tmp_path / "pears.txt"), str(tmp_path), vocabulary=words)
    found = text("pears", split="train", length=4, data_dir=tmp_path)
    assert (len(found), found.vocabulary) == (9, vocabulary.tokenizer(words))
    assert found[0]["x1"].tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"source": "nowhere.txt"}, "there is no nowhere.txt"),
        ({"source": "empty.txt"}, r"empty\.txt is empty"),
        ({"source": "half"}, r"half/b\.txt is empty"),
        (
            {"source": "latin.txt"},
            r"latin\.txt is not UTF-8 at byte 0: convert it, or take --vocabulary=bytes",
        ),
        ({"source": "torn.gz"}, r"torn\.gz is damaged"),
        ({"source": "spoilt.gz"}, r"spoilt\.gz is damaged"),
        ({"source": "plain.gz"}, r"plain\.gz is damaged"),
        ({"source": "folder"}, "folder holds no text: its files end in .txt"),
        ({"held_out": 0.5}, "between 0 and 0.5"),
        ({"held_out": 0.0}, "between 0 and 0.5"),
        ({"held_out": float("nan")}, "between 0 and 0.5"),
        ({"held_out": 1e-9}, "leaves a split empty"),
        ({"vocabulary": "words"}, "must be characters, bytes, or the file of a token"),
        ({"vocabulary": "none.json"}, "there is no tokenizer none.json"),
        ({"name": "No Name"}, "'No Name' cannot name"),
        ({"output": "/dev/null/x"}, "choose another data directory"),
    ],
)
def test_wrong_texts_end_in_one_sentence(given, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("some text " * 20)
    (tmp_path / "empty.txt").touch()
    (tmp_path / "latin.txt").write_bytes(b"\xe4")
    (tmp_path / "torn.gz").write_bytes(b"\x1f\x8b")
    spoilt = bytearray(gzip.compress(b"some text " * 20))
    spoilt[12:16] = b"\xff" * 4
    (tmp_path / "spoilt.gz").write_bytes(spoilt)
    (tmp_path / "plain.gz").write_bytes(b"some text")
    (tmp_path / "folder").mkdir()
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "a.txt").write_text("some text " * 20)
    (tmp_path / "half" / "b.txt").touch()
    with pytest.raises((ValueError, OSError), match=message) as stopped:
        prepare.prepare_text(**{"source": "text.txt", "output": "out", **given})
    assert "\n" not in str(stopped.value)
    assert not (tmp_path / "out").exists()


def test_a_text_that_is_there_is_kept(tmp_path):
    (tmp_path / "text.txt").write_text("some text " * 20)
    prepare.prepare_text(str(tmp_path / "text.txt"), str(tmp_path))
    before = (tmp_path / "text/1.0.0/train.npy").read_bytes()
    with pytest.raises(FileExistsError, match=r"holds a data set already: delete"):
        prepare.prepare_text(str(tmp_path / "text.txt"), str(tmp_path), vocabulary="bytes")
    assert (tmp_path / "text/1.0.0/train.npy").read_bytes() == before


@pytest.mark.parametrize(
    ("dataset", "flag", "value"),
    [
        ("text", "size", 8),
        ("text", "test_share", 0.1),
        ("npz", "vocabulary", "bytes"),
        ("folder", "held_out", 0.1),
    ],
)
def test_flags_of_texts_and_of_others(dataset, flag, value, monkeypatch):
    """Each is refused by the other, before anything is read."""
    given = flags.FlagValues()
    for name in ("dataset", "source", "output", "name", *prepare.OF_TEXT, *prepare.OF_OTHERS):
        flags.DEFINE_string(name, None, "", flag_values=given)
    given.mark_as_parsed()
    given.dataset, given.source = dataset, "nowhere"
    given[flag].value = value
    monkeypatch.setattr(flags, "FLAGS", given)
    with pytest.raises(ValueError, match=f"--dataset={dataset} takes no --{flag}: --vocabulary"):
        prepare.main()

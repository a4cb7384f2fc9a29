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
from rich.console import Console

from experiments import formats, prepare
from jaxflow.data import load, pipeline, text, tfds, transforms

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
    ("flags", "message"),
    [
        ({"dataset": "npz", "source": "nowhere.npz"}, "there is no nowhere.npz"),
        ({"dataset": "npz", "size": 8}, "--size is for --dataset=folder"),
        ({"dataset": "mnist"}, "lacks train-images"),
        ({"dataset": "npz", "name": "No Name"}, "'No Name' cannot name"),
        ({"dataset": "npz", "output": "/dev/null/x"}, "choose another data directory"),
    ],
)
def test_wrong_inputs_end_in_one_sentence(points, tmp_path, flags, message):
    path, _ = points
    source = str(tmp_path if flags["dataset"] == "mnist" else path)
    given = {"source": source, "output": str(tmp_path / "out")} | flags
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
    sizes = {s: len(text("my_text", s, 1, data_dir=tmp_path)) for s in ("train", "test")}
    assert sizes == {"train": 900, "test": 50}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"source": "nowhere.txt"}, "no text at nowhere.txt"),
        ({"source": "empty.txt"}, "is empty"),
        ({"source": "latin.txt"}, "no UTF-8 at byte 0"),
        ({"source": "torn.gz"}, "no whole gzip file"),
        ({"source": "folder"}, "no text in folder"),
        ({"held_out": 0.5}, "between 0 and 0.5"),
        ({"held_out": 1e-9}, "is none"),
        ({"vocabulary": "words"}, "characters, bytes or the file of a tokenizer"),
        ({"vocabulary": "none.json"}, "no tokenizer at none.json"),
    ],
)
def test_wrong_texts_end_in_one_sentence(given, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("some text " * 20)
    (tmp_path / "empty.txt").touch()
    (tmp_path / "latin.txt").write_bytes(b"\xe4")
    (tmp_path / "torn.gz").write_bytes(b"\x1f\x8b")
    (tmp_path / "folder").mkdir()
    with pytest.raises((ValueError, OSError), match=message) as stopped:
        prepare.prepare_text(**{"source": "text.txt", "output": "out", **given})
    assert "\n" not in str(stopped.value)
    assert not (tmp_path / "out").exists()


def test_flags_of_texts_and_of_others(tmp_path):
    (tmp_path / "text.txt").write_text("some text " * 20)
    for flags in (["--dataset=text", "--size=8"], ["--dataset=npz", "--vocabulary=bytes"]):
        done = run(*flags, f"--source={tmp_path / 'text.txt'}", f"--output={tmp_path}")
        assert done.returncode == 2
        assert "takes no --" in done.stderr
        assert "Traceback" not in done.stderr

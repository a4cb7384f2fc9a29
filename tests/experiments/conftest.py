"""A run that is trained once, and tiny stand-ins for data sets."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import digits
from experiments.output import maps
from experiments.run import duties
from experiments.setup import build
from jaxflow import data

TEXT = {"train": 1_000, "validation": 400, "test": 6_000}
DIGITS = {"name": "digits", "kwargs": {"split": "train", "data_dir": None}}


def tiny(config: ConfigDict, steps: int = 4) -> ConfigDict:
    """A run of a few steps that saves, logs and draws along the way."""
    config.update({"steps": steps, "batch_size": 16})
    config.checkpoint.every = 2
    config.log.update({"every": 2, "pictures_every": steps})
    config.parallel.steps_per_call = 2
    config.evaluation.update({"num": 40, "likelihoods": 0})
    config.sampler.batch_size = 64
    return config


def tiny_digits() -> ConfigDict:
    """A tiny run on digits."""
    config = tiny(digits.get_config())
    config.network.kwargs.update({"width": 16, "depth": 1})
    config.sampler.kwargs.grid.kwargs.n = 2
    config.optimizer.kwargs.learning_rate = {"name": "constant", "kwargs": {"peak": 1e-2}}
    return config


@pytest.fixture
def config() -> ConfigDict:
    return tiny_digits()


# Sections that enter neither a program nor the drawing of samples (at a constant learning rate),
# and those that do not enter one of the two.
APART = ("steps", "checkpoint", "health", "log")
OF_SAMPLES = ("seed", "data", "pairs", "sampler", "evaluation")
OF_TRAINING = ("pairs", "coupling", "times", "spans", "optimizer", "parallel")
COMPILED: dict[tuple, Any] = {}


def once(make: Callable[..., Any], *apart: str) -> Callable[..., Any]:
    """Made once of all configs that differ in nothing but what is apart."""

    def made(config: ConfigDict, *args: Any) -> Any:
        assert config.optimizer.kwargs.learning_rate.name == "constant"
        parts = {k: v for k, v in config.to_dict().items() if k not in (*APART, *apart)}
        for section, name in (("parallel", "steps_per_call"), ("data", "on_device")):
            parts.get(section, {}).pop(name, None)
        key = (make.__name__, json.dumps(parts, sort_keys=True), *args)
        if key not in COMPILED:
            COMPILED[key] = make(config.copy_and_resolve_references(), *args)
        return COMPILED[key]

    return made


@contextmanager
def shared_programs() -> Iterator[None]:
    """Runs of one config, whichever test they are of, share what was compiled for the first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "program", once(build.program, *OF_SAMPLES))
        patch.setattr(duties, "generator", once(duties.generator, *OF_TRAINING))
        patch.setattr(maps, "generator", duties.generator)
        yield


@pytest.fixture
def sharing() -> Iterator[None]:
    """Share programs for the whole test."""
    with shared_programs():
        yield


@pytest.fixture(scope="session")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small random data sets under the names that the configs use."""
    root = tmp_path_factory.mktemp("tfds")
    rng = np.random.default_rng(0)
    sizes = {"train": 64, "test": 32}

    def pixels(n: int, *shape: int) -> dict[str, np.ndarray]:
        return {"image": rng.integers(0, 256, (n, *shape), dtype=np.uint8)}

    made = {
        "fashion_mnist": lambda n: pixels(n, 8, 8, 1),
        "cifar10": lambda n: pixels(n, 8, 8, 3),
        "imagenet_latents": lambda n: {"x1": rng.standard_normal((n, 8, 8, 4), np.float32)},
    }
    for name, of in made.items():
        splits = {
            split: data.arrays(**of(n), label=np.arange(n) % 10) for split, n in sizes.items()
        }
        data.store(name, splits, root)
    letters = data.vocabulary.Characters("".join(map(chr, range(97, 123))) + " ")
    tokens = {s: rng.integers(0, 27, n).astype(np.uint8) for s, n in TEXT.items()}
    data.store_text("text8", tokens, letters, root)
    several = data.vocabulary.Characters("".join(map(chr, range(32, 97))))
    tokens = {s: rng.integers(0, 65, n).astype(np.uint8) for s, n in TEXT.items()}
    data.store_text("tinyshakespeare", tokens, several, root)
    return root

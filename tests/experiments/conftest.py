"""A run that is trained once, and tiny stand-ins for data sets."""

from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import digits
from jaxflow import data

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


@pytest.fixture
def config(tmp_path: Path) -> ConfigDict:
    """A tiny run on digits."""
    config = tiny(digits.get_config())
    config.network.kwargs.update({"width": 16, "depth": 1})
    config.sampler.kwargs.grid.kwargs.n = 2
    config.optimizer.kwargs.learning_rate = {"name": "constant", "kwargs": {"peak": 1e-2}}
    return config


@pytest.fixture(scope="session")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small random data sets under the names that the configs use."""
    root = tmp_path_factory.mktemp("tfds")
    rng = np.random.default_rng(0)
    for name, shape in (("fashion_mnist", (28, 28, 1)), ("cifar10", (32, 32, 3))):
        splits = {
            split: data.arrays(
                image=rng.integers(0, 256, (n, *shape), dtype=np.uint8), label=np.arange(n) % 10
            )
            for split, n in (("train", 64), ("test", 32))
        }
        data.store(name, splits, root)
    return root

"""Distributions to carry one into the next: pairs of batches to train on, and samples to judge by.

Both sides of `benchmarks.bridges` read them, so nothing here needs JAX's data or a peer.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

__all__ = ["Problem", "cells", "moons"]

BATCH = 256
BINS = 8
GENES = 11


class Problem(NamedTuple):
    """`K + 1` distributions, at times 0 to K.

    `x0` and `x1` are batches of consecutive ones, `[steps, batch, dim]`, and `start` says of each
    example which, `[steps, batch]`; `ends` are samples of every distribution, `[K + 1, n, dim]`,
    that none of the batches holds.
    """

    x0: np.ndarray
    x1: np.ndarray
    start: np.ndarray
    ends: np.ndarray

    @property
    def intervals(self) -> int:
        """K."""
        return len(self.ends) - 1

    @property
    def dim(self) -> int:
        """Numbers of a point."""
        return self.x0.shape[-1]


def moons(seed: int, steps: int, samples: int = 2048) -> Problem:
    """Eight Gaussians and two moons, as torchcfm's tutorial has them."""
    rng = np.random.default_rng(seed)
    x0, x1 = _eight_gaussians(rng, steps * BATCH), _two_moons(rng, steps * BATCH)
    shape = steps, BATCH, 2
    start = np.zeros(shape[:2], np.int32)
    ends = np.stack([_eight_gaussians(rng, samples), _two_moons(rng, samples)])
    return Problem(x0.reshape(shape), x1.reshape(shape), start, ends)


def _eight_gaussians(rng: np.random.Generator, n: int) -> np.ndarray:
    angle = rng.integers(8, size=n) * (np.pi / 4)
    centre = 5 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return (centre + 0.1**0.25 * rng.standard_normal((n, 2))).astype(np.float32)


def _two_moons(rng: np.random.Generator, n: int) -> np.ndarray:
    angle = np.pi * rng.random(n)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    upper = rng.random(n)[:, None] < 0.5
    point = np.where(upper, circle, np.array([1.0, 0.5]) - circle)
    return (3 * (point + 0.2 * rng.random((n, 1))) - 1).astype(np.float32)


def cells(file: Path, seed: int, steps: int) -> Problem:
    """Simulated blood cells that differentiate, eleven genes each, at eight times.

    The file is scanpy's `krumsiek11.txt`, four runs of 160 times; 20 consecutive times of all runs
    are one distribution, of which the even ones train and the odd ones judge.

    Raises:
        ValueError: where the file holds anything else.
    """
    rows = np.loadtxt(file, dtype=np.float32)
    if rows.shape != (640, 1 + GENES):
        raise ValueError(f"{file} holds {rows.shape}; krumsiek11.txt has 640 rows of 12 numbers")
    time, genes = rows[:, 0].astype(int), rows[:, 1:]
    of = time * BINS // 160
    trained = [genes[(of == k) & (time % 2 == 0)] for k in range(BINS)]
    rng = np.random.default_rng(seed)
    start = np.tile(np.arange(BATCH, dtype=np.int32) % (BINS - 1), (steps, 1))
    x0, x1 = (_rows(rng, np.stack(trained), start + later) for later in (0, 1))
    judged = [genes[(of == k) & (time % 2 == 1)] for k in range(BINS)]
    return Problem(x0, x1, start, np.stack(judged))


def _rows(rng: np.random.Generator, every: np.ndarray, which: np.ndarray) -> np.ndarray:
    return every[which, rng.integers(every.shape[1], size=which.shape)]

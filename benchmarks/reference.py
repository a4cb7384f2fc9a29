"""The flow that all samplers approximate, solved to 1e-10 in float64."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow import sampling
from jaxflow.types import Velocity

__all__ = ["facts", "noise", "write"]

POINTS = 1000


def noise(n: int) -> np.ndarray:
    """Where all samplers start, `[n, 2]`."""
    return np.random.default_rng(0).standard_normal((n, 2)).astype(np.float32)


def write(velocity: Velocity, weights: str, n: int) -> None:
    """Solve for the first thousand of `noise(n)`, unless it is done already."""
    if _file(weights).exists():
        return
    with jax.enable_x64(True):
        double = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), velocity)
        solve = jax.jit(lambda v, x: sampling.adaptive(v, x, rtol=1e-10, atol=1e-10))
        solution = solve(double, jnp.asarray(noise(n)[:POINTS], jnp.float64))
        assert bool(jnp.all(solution.success))
        np.save(_file(weights), np.asarray(solution.x))


def facts(x: np.ndarray, weights: str) -> dict[str, Any]:
    """Errors over a thousand points, and the first points, of a run from `noise`."""
    error = np.abs(np.asarray(x[:POINTS], np.float64) - np.load(_file(weights)))
    found = {"largest error": float(error.max()), "median error": float(np.median(error))}
    return {**found, "points": np.asarray(x[:8]).tolist()}


def _file(weights: str) -> Path:
    return Path(f"{weights}.reference.npy")

"""The problem that jaxflow and the other JAX libraries share: noise to two moons, one perceptron.

Both sides start at the same parameters, read the same batches (or draw them by the same function),
and are held to the same loss on the same completed examples.
"""

import itertools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.types import Array, Batch, Key

__all__ = ["BATCH", "EMA_DECAY", "LEARNING_RATE", "batches", "draw", "fixed", "layers", "probe"]

BATCH = 256
LEARNING_RATE = 1e-3
EMA_DECAY = 0.999

Layers = Sequence[tuple[np.ndarray, np.ndarray]]


def layers(weights: str | None = None) -> Layers:
    """Kernel and bias of each layer 3-64-64-64-2: of the file, or random ones."""
    if weights is not None:
        saved = np.load(weights)
        return [(saved[f"kernel_{i}"], saved[f"bias_{i}"]) for i in range(len(saved) // 2)]
    rng = np.random.default_rng(0)
    sizes = itertools.pairwise((3, 64, 64, 64, 2))
    kernels = [
        rng.standard_normal((m, n)).astype(np.float32) / np.float32(m**0.5) for m, n in sizes
    ]
    return [(kernel, np.zeros(kernel.shape[1], np.float32)) for kernel in kernels]


def draw(key: Key, n: int = BATCH) -> Array:
    """`n` points of the two moons of `jaxflow.data.toy.moons()`, by one key."""
    which, where, blur = jax.random.split(key, 3)
    angle = jax.random.uniform(where, (n,), maxval=jnp.pi)
    upper = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
    point = jnp.where(jax.random.bernoulli(which, shape=(n, 1)), upper, jnp.array([1, 0.5]) - upper)
    return 1.5 * (point + 0.05 * jax.random.normal(blur, (n, 2)) - jnp.array([0.5, 0.25]))


def fixed(n: int = 64) -> Array:
    """Batches that lie on the device, `[n, BATCH, 2]`."""
    return draw(jax.random.key(2), n * BATCH).reshape(n, BATCH, 2)


def batches(data: str) -> Iterator[Array]:
    """Batches one after another without end: "fixed" ones in a cycle, or "drawn" ones."""
    if data == "fixed":
        return itertools.cycle(fixed())
    key = jax.random.key(3)
    return map(jax.jit(lambda step: draw(jax.random.fold_in(key, step))), itertools.count())


def probe(n: int = 4096) -> Batch:
    """Completed examples to evaluate the loss on: `t`, `x0` and `x1`."""
    rng = np.random.default_rng(4)
    t = jnp.asarray(rng.uniform(0.01, 0.99, n), jnp.float32)
    x0 = jnp.asarray(rng.standard_normal((n, 2)), jnp.float32)
    return {"t": t, "x0": x0, "x1": draw(jax.random.key(5), n)}

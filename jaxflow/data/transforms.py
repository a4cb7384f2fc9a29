"""What is done to one example between the disk and the network.

A transform is `(x, rng) -> x` on one example `[*event]`. It is written once for NumPy arrays, in
the pipeline's threads, and for JAX arrays, inside a compiled step: all its randomness is one call
of `rng.random(shape)`, uniform on [0, 1), which a `numpy.random.Generator` offers and
`Randomness(key)` offers on the device.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from jaxflow.data.cells import Cells
from jaxflow.types import Array, Float, Key

__all__ = [
    "Dequantise",
    "Flip",
    "Scale",
    "Tokens",
    "Transform",
    "Randomness",
    "apply",
    "dequantise",
    "flip",
    "pixels",
    "scale",
    "tokens",
]


@runtime_checkable
class Transform(Protocol):
    """`(x, rng) -> x` on one example; `rng.random(shape)` is called at most once."""

    def __call__(self, x: Any, rng: Any) -> Any: ...


@dataclass(frozen=True)
class Randomness:
    """The randomness of one transform of one example, on the device."""

    key: Key

    def random(self, shape: tuple[int, ...] = ()) -> Float[Array, "..."]:
        """Randomness on [0, 1)."""
        return jax.random.uniform(self.key, shape)


@dataclass(frozen=True)
class Scale:
    """`2 x / (levels - 1) - 1`: the middles of `cells`."""

    cells: Cells

    def __call__(self, x: Any, rng: Any = None) -> Any:
        return self.cells.middles(x)


@dataclass(frozen=True)
class Dequantise:
    """`2 (x + u) / levels - 1`, with `u` uniform on (0, 1): all over `cells`."""

    cells: Cells

    def __call__(self, x: Any, rng: Any) -> Any:
        return self.cells.spread(x, rng)


@dataclass(frozen=True)
class Tokens:
    """The level itself, or that of `levels` into which `of` are gathered: `x levels // of`."""

    levels: int
    of: int

    def __call__(self, x: Any, rng: Any = None) -> Any:
        return x.astype(np.int32) * self.levels // self.of


@dataclass(frozen=True)
class Flip:
    """Left and right exchanged, every other time."""

    def __call__(self, x: Any, rng: Any) -> Any:
        if x.ndim < 3:
            raise ValueError(f"flip mirrors images [H, W, C]; this example has shape {x.shape}")
        return x.__array_namespace__().where(rng.random() < 0.5, x[..., ::-1, :], x)


def scale(levels: int = 256) -> Scale:
    """Bring the integers `0 .. levels - 1` to [-1, 1]: `2 x / (levels - 1) - 1`.

    >>> scale()(np.array([0, 255], np.uint8)).tolist()
    [-1.0, 1.0]
    """
    return Scale(Cells(levels, width=2 / max(levels - 1, 1), first=-1.0))


def dequantise(levels: int = 256) -> Dequantise:
    """Make integers `0 .. levels - 1` continuous on [-1, 1]: `2 (x + u) / levels - 1`.

    It stands in the place of `scale`. A density `p` of the result gives the integers
    `-log2 p / d + log2(levels / 2)` bits a dimension.

    Reference: Uria, Murray and Larochelle, RNADE: the real-valued neural autoregressive
    density-estimator, 2013, arXiv:1306.0186.
    """
    return Dequantise(Cells(levels, width=2 / max(levels, 1), first=-1.0 + 1 / max(levels, 1)))


def tokens(levels: int = 256, *, of: int = 256) -> Tokens:
    """Leave the integers `0 .. of - 1` as tokens, int32, of `levels` that are as many or fewer.

    Raises:
        ValueError: for more levels than there are, or fewer than 2.

    >>> tokens(4)(np.array([0, 63, 64, 255], np.uint8)).tolist()
    [0, 0, 1, 3]
    """
    if not 2 <= levels <= of:
        raise ValueError(f"tokens needs 2 levels or more, of at most {of}; got {levels}")
    return Tokens(levels, of)


def flip() -> Flip:
    """Mirror an image `[H, W, C]` left to right with probability one half."""
    return Flip()


def pixels(x: Any, levels: int = 256) -> np.ndarray:
    """The inverse of `scale`: `(x + 1) (levels - 1) / 2`, rounded and clipped, as integers.

    >>> pixels(scale()(np.arange(256, dtype=np.uint8))).tolist() == list(range(256))
    True
    """
    return scale(levels).cells.pixels(x)


def apply(transforms: Sequence[Transform], x: Array, key: Key) -> Array:
    """All transforms in turn on one example, on the device."""
    for i, transform in enumerate(transforms):
        x = transform(x, Randomness(jax.random.fold_in(key, i)))
    return x

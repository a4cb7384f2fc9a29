"""Where the whole levels of pixels lie on the line of what a network sees.

Level k of L is a cell of width w, and the cells lie side by side:

(1) cell k = [b + (k - 1/2) w, b + (k + 1/2) w), its middle b + k w
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Cells"]

MOST = 2**16
DIGITS = 20  # of a float32's 24: the rest keeps noise off the edges, whatever is rounded


@dataclass(frozen=True)
class Cells:
    """The cells (1) of `levels` levels, the first around `first`.

    >>> cells = Cells(levels=4, width=0.5, first=-0.75)
    >>> cells.middles(np.arange(4)).tolist()
    [-0.75, -0.25, 0.25, 0.75]
    >>> cells.pixels(np.array([-0.6, 0.1, 2.0])).tolist()
    [0, 2, 3]

    Raises:
        ValueError: for fewer levels than two, or more than 65536.
    """

    levels: int
    width: float
    first: float

    def __post_init__(self) -> None:
        if not 2 <= self.levels <= MOST:
            raise ValueError(
                f"levels = {self.levels}: pixels take at least two values, such as 256, and at "
                f"most {MOST}"
            )

    def middles(self, k: Any) -> Any:
        """Levels as floats: the middles of their cells."""
        return _floats(k) * np.float32(self.width) + np.float32(self.first)

    def spread(self, k: Any, rng: Any) -> Any:
        """Levels as floats: somewhere in their cells, all places alike, never on an edge.

        The noise has as many digits as float32 has room for beside the level, so that `pixels`
        gives back every level.

        Reference: Uria, Murray and Larochelle, RNADE: the real-valued neural autoregressive
        density-estimator, 2013, arXiv:1306.0186; Theis, van den Oord and Bethge, A note on the
        evaluation of generative models, 2016, arXiv:1511.01844, section 3.1.
        """
        k = _floats(k)
        places = 2 ** (DIGITS - (self.levels - 1).bit_length())
        place = k.__array_namespace__().floor(rng.random(k.shape) * places).astype(k.dtype)
        return self.middles(k + (place - np.float32((places - 1) / 2)) / np.float32(places))

    def pixels(self, x: Any) -> np.ndarray:
        """The level of each float, as uint8 or uint16; beyond the ends the nearest."""
        k = np.rint((np.asarray(x, np.float32) - np.float32(self.first)) / np.float32(self.width))
        return np.clip(k, 0, self.levels - 1).astype(np.uint8 if self.levels <= 256 else np.uint16)

    def snapped(self, x: Any) -> np.ndarray:
        """Each float brought to the middle of its cell, as an image file would."""
        return self.middles(self.pixels(x))


def _floats(x: Any) -> Any:
    return x.astype(np.float32)

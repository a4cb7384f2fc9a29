"""The distance to the nearest training example: does a model copy?"""

import jax
import jax.numpy as jnp

from jaxflow.arrays import squared_distances
from jaxflow.metrics.features import Others, Samples, compared, root, rows
from jaxflow.records import record
from jaxflow.types import Array, Float, Int

__all__ = ["Nearest", "nearest"]

CHUNK = 256


@record
class Nearest:
    """For each sample, its Euclidean distance to the nearest example, and which one that is."""

    distance: Float[Array, "n"]
    index: Int[Array, "n"]

    def summary(self) -> dict[str, float]:
        """The mean, the median and the least distance.

        Held-out data give the scale: well below theirs is copying, well above is poor quality.
        """
        return {
            "mean": float(jnp.mean(self.distance)),
            "median": float(jnp.median(self.distance)),
            "minimum": float(jnp.min(self.distance)),
        }


def nearest(x: Samples, examples: Others) -> Nearest:
    """The nearest of `examples` to every sample, in the units of the data.

    Args:
        x: samples, `[n, *event]`.
        examples: the training data, `[m, *event]`.

    Raises:
        ValueError: for no samples or examples, or events that differ.

    The search expands the square; the distance itself is that of the difference, so that an exact
    copy is at exactly zero. Biased downwards as `m` grows: compare at equal `m`.

    >>> found = nearest(jnp.array([[3.0, 4.0]]), jnp.array([[9.0, 9.0], [0.0, 0.0]]))
    >>> float(found.distance[0]), int(found.index[0])
    (5.0, 1)

    Reference: Meehan, Chaudhuri and Dasgupta, A Non-Parametric Test to Detect Data-Copying in
    Generative Models, 2020, arXiv:2004.05675, section 3.
    """
    x, examples = compared(x, examples)
    return _nearest(rows(x), rows(examples))


@jax.jit
def _nearest(x: Array, examples: Array) -> Nearest:
    def search(xi: Array) -> Array:
        return jnp.argmin(squared_distances(xi[None], examples)[0])

    index = jax.lax.map(search, x, batch_size=CHUNK)
    return Nearest(root(jnp.sum((x - examples[index]) ** 2, axis=1)), index)

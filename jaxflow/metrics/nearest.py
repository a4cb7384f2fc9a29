"""The distance to the nearest training example: does a model copy?"""

import jax
import jax.numpy as jnp

from jaxflow.arrays import at_least_float32
from jaxflow.metrics.features import rows, same_event
from jaxflow.records import record
from jaxflow.types import Array, Data, Float, Int

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


def nearest(x: Data, examples: Data) -> Nearest:
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
    same_event(x, examples)
    return _nearest(rows(x), rows(examples))


@jax.jit
def _nearest(x: Array, examples: Array) -> Nearest:
    x, examples = at_least_float32(x), at_least_float32(examples)
    centre = jnp.mean(examples, axis=0)
    centred = examples - centre
    half_squares = 0.5 * jnp.sum(centred**2, axis=1)

    def search(xi: Array) -> Array:
        return jnp.argmin(half_squares - jnp.matmul(centred, xi - centre, precision="highest"))

    index = jax.lax.map(search, x, batch_size=CHUNK)
    return Nearest(jnp.linalg.norm(x - examples[index], axis=1), index)

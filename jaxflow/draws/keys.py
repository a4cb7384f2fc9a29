"""Keys of examples, for losses that sample."""

import jax

from jaxflow.arrays import batch_size
from jaxflow.records import record
from jaxflow.types import Batch, Draw, Held, Key

__all__ = ["keys"]


@record
class AddKeys:
    """Adds `keys`, one an example."""

    def __call__(self, key: Key, batch: Batch, held: Held | None = None) -> Batch:
        return {**batch, "keys": jax.random.split(key, batch_size(batch["x1"]))}


def keys() -> Draw:
    """Adds `"keys"`, one an example, for a loss whose solve is random (Hutchinson's probes)."""
    return AddKeys()

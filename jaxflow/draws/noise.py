"""Noise beside that of the pair, for losses that make a point of a path of their own samples."""

from jaxflow.draws.pairs import sampled
from jaxflow.records import record
from jaxflow.sources import as_source
from jaxflow.types import Batch, Draw, Held, Key, Source

__all__ = ["noise"]


@record
class Noise:
    """Adds `noise`, a second draw of the source."""

    source: Source

    def __call__(self, key: Key, batch: Batch, held: Held | None = None) -> Batch:
        return {**batch, "noise": sampled(self.source, key, batch["x1"])}


def noise(source: Source) -> Draw:
    """Adds `"noise"`, a second draw of the source, one key an example.

    `losses.distribution_matching` generates a sample from `x0`, and joins `noise` and that sample
    by the path.

    Args:
        source: as of `draws.source`.

    Raises:
        TypeError: for what is no source.
    """
    return Noise(as_source(source))

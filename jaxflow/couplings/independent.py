"""The independent coupling, `q(x0, x1) = q(x0) q(x1)`."""

from jaxflow.records import record
from jaxflow.types import Cond, Coupling, Key, Sample

__all__ = ["independent"]


@record
class Independent:
    """Leaves every pair as it was drawn."""

    independent = True

    def __call__(self, key: Key, x0: Sample, x1: Sample, cond: Cond) -> tuple[Sample, Sample, Cond]:
        return x0, x1, cond


def independent() -> Coupling:
    """Pairs as they were drawn: each datum with noise that knows nothing of it."""
    return Independent()

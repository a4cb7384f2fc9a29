"""Flow matching for JAX: paths, couplings, losses, networks and samplers as pure functions.

The rooms of the core are imported with the package; `networks`, `data` and `metrics`, which bring
Flax, Grain and scikit-learn, when they are first asked for.
"""

import importlib
from types import ModuleType

from jaxflow import (
    couplings,
    draws,
    losses,
    paths,
    sampling,
    sources,
    times,
    training,
    velocities,
)

__version__ = "0.1.0"

__all__ = [
    "couplings",
    "draws",
    "losses",
    "paths",
    "sampling",
    "sources",
    "times",
    "training",
    "velocities",
]


_LATER = ("data", "metrics", "networks")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})


def __getattr__(name: str) -> ModuleType:
    if name in _LATER:
        return importlib.import_module(f"jaxflow.{name}")
    raise AttributeError(f"module 'jaxflow' has no attribute {name!r}")

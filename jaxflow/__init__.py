"""Flow matching for JAX: paths, couplings, losses, networks and samplers as pure functions."""

from jaxflow import couplings, draws, losses, paths, sampling, sources, times, training, velocities

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

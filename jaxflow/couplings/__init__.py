"""Couplings pair source with data: `(key, x0, x1, cond) -> (x0, x1, cond)`."""

from jaxflow.couplings.independent import independent
from jaxflow.couplings.optimal_transport import optimal_transport

__all__ = ["independent", "optimal_transport"]

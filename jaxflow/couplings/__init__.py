"""Couplings pair source with data: `(key, x0, x1, cond) -> (x0, x1, cond)`."""

from jaxflow.couplings.conditional import conditional_optimal_transport
from jaxflow.couplings.independent import independent
from jaxflow.couplings.optimal_transport import optimal_transport
from jaxflow.couplings.semidiscrete import Semidiscrete, marginal_error, semidiscrete
from jaxflow.couplings.sinkhorn import Plan, sinkhorn, sinkhorn_plan

__all__ = [
    "Plan",
    "Semidiscrete",
    "conditional_optimal_transport",
    "independent",
    "marginal_error",
    "optimal_transport",
    "semidiscrete",
    "sinkhorn",
    "sinkhorn_plan",
]

"""Samplers integrate a velocity from its source to data, and tell what that cost."""

from jaxflow.sampling import grids
from jaxflow.sampling.adaptive import adaptive
from jaxflow.sampling.diagnostics import path_cost
from jaxflow.sampling.fixed_step import fixed_step
from jaxflow.sampling.flow_map import flow_map
from jaxflow.sampling.likelihood import exact, hutchinson, log_prob
from jaxflow.sampling.methods import ab2, euler, heun, midpoint, rk4
from jaxflow.sampling.precision import PRECISIONS

__all__ = [
    "PRECISIONS",
    "ab2",
    "adaptive",
    "euler",
    "exact",
    "fixed_step",
    "flow_map",
    "grids",
    "heun",
    "hutchinson",
    "log_prob",
    "midpoint",
    "path_cost",
    "rk4",
]

"""Losses of flow maps: networks of two times that carry a point from one to the other."""

from jaxflow.losses.flow_maps.alpha_flow import alpha_flow
from jaxflow.losses.flow_maps.consistency import consistency
from jaxflow.losses.flow_maps.distribution_matching import distribution_matching
from jaxflow.losses.flow_maps.drifting import drifting
from jaxflow.losses.flow_maps.mean_flow import improved_mean_flow, mean_flow
from jaxflow.losses.flow_maps.moment_matching import moment_matching
from jaxflow.losses.flow_maps.self_distillation import eulerian, lagrangian, semigroup
from jaxflow.losses.flow_maps.terminal_velocity import terminal_velocity

__all__ = [
    "alpha_flow",
    "consistency",
    "distribution_matching",
    "drifting",
    "eulerian",
    "improved_mean_flow",
    "lagrangian",
    "mean_flow",
    "moment_matching",
    "semigroup",
    "terminal_velocity",
]

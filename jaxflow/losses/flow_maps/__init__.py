"""Losses of flow maps: networks of two times that carry a point from one to the other."""

from jaxflow.losses.flow_maps.alpha_flow import alpha_flow
from jaxflow.losses.flow_maps.mean_flow import improved_mean_flow, mean_flow
from jaxflow.losses.flow_maps.self_distillation import eulerian, lagrangian, semigroup

__all__ = [
    "alpha_flow",
    "eulerian",
    "improved_mean_flow",
    "lagrangian",
    "mean_flow",
    "semigroup",
]

"""Velocities are flows: `(t, x, **cond) -> v`, learned, guided or known in closed form."""

from jaxflow.velocities.change_path import change_path
from jaxflow.velocities.exact import gaussian_mixture
from jaxflow.velocities.flow_map import flow_map
from jaxflow.velocities.function import as_velocity
from jaxflow.velocities.guidance import (
    autoguidance,
    classifier_free,
    composed,
    guided_by,
    plain,
    projected,
    rescaled,
    thresholded,
    zero_star,
)
from jaxflow.velocities.marginal import posterior_mean, score
from jaxflow.velocities.network import from_network
from jaxflow.velocities.prediction import KINDS, conversion_interval, convert

__all__ = [
    "KINDS",
    "as_velocity",
    "autoguidance",
    "change_path",
    "classifier_free",
    "composed",
    "conversion_interval",
    "convert",
    "flow_map",
    "from_network",
    "gaussian_mixture",
    "guided_by",
    "plain",
    "posterior_mean",
    "projected",
    "rescaled",
    "score",
    "thresholded",
    "zero_star",
]

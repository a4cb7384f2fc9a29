"""Velocities are flows: `(t, x, **cond) -> v`, learned, guided or known in closed form."""

from jaxflow.velocities.change_path import change_path
from jaxflow.velocities.diffusion import from_diffusion, to_diffusion
from jaxflow.velocities.exact import gaussian_mixture
from jaxflow.velocities.flow_map import flow_map
from jaxflow.velocities.from_logits import from_logits
from jaxflow.velocities.function import as_velocity
from jaxflow.velocities.guidance import (
    at_scale,
    autoguidance,
    classifier_free,
    composed,
    frequency_decoupled,
    geometric,
    guided_by,
    magnitude_aware,
    plain,
    projected,
    rescaled,
    tangential,
    thresholded,
    tilted,
    zero_star,
)
from jaxflow.velocities.in_blocks import in_blocks
from jaxflow.velocities.informed import informed
from jaxflow.velocities.marginal import posterior_mean, score
from jaxflow.velocities.network import from_network
from jaxflow.velocities.preconditioned import preconditioned
from jaxflow.velocities.prediction import KINDS, conversion_interval, convert
from jaxflow.velocities.score_network import score_from_network
from jaxflow.velocities.sharpened import temperature, top_p
from jaxflow.velocities.token_law import token_law

__all__ = [
    "KINDS",
    "as_velocity",
    "at_scale",
    "autoguidance",
    "change_path",
    "classifier_free",
    "composed",
    "conversion_interval",
    "convert",
    "flow_map",
    "frequency_decoupled",
    "from_diffusion",
    "from_logits",
    "from_network",
    "gaussian_mixture",
    "geometric",
    "guided_by",
    "in_blocks",
    "informed",
    "magnitude_aware",
    "plain",
    "posterior_mean",
    "preconditioned",
    "projected",
    "rescaled",
    "score",
    "score_from_network",
    "tangential",
    "temperature",
    "thresholded",
    "tilted",
    "to_diffusion",
    "token_law",
    "top_p",
    "zero_star",
]

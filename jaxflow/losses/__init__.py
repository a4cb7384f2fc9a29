"""Losses regress a network on a path: `(params, key, batch, held) -> (loss, aux)`."""

from jaxflow.losses import weights
from jaxflow.losses.consistency_flow_matching import consistency_flow_matching
from jaxflow.losses.contrastive import contrastive
from jaxflow.losses.cross_entropy import cross_entropy
from jaxflow.losses.discrete_consistency import discrete_consistency
from jaxflow.losses.edits import edits
from jaxflow.losses.flow_and_score import flow_and_score
from jaxflow.losses.flow_maps import (
    alpha_flow,
    consistency,
    distribution_matching,
    drifting,
    eulerian,
    improved_mean_flow,
    lagrangian,
    mean_flow,
    moment_matching,
    semigroup,
    terminal_velocity,
)
from jaxflow.losses.flow_matching import flow_matching
from jaxflow.losses.generalised_kl import generalised_kl
from jaxflow.losses.maximum_likelihood import maximum_likelihood
from jaxflow.losses.mixed import mixed
from jaxflow.losses.uncertainty import learned_uncertainty

__all__ = [
    "alpha_flow",
    "consistency",
    "consistency_flow_matching",
    "contrastive",
    "cross_entropy",
    "discrete_consistency",
    "distribution_matching",
    "drifting",
    "edits",
    "eulerian",
    "flow_and_score",
    "flow_matching",
    "generalised_kl",
    "improved_mean_flow",
    "lagrangian",
    "learned_uncertainty",
    "maximum_likelihood",
    "mean_flow",
    "mixed",
    "moment_matching",
    "semigroup",
    "terminal_velocity",
    "weights",
]

"""Losses regress a network on a path: `(params, key, batch, held) -> (loss, aux)`."""

from jaxflow.losses import weights
from jaxflow.losses.contrastive import contrastive
from jaxflow.losses.flow_and_score import flow_and_score
from jaxflow.losses.flow_matching import flow_matching
from jaxflow.losses.maximum_likelihood import maximum_likelihood
from jaxflow.losses.uncertainty import learned_uncertainty

__all__ = [
    "contrastive",
    "flow_and_score",
    "flow_matching",
    "learned_uncertainty",
    "maximum_likelihood",
    "weights",
]

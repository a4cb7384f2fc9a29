"""Losses regress a network on a path: `(params, key, batch, held) -> (loss, aux)`."""

from jaxflow.losses import weights
from jaxflow.losses.flow_and_score import flow_and_score
from jaxflow.losses.flow_matching import flow_matching

__all__ = ["flow_and_score", "flow_matching", "weights"]

r"""Guidance: a pair of fields, one wanted and one not, and a rule that combines them.

(1) $v_s(t, x) = R(t, x, v^+, v^-, s)$, plainly $v^- + s\,(v^+ - v^-)$

A pair is made by `classifier_free` (with and without conditions) or `autoguidance` (a strong and a
weak network); `composed` adds several pairs. What is no pair adds to the velocity what it lacks:
`guided_by` the gradient of a log-density, `thresholded` the bounds of the data. All are velocities,
and so each guides another. `at_scale` is of a network that learned guidance as a condition.
"""

from jaxflow.velocities.guidance.at_scale import at_scale
from jaxflow.velocities.guidance.autoguidance import autoguidance
from jaxflow.velocities.guidance.classifier_free import classifier_free
from jaxflow.velocities.guidance.composed import composed
from jaxflow.velocities.guidance.frequency import frequency_decoupled
from jaxflow.velocities.guidance.gradient import guided_by
from jaxflow.velocities.guidance.projected import projected
from jaxflow.velocities.guidance.rules import (
    geometric,
    magnitude_aware,
    plain,
    rescaled,
    tangential,
    zero_star,
)
from jaxflow.velocities.guidance.thresholded import thresholded
from jaxflow.velocities.guidance.tilted import tilted

__all__ = [
    "at_scale",
    "autoguidance",
    "classifier_free",
    "composed",
    "frequency_decoupled",
    "geometric",
    "guided_by",
    "magnitude_aware",
    "plain",
    "projected",
    "rescaled",
    "tangential",
    "thresholded",
    "tilted",
    "zero_star",
]

"""What a config's loss teaches: a velocity, a flow map, or samples in one step alone."""

from collections.abc import Sequence

from ml_collections import ConfigDict

from experiments.setup.components import component
from jaxflow.losses import flow_maps
from jaxflow.losses.flow_maps.distribution_matching import PARTS

__all__ = [
    "are_edited",
    "are_soft",
    "block_of",
    "is_of_one_step",
    "learns_map",
    "learns_tokens",
    "learns_velocity",
    "parts_of",
    "restarts",
]

# What these teach is no velocity of a flow at any time.
NO_VELOCITY = (
    "consistency_flow_matching",
    "distribution_matching",
    "drifting",
    "moment_matching",
)

# Paths of tokens.
OF_JUMPS, OF_SOFT, OF_EDITS = ("mixture", "metric", "gidd", "duo"), ("fisher", "dirichlet"), "edits"


def learns_map(config: ConfigDict) -> bool:
    """Whether the network learns a flow map, and so takes the time that a point is carried to."""
    return config.loss.name in flow_maps.__all__


def learns_velocity(config: ConfigDict) -> bool:
    """Whether the network learns a velocity, that of its map at equal times where it has one.

    A map whose points all go to the end of the path, a consistency model's, is of no equal times.
    """
    is_none = config.loss.name in NO_VELOCITY or learns_tokens(config)
    return not is_none and not restarts(config)


def learns_tokens(config: ConfigDict) -> bool:
    """Whether the network learns of tokens: their posterior by its logits, or their edits."""
    return config.path.name in (*OF_JUMPS, *OF_SOFT, OF_EDITS)


def are_soft(config: ConfigDict) -> bool:
    """Whether its tokens are points that flow, and no symbols that jump."""
    return config.path.name in OF_SOFT


def are_edited(config: ConfigDict) -> bool:
    """Whether its tokens are those of sequences of different lengths, padded at their end."""
    return config.path.name == OF_EDITS


def block_of(config: ConfigDict) -> int | None:
    """How many tokens are generated at a time, where the network is one of blocks of them."""
    return getattr(component("network", config.network), "block", None)


def is_of_one_step(config: ConfigDict) -> bool:
    """Whether samples come in one step alone, from the source to the data."""
    return config.loss.name in ("distribution_matching", "drifting")


def restarts(config: ConfigDict) -> bool:
    """Whether the map leads to the data alone, so that further steps start anew from it."""
    return learns_map(config) and config.spans.name == "to_end"


def parts_of(config: ConfigDict) -> Sequence[str]:
    """The networks that learn, by their names among the parameters; none where there is one."""
    return PARTS if config.loss.name == "distribution_matching" else ()

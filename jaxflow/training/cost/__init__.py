"""What a step costs, read from its trace and from its compiled program, on chips by name."""

from jaxflow.training.cost.chips import CHIPS, Chip, chip, peak_flops
from jaxflow.training.cost.flops import flops
from jaxflow.training.cost.touched import bytes_touched
from jaxflow.training.cost.traffic import Collective, collectives

__all__ = [
    "CHIPS",
    "Chip",
    "Collective",
    "bytes_touched",
    "chip",
    "collectives",
    "flops",
    "peak_flops",
]

"""Training: a pure step, compiled for every device. Checkpoints are in `training.checkpoint`."""

from jaxflow.training.flops import flops
from jaxflow.training.parallel import MODES, Program, data_mesh, program
from jaxflow.training.trainer import draw_key, ema_decay_at, trainer

__all__ = [
    "MODES",
    "Program",
    "data_mesh",
    "draw_key",
    "ema_decay_at",
    "flops",
    "program",
    "trainer",
]

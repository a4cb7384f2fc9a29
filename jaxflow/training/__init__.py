"""Training: a pure step, compiled for every device. Checkpoints are in `training.checkpoint`.

`program` compiles a `trainer` over a `layout` of devices; `processes` joins several machines;
`Preemption` and `without_spikes` keep a long run alive.
"""

from jaxflow.training.flops import flops
from jaxflow.training.layouts import LAYOUTS, Layout, Placed, layout
from jaxflow.training.parallel import MODES, Program, check_divides, program
from jaxflow.training.preemption import Preemption
from jaxflow.training.spikes import without_spikes
from jaxflow.training.trainer import draw_key, ema_decay_at, trainer
from jaxflow.training.utilisation import peak_flops

__all__ = [
    "LAYOUTS",
    "MODES",
    "Layout",
    "Placed",
    "Preemption",
    "Program",
    "check_divides",
    "draw_key",
    "ema_decay_at",
    "flops",
    "layout",
    "peak_flops",
    "program",
    "trainer",
    "without_spikes",
]

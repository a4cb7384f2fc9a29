"""Training: a pure step, compiled for every device. Checkpoints are in `training.checkpoint`.

`program` compiles a `trainer` over a `layout` of devices; `processes` joins several machines;
`Preemption`, `Watchdog` and `without_spikes` keep a long run alive.
"""

from jaxflow.training.averages import Average, average
from jaxflow.training.flops import flops
from jaxflow.training.layouts import LAYOUTS, Layout, Placed, layout
from jaxflow.training.parallel import MODES, Program, check_divides, program
from jaxflow.training.preemption import Preemption
from jaxflow.training.spikes import without_spikes
from jaxflow.training.trainer import Trainer, draw_key, held_by, trainer
from jaxflow.training.utilisation import peak_flops
from jaxflow.training.watchdog import Watchdog

__all__ = [
    "Average",
    "LAYOUTS",
    "MODES",
    "Layout",
    "Placed",
    "Preemption",
    "Program",
    "Trainer",
    "Watchdog",
    "average",
    "check_divides",
    "draw_key",
    "flops",
    "held_by",
    "layout",
    "peak_flops",
    "program",
    "trainer",
    "without_spikes",
]

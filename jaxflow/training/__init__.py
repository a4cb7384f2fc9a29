"""Training: a pure step, compiled for every device. Checkpoints are in `training.checkpoint`.

`program` compiles a `trainer` over a `layout` of devices, and `fit` is the loop around it;
`processes` joins several machines; `Preemption` and `without_spikes` keep a long run alive.
"""

from jaxflow.training.ahead import ahead
from jaxflow.training.averages import Average, average
from jaxflow.training.calendar import Calendar, Due
from jaxflow.training.cost import CHIPS, chip, flops, peak_flops
from jaxflow.training.feed import Feed, completed, feed
from jaxflow.training.fit import Duties, fit, walk
from jaxflow.training.layouts import LAYOUTS, Layout, Placed, layout
from jaxflow.training.muon import muon
from jaxflow.training.parallel import MODES, Program, check_divides, program
from jaxflow.training.placement import Prefetch, prefetch
from jaxflow.training.preemption import Preempted, Preemption
from jaxflow.training.spikes import without_spikes
from jaxflow.training.trainer import Trainer, draw_key, held_by, trainer
from jaxflow.training.turns import in_turn
from jaxflow.training.window import NotFinite, Window

__all__ = [
    "Average",
    "CHIPS",
    "Calendar",
    "Due",
    "Duties",
    "Feed",
    "LAYOUTS",
    "MODES",
    "Layout",
    "NotFinite",
    "Placed",
    "Preempted",
    "Preemption",
    "Prefetch",
    "Program",
    "Trainer",
    "Window",
    "ahead",
    "average",
    "check_divides",
    "chip",
    "completed",
    "draw_key",
    "feed",
    "fit",
    "flops",
    "held_by",
    "in_turn",
    "layout",
    "muon",
    "peak_flops",
    "prefetch",
    "program",
    "trainer",
    "walk",
    "without_spikes",
]

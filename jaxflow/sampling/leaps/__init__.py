"""Leaps: one step of a process of tokens, for `sampling.jumps`.

A leap is a Method whose velocity is a `Process`: `step(process, t, s, x, memory, keys)`.
"""

from jaxflow.sampling.leaps.by_rates import by_rates
from jaxflow.sampling.leaps.confident import confident
from jaxflow.sampling.leaps.corrected import corrected
from jaxflow.sampling.leaps.first_order import ancestral, euler, tau_leaping
from jaxflow.sampling.leaps.forth_and_back import forth_and_back
from jaxflow.sampling.leaps.remasking import remasking
from jaxflow.sampling.leaps.trapezoidal import trapezoidal

__all__ = [
    "ancestral",
    "by_rates",
    "confident",
    "corrected",
    "euler",
    "forth_and_back",
    "remasking",
    "tau_leaping",
    "trapezoidal",
]

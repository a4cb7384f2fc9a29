"""Draws complete a batch with everything random in an objective: `(key, batch, held) -> batch`.

A batch comes as `{"x1": data, "cond": {...}}` (with `"x0"` where the source is data too) and leaves
with `x0, x1, t, z, cond`. Draws run on the global batch, before microbatches and devices split it,
so that every layout trains the same run. `held` is what a loss may read too: the step, the
averages and what is frozen, so that a draw may encode its data by a frozen network.
"""

from jaxflow.draws.by_block import by_block
from jaxflow.draws.chain import as_draw, chain
from jaxflow.draws.drop import drop
from jaxflow.draws.groups import groups
from jaxflow.draws.guidance import guidance
from jaxflow.draws.keys import keys
from jaxflow.draws.negatives import negatives
from jaxflow.draws.noise import noise
from jaxflow.draws.pairs import couple, latent, source, times
from jaxflow.draws.self_condition import self_condition
from jaxflow.draws.spans import dyadic, spans, to_end
from jaxflow.draws.standard import standard

__all__ = [
    "as_draw",
    "by_block",
    "chain",
    "couple",
    "drop",
    "dyadic",
    "groups",
    "guidance",
    "keys",
    "latent",
    "negatives",
    "noise",
    "self_condition",
    "source",
    "spans",
    "standard",
    "times",
    "to_end",
]

r"""A leap by rates that are no posterior's: guided ones.

Guidance of the rates (Nisonoff et al., 2024) multiplies each with a power, and what comes of it
sums to something else than one. For logits $g$ whose normaliser has a meaning, as those of
`velocities.classifier_free(..., rule=velocities.geometric())` and `velocities.tilted`,

(1) $r_t(y, x) = e^{g_y}$ for $y \ne x$, by the clock of a mixture path, in a tau-leap
"""

from typing import Any

import jax.numpy as jnp

from jaxflow.sampling.leaps.process import Process, mixture_of
from jaxflow.sampling.methods.moves import made, no_memory
from jaxflow.tokens import but, drawn, leapt
from jaxflow.types import Data, Keys, Method, Time

__all__ = ["by_rates"]


def _by_rates(
    process: Process, t: Time, s: Time, x: Data, memory: Any, keys: Keys
) -> tuple[Data, Any]:
    mixture_of(process, "by_rates")
    logits = process(t, x)
    rates = but(logits, x)
    total = jnp.where(process.fixed(x), 0.0, jnp.sum(jnp.exp(rates), axis=-1))
    span = process.span(t, s, x)
    return process.keep(x, leapt(keys, span, x, total, lambda k: drawn(k, logits, x))), memory


def by_rates() -> Method:
    """A tau-leap by rates (1): one call, order 1; for mixture paths.

    Of normalised logits it is `tau_leaping`.

    Nisonoff et al., Unlocking Guidance for Discrete State-Space Diffusion and Flow Models, 2024,
    arXiv:2406.01572, eq. 2 and 3.
    """
    return made(no_memory, _by_rates, calls=1, order=1)

r"""Leaps back and forth: the marginals of the path, with errors mended on the way.

(1) the rates $(1 + \eta_t)\, r_t(y, x) + \eta_t\, \bar r_t(y, x)$ by clock time have the
    marginals of $r_t$ for any $\eta_t \ge 0$, as $\bar r_t$ are those of the process run backwards:
    what is added brings a law that is not $p_t$ nearer to it

(2) a tau-leap by (1): a token that jumps goes back with the share of $\eta_t\, \bar r_t$, and is
    then drawn from the source
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxflow.arrays import at_least_float32, event_shape, expand, per_sample, two_keys
from jaxflow.checks import check_made
from jaxflow.records import traceable
from jaxflow.sampling.leaps.process import Process, mixture_of
from jaxflow.sampling.methods.moves import made, no_memory
from jaxflow.tokens import drawn
from jaxflow.types import Array, Data, Keys, Method, Time

__all__ = ["forth_and_back", "leapt_both_ways"]


def _forth_and_back(
    churn: Any, process: Process, t: Time, s: Time, x: Data, memory: Any, keys: Keys
) -> tuple[Data, Any]:
    back = expand(at_least_float32(churn(t)), x)
    return leapt_both_ways(process, keys, process.span(t, s, x), t, x, 1 + back, back), memory


def leapt_both_ways(
    process: Process, keys: Keys, span: Array, t: Time, x: Data, forth: Any, back: Any
) -> Data:
    """A tau-leap (2) over a clock time, with shares of the rates of `t` forth and back."""
    keys, back_keys = two_keys(keys)
    keys, there_keys = two_keys(keys)
    path = mixture_of(process, "a jump forth and back")
    logits = process(t, x)
    forth = forth * path.leaving(x, logits)
    back = back * path.back_rate(t, x, logits)
    u = per_sample(lambda key: jax.random.uniform(key, (2, *x.shape[1:])), keys)
    total = forth + back
    jumps = (total > 0) & (u[:, 0] < -jnp.expm1(-span * total))
    noise = path.law.sample(back_keys, event_shape(x)).astype(x.dtype)
    data = drawn(there_keys, logits, x).astype(x.dtype)
    moved = jnp.where(u[:, 1] * total < back, noise, data)
    return process.keep(x, jnp.where(jumps, moved, x))


def forth_and_back(churn: float | Callable[[Time], Time]) -> Method:
    r"""Tau-leaping forth and back (2): one call, order 1.

    Args:
        churn: $\eta_t$, a number or a function of the times `[batch]`: how much of the rates back
            is added. What is wrong in a token is drawn anew some `churn` times on the way.

    Raises:
        ValueError: for a negative number.

    Gat et al., Discrete Flow Matching, 2024, arXiv:2407.15595, with
    $\alpha_t = 1 + \eta_t$ and $\beta_t = \eta_t$.
    """
    check_made("churn", churn)
    if not callable(churn):
        if not churn >= 0:
            raise ValueError(f"forth_and_back needs a churn of 0 or more; got {churn}")
        churn = Partial(jnp.full_like, fill_value=float(churn))
    return made(no_memory, Partial(_forth_and_back, traceable(churn)), calls=1, order=1)

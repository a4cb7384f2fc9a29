r"""Confident leaps: the tokens that the network is surest of are unmasked first.

(1) Of the $n$ tokens that were masked at first, $\lfloor n\, \kappa_s \rceil$ are data at $s$:
    those whose draws $\hat x_1 \sim p_{1 \mid t}$ have the largest
    $\log p_{1 \mid t}(\hat x_1 \mid x) + c\, (1 - \kappa_s)\, g$, $g$ standard Gumbel noise

It is no simulation of the process: samples are of another law than the data's even of an exact
posterior, surer ones.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxflow.arrays import event_sum, per_sample
from jaxflow.sampling.leaps.process import Process, two_keys
from jaxflow.sampling.methods.moves import made
from jaxflow.tokens import at_token, log_normaliser
from jaxflow.types import Array, Data, Keys, Method, Time

__all__ = ["confident"]


def _masked(process: Process, t: Time, x: Data) -> Array:
    return event_sum(~process.fixed(x))


def _confident(
    choice: Array, process: Process, t: Time, s: Time, x: Data, masked: Array, keys: Keys
) -> tuple[Data, Any]:
    keys, other = two_keys(keys)
    logits = process(t, x)
    x1 = process.data(other, x, logits)
    share = process.path.kappa_at(s, x)
    noise = per_sample(lambda key: jax.random.gumbel(key, x.shape[1:]), keys)
    sure = at_token(logits, x1) - log_normaliser(logits) + choice * (1 - share) * noise
    free = ~process.fixed(x)
    flat = jnp.where(free, sure, -jnp.inf).reshape(len(x), -1)
    place = jnp.argsort(jnp.argsort(-flat, axis=-1), axis=-1).reshape(x.shape)
    lead = (-1, *(1,) * (x.ndim - 1))
    wanted = jnp.round(masked.reshape(lead) * share) - (masked - event_sum(free)).reshape(lead)
    return jnp.where(free & (place < wanted), x1, x), masked


def confident(choice: float = 4.5) -> Method:
    """Unmasking in the order of confidence (1): one call; for mask sources.

    Args:
        choice: $c$, how much chance there is in the order; 0 for none.

    Raises:
        ValueError: for a negative choice.

    Chang et al., MaskGIT: Masked Generative Image Transformer, 2022, arXiv:2202.04200.
    """
    if not choice >= 0:
        raise ValueError(f"confident needs a choice of 0 or more; got {choice}")
    return made(_masked, Partial(_confident, jnp.float32(choice)), calls=1, order=0)

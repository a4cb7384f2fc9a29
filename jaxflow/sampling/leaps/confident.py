r"""Confident leaps: the tokens that are surest to be right are the ones to stand.

(1) Of the $n$ tokens that were masked at first, $\lfloor n\, \kappa_s \rceil$ are data at $s$:
    with $y^i = \hat x_1^i \sim p_{1 \mid t}$ where $x^i$ is masked and $x^i$ where not, those of
    the largest

    $\ell^i + c\, (1 - \kappa_s)\, g^i$ where masked, $\qquad \eta\, \ell^i$ where not

    with standard Gumbel noise $g$ and $\ell^i = \log p_{1 \mid t}(y^i \mid x)$, or what a planner
    says of $y$. For $\eta = 0$ what is data stays; else it is masked again where others are surer.

It is no simulation of the process: samples are of another law than the data's even of an exact
posterior, surer ones.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxflow.arrays import as_floats, event_shape, event_sum, per_sample, two_keys
from jaxflow.checks import check_made
from jaxflow.records import traceable
from jaxflow.sampling.leaps.process import Process, check_masks
from jaxflow.sampling.methods.moves import made
from jaxflow.tokens import at_token, log_normaliser
from jaxflow.types import Array, Data, Keys, Method, Time

__all__ = ["confident"]


def _at_first(process: Process, t: Time, x: Data) -> Array:
    return ~process.fixed(x)


def _confident(
    choice: Array,
    doubt: Array,
    planner: Any,
    process: Process,
    t: Time,
    s: Time,
    x: Data,
    free: Array,
    keys: Keys,
) -> tuple[Data, Any]:
    path = process.path
    check_masks(path, "confident")
    keys, other = two_keys(keys)
    logits = process(t, x)
    y = process.data(other, x, logits)
    if planner is None:
        sure = at_token(logits, y) - log_normaliser(logits)
    else:
        sure = planner(t, y, **process.cond)
        if jnp.shape(sure) != x.shape:
            raise ValueError(
                f"the planner returns shape {jnp.shape(sure)} for tokens of shape {x.shape}: it "
                "is (t, x, **cond) -> the log-probability that each token is right"
            )
    share = path.kappa_at(s, x)
    noise = per_sample(lambda key: jax.random.gumbel(key, x.shape[1:]), keys)
    masked = ~path.known(x)
    stands = jnp.where(doubt > 0, doubt * sure, jnp.inf)
    score = jnp.where(masked, sure + choice * (1 - share) * noise, stands)
    score = jnp.where(free, score, -jnp.inf)
    place = jnp.argsort(jnp.argsort(-score.reshape(len(x), -1), axis=-1), axis=-1)
    wanted = jnp.round(event_sum(free).reshape(-1, *(1,) * (x.ndim - 1)) * share)
    mask = path.law.sample(keys, event_shape(x)).astype(x.dtype)
    return jnp.where(free, jnp.where(place.reshape(x.shape) < wanted, y, mask), x), free


def confident(
    choice: float = 4.5, *, doubt: float = 0.0, planner: Callable[..., Any] | None = None
) -> Method:
    r"""Unmasking in the order of confidence (1): one call; for mask sources.

    Args:
        choice: $c$, how much chance there is in the order; 0 for none.
        doubt: $\eta$, how freely data is masked again; at 0 it stays, and at 1 it competes with
            what is new.
        planner: `(t, y, **cond) -> [batch, *event]`, the log-probability that each token of a
            filled sequence is right, as a network that was trained to tell; called once a step, and
            not counted. The posterior's own word where None.

    Raises:
        ValueError: for a negative choice or doubt.

    Chang et al., MaskGIT: Masked Generative Image Transformer, 2022, arXiv:2202.04200; with doubt
    and planner Peng et al., Path Planning for Masked Diffusion Model Sampling, 2025,
    arXiv:2502.03540, algorithm 1.
    """
    check_made("planner", planner)
    for name, value in (("choice", choice), ("doubt", doubt)):
        if not value >= 0:
            raise ValueError(f"confident needs a {name} of 0 or more; got {value}")
    numbers = as_floats(choice), as_floats(doubt)
    rule = Partial(_confident, *numbers, None if planner is None else traceable(planner))
    return made(_at_first, rule, calls=1, order=0)

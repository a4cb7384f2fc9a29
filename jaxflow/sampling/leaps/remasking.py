r"""Remasking leaps: tokens that are data are masked again, and the share of data stays the path's.

For a mask source, with a probability $\sigma$ of being masked again,

(1) a token that is data is masked with the probability $\sigma$; one that is masked becomes
    $\hat x_1 \sim p_{1 \mid t}(\cdot \mid x)$ with
    $\dfrac{\kappa_s - (1 - \sigma)\, \kappa_t}{1 - \kappa_t}$

It draws more than the step's share of tokens anew, so that for a fixed $\eta$ the errors of drawing
them at once do not vanish with the step, even of an exact posterior: `forth_and_back` is the leap
whose law converges. The share of data at $s$ is $(1 - \sigma) \kappa_t + \kappa_s - (1 - \sigma)
\kappa_t = \kappa_s$, which needs $\sigma \le \sigma_{max} = \min(1, (1 - \kappa_s) / \kappa_t)$.

| policy | $\sigma$ |
|---|---|
| capped | $\min(\eta, \sigma_{max})$ |
| scaled | $\eta\, \sigma_{max}$ |
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxflow.arrays import event_shape, per_sample, two_keys
from jaxflow.names import check_known
from jaxflow.sampling.leaps.process import Process, check_masks
from jaxflow.sampling.methods.moves import made, no_memory
from jaxflow.types import Data, Keys, Method, Time

__all__ = ["remasking"]

POLICIES = {"capped": jnp.minimum, "scaled": jnp.multiply}


def _remasking(
    policy: Any, process: Process, t: Time, s: Time, x: Data, memory: Any, keys: Keys
) -> tuple[Data, Any]:
    path = process.path
    check_masks(path, "remasking")
    keys, other = two_keys(keys)
    x1 = process.data(other, x, process(t, x))
    now, then = path.kappa_at(t, x), path.kappa_at(s, x)
    most = jnp.minimum(1.0, (1 - then) / jnp.where(now > 0, now, 1.0))
    sigma = policy(most)
    unmasked = (then - (1 - sigma) * now) / (1 - now)
    u = per_sample(lambda key: jax.random.uniform(key, x.shape[1:]), keys)
    noise = path.law.sample(other, event_shape(x)).astype(x.dtype)
    known = path.known(x)
    moved = jnp.where(known, jnp.where(u < sigma, noise, x), jnp.where(u < unmasked, x1, x))
    return process.keep(x, moved), memory


def remasking(eta: float, *, policy: str = "scaled") -> Method:
    """Ancestral sampling that masks tokens again (1): one call, order 1; for mask sources.

    Args:
        eta: how much, in [0, 1]; at 0 it is `euler`.
        policy: "capped", at most so likely a step, whatever the number of steps; or "scaled", so
            much of what is possible.

    Raises:
        ValueError: for an eta outside [0, 1] or an unknown policy.

    Wang et al., Remasking Discrete Diffusion Models with Inference-Time Scaling, 2025,
    arXiv:2503.00307.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"remasking needs 0 <= eta <= 1; got {eta}")
    check_known("policy", policy, POLICIES)
    rule = Partial(_remasking, Partial(POLICIES[policy], jnp.float32(eta)))
    return made(no_memory, rule, calls=1, order=0)

r"""Heun's method of Karras et al., which first goes back to a little more noise.

With the ratio of noise to signal $\tilde\sigma = \sigma / \alpha$ and the posterior means
$\hat x_1, \hat x_0$, a step from $t$ to $s$

(1) goes back to the time $\hat t$ where $\tilde\sigma$ is $(1 + \gamma)$ times what it was, by the
    path's own noising: $\hat x = \frac{\hat\alpha}{\alpha} x
    + a \sqrt{\hat\sigma^2 - \frac{\hat\alpha^2}{\alpha^2} \sigma^2}\; z$

(2) takes Euler's step in $\tilde\sigma$: $y = \alpha_s \hat x_1 + \sigma_s \hat x_0$

(3) and Heun's: $y + \frac12 (\sigma_s - \alpha_s \frac{\hat\sigma}{\hat\alpha})
    (\hat x_0(s, y) - \hat x_0)$

In the coordinates $x / \alpha$ this is the paper's algorithm 2. (2) stands alone where a step ends
without noise, as there, and where it starts from noise alone ($\hat\alpha = 0$), where the paper
starts from a finite ratio.
"""

import math
from typing import Any

import jax.numpy as jnp
from jax.tree_util import Partial

from jaxflow.paths.ends import schedule_of
from jaxflow.paths.schedules import time_of_signal
from jaxflow.sampling.methods.levels import (
    blend,
    level,
    noised,
    predictions,
    ratio,
)
from jaxflow.sampling.methods.moves import Field, made, no_memory, normal, where
from jaxflow.types import Keys, Method, Path, Time

__all__ = ["churn"]

LARGEST = math.sqrt(2) - 1


def _churn(
    path: Path,
    settings: tuple[Any, ...],
    v: Field,
    t: Time,
    s: Time,
    x: Any,
    memory: Any,
    keys: Keys | None = None,
) -> tuple[Any, Any]:
    gamma, low, high, scale = settings
    z = normal(keys, x, "churn")
    schedule = schedule_of(path)
    now, then = level(schedule, t), level(schedule, s)
    noisier = now.sigma * (1 + gamma)
    earlier = jnp.minimum(t, time_of_signal(schedule, now.alpha / (now.alpha + noisier)))
    is_churned = (now.sigma >= low * now.alpha) & (now.sigma <= high * now.alpha) & (s > t)
    earlier = jnp.where(is_churned & (now.alpha > 0) & (gamma > 0), earlier, t)
    hat = level(schedule, earlier)
    x_hat = where(earlier < t, noised(now, hat, x, z, scale), x)
    data, noise = predictions(path, v, earlier, x_hat)
    y = blend(then.alpha, data, (then.sigma, noise))
    _, noise_next = predictions(path, v, s, y)
    span = then.sigma - then.alpha * ratio(hat.sigma, hat.alpha)
    span = jnp.where((then.sigma > 0) & (hat.alpha > 0), span / 2, 0.0)
    return where(s == t, x, blend(jnp.ones_like(span), y, (span, noise_next - noise))), memory


def churn(
    path: Path,
    gamma: float,
    *,
    ratio_min: float = 0.0,
    ratio_max: float = math.inf,
    scale: float = 1.0,
) -> Method:
    """Heun's method after a step back to more noise, (1) to (3): two calls, order 2 without noise.

    Args:
        path: the affine path that the velocity was learned on; from standard normal noise
            independent of the data.
        gamma: how much larger the ratio of noise to data gets before every step, at most
            `sqrt(2) - 1`; in the paper `min(S_churn / n, sqrt(2) - 1)` for `n` steps.
        ratio_min, ratio_max: ratios between which noise is added, the paper's `S_tmin`, `S_tmax`.
        scale: of the noise that is added, the paper's `S_noise`.

    Raises:
        ValueError: where the path has no schedule, `gamma` is out of range, the ratios are not in
            order, or the scale is negative; and in sampling without keys.

    Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, 2022,
    arXiv:2206.00364, algorithm 2.
    """
    schedule_of(path)
    if not 0 <= gamma <= LARGEST + 1e-6:
        raise ValueError(
            f"churn needs 0 <= gamma <= sqrt(2) - 1 = {LARGEST:.4f}, as "
            f"min(S_churn / n, sqrt(2) - 1) is for n steps; got {gamma}"
        )
    if not 0 <= ratio_min <= ratio_max or not 0 <= scale < math.inf:
        raise ValueError(
            "churn needs 0 <= ratio_min <= ratio_max and scale >= 0; "
            f"got ratio_min={ratio_min}, ratio_max={ratio_max}, scale={scale}"
        )
    settings = gamma, ratio_min, ratio_max, scale
    return made(no_memory, Partial(_churn, path, settings), calls=2, order=2)

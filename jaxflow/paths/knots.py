r"""Schedules that are arrays: the log signal-to-noise ratio $\lambda$ at knots, and lines between.

(1) $\alpha^2 = \operatorname{sigmoid}(\lambda)$ and $\sigma^2 = \operatorname{sigmoid}(-\lambda)$,
    variance preserving

(2) $\lambda(t) = \lambda_i + w (\lambda_{i+1} - \lambda_i)$ at $t = (i + w) / n$, $0 \le w \le 1$

A diffusion of $N$ discrete steps $\beta_k$ has $\bar\alpha_k = \prod_{j \le k} (1 - \beta_j)$ and
$\alpha^2 = \bar\alpha_k$ at step $k$, noisiest at $k = N - 1$. In our time

(3) $t_k = 1 - (k + 1) / N$, so the noisiest step is $t = 0$ and clean data, a step before the
    first, is $t = 1$; $n = N$ and $\lambda_i = \operatorname{logit} \bar\alpha_{N-1-i}$

Between its first step and clean data the variance of the noise falls evenly to 0.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.arrays import as_floats
from jaxflow.paths.affine import Affine, affine
from jaxflow.paths.schedules import At
from jaxflow.records import record
from jaxflow.types import Array, Float, Interval

__all__ = ["Discrete", "Monotone", "discrete", "monotone", "steps_of", "time_of_step"]

_BEYOND = 2e-7  # so that float32 rounds the time of step 0 to one inside the interval


@record
class Discrete:
    """The schedule (3) of a diffusion of discrete steps; its noise is exact at each of them."""

    log_snr: Float[Array, "steps"]

    @property
    def steps(self) -> int:
        """How many there are."""
        return self.log_snr.shape[0]

    @property
    def interval(self) -> Interval:
        """Up to the first step; from there on the noise vanishes as a square root."""
        return 0.0, 1.0 - 1.0 / self.steps + _BEYOND

    def alpha(self, t: At) -> At:
        """Share of the data."""
        return _discrete_shares(self.log_snr, t)[0]

    def sigma(self, t: At) -> At:
        """Share of the noise."""
        return _discrete_shares(self.log_snr, t)[1]

    def time_of_log_snr(self, value: At) -> At:
        """The time at which the log signal-to-noise ratio is `value`, no later than step 0."""
        return jnp.interp(value, self.log_snr, jnp.arange(self.steps) / self.steps)


@record
class Monotone:
    """A schedule that rises whatever its numbers are: `rises` are the logs of `e^rise - 1`."""

    start: Float[Array, ""]
    rises: Float[Array, "pieces"]

    interval = (0.0, 1.0)

    @property
    def log_snr(self) -> Float[Array, "knots"]:
        """At the knots, which divide [0, 1] evenly."""
        rises = jnp.cumsum(jax.nn.softplus(self.rises))
        return self.start + jnp.concatenate([jnp.zeros(1, rises.dtype), rises])

    def alpha(self, t: At) -> At:
        """Share of the data."""
        return _shares(self.log_snr, self.rises.shape[0] * t)[0]

    def sigma(self, t: At) -> At:
        """Share of the noise."""
        return _shares(self.log_snr, self.rises.shape[0] * t)[1]

    def time_of_log_snr(self, value: At) -> At:
        """The time at which the log signal-to-noise ratio is `value`, or the nearer end."""
        knots = self.log_snr
        return jnp.interp(value, knots, jnp.linspace(0, 1, knots.shape[0], dtype=knots.dtype))


@partial(jax.jit, inline=True)
def _shares(knots: Float[Array, "knots"], place: At) -> tuple[At, At]:
    """(1) of (2), where `place` counts pieces; the last knot beyond them.

    Not by `jnp.clip`, whose slope is one half where both sides are equal, as at a knot.
    """
    last = knots.shape[0] - 1
    place = jnp.where(place <= last, place, last)
    i = jnp.clip(jnp.floor(place), 0, last - 1)
    low, high = knots[i.astype(int)], knots[i.astype(int) + 1]
    value = low + (place - i) * (high - low)
    shares = (jnp.exp(-0.5 * jax.nn.softplus(sign * value)) for sign in (-1, 1))
    alpha, sigma = (share.astype(place.dtype) for share in shares)
    return alpha, sigma


@partial(jax.jit, inline=True)
def _discrete_shares(knots: Float[Array, "steps"], t: At) -> tuple[At, At]:
    """(3) up to step 0, and from there on a variance that falls evenly to 0."""
    alpha, sigma = _shares(knots, knots.shape[0] * t)
    left = knots.shape[0] * (1 - t)
    late, some = left < 1, left > 0
    root = jnp.sqrt(jnp.where(late & some, left, 1.0))
    sigma = jnp.where(some, root, 0.0) * sigma
    return jnp.where(late, jnp.sqrt(jnp.where(late, 1 - sigma**2, 1.0)), alpha), sigma


def discrete(betas: Any) -> Affine:
    """The path (3) of a diffusion model with the variances `betas` of its discrete steps.

    Exact at every step, and between steps a line in the log signal-to-noise ratio, which makes a
    flow of it; the slope jumps at each step. Its interval ends at step 0, so that a sampler whose
    grid goes on to 1 ends on the posterior mean, as DDIM's last step does; `grids.uniform(n)` are
    n steps evenly spaced from the noisiest, where n divides their number.

    Args:
        betas: `[steps]`, step 0 the least noisy, at least two, each between 0 and 1.

    Raises:
        ValueError: for betas of another shape, or one that is not inside (0, 1): the last of a
            schedule with no signal left has no log signal-to-noise ratio.

    Ho et al., Denoising Diffusion Probabilistic Models, 2020, arXiv:2006.11239, eq. 4.

    >>> signal = discrete([0.25, 0.5]).schedule.alpha(jnp.array([0.0, 0.5, 1.0])) ** 2
    >>> bool(jnp.allclose(signal, jnp.array([0.375, 0.75, 1.0])))
    True
    """
    betas = np.asarray(betas, np.float64)
    if betas.ndim != 1 or len(betas) < 2:
        raise ValueError(f"discrete needs betas [steps], two or more; got shape {betas.shape}")
    wrong = ~((betas > 0) & (betas < 1))
    if wrong.any():
        k = int(np.argmax(wrong))
        raise ValueError(f"betas must lie inside (0, 1); that of step {k} is {betas[k]}")
    log_signal = np.cumsum(np.log1p(-betas))
    log_snr = log_signal - np.log(-np.expm1(log_signal))
    return affine(Discrete(as_floats(log_snr[::-1])))


def steps_of(path: Any) -> int | None:
    """The number of discrete steps of a path by `discrete`, None for any other."""
    own = getattr(getattr(path, "schedule", None), "schedule", None)
    return own.steps if isinstance(own, Discrete) else None


def time_of_step(k: Any, steps: int) -> Array:
    """The time (3) of step `k`, whole or not."""
    return 1 - (jnp.asarray(k, jnp.result_type(k, float)) + 1) / steps


def monotone(log_snr: Float[Any, "knots"] | Sequence[float]) -> Affine:
    """A variance-preserving path that may be learned, by the log signal-to-noise ratio at knots.

    The knots divide [0, 1] evenly. What is held, and learned, is the first value and the rises in
    a form that keeps them positive whatever an optimiser makes of them: the two leaves of the path.
    Put the path among the parameters of a loss of your own, and build the loss from it inside:
    `flow_matching(network, params["path"])(params["network"], key, batch, held)`. The ratio in
    between is learned as well as at the ends; `path.schedule.schedule.log_snr` reads it.

    Args:
        log_snr: at the knots, increasing, two or more; from -10 to 10 is usual.

    Raises:
        ValueError: where it does not strictly increase.

    Kingma et al., Variational Diffusion Models, 2021, arXiv:2107.00630, whose schedule is a network
    with positive weights in the place of lines.

    >>> float((monotone([-10.0, 0.0, 10.0]).schedule.alpha(jnp.array([0.5]))[0] ** 2).round(3))
    0.5
    """
    values = np.asarray(log_snr, np.float64)
    if values.ndim != 1 or len(values) < 2 or not np.all(np.diff(values) > 0):
        raise ValueError(
            f"monotone needs two or more knots of log_snr that strictly increase; got {log_snr}"
        )
    rises = np.diff(values)
    return affine(Monotone(as_floats(values[0]), as_floats(rises + np.log(-np.expm1(-rises)))))

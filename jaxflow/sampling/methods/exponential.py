r"""Exponential integrators: what is linear in the state is solved exactly, by the path.

An affine path's flow is, in the variable $\lambda$ of `levels` and with the posterior mean
$\hat x_1$ of the data,

(1) $x_s = \frac{\sigma_s}{\sigma_t} x_t
    + \sigma_s \int_{\lambda_t}^{\lambda_s} e^{\lambda}\, \hat x_1\, d\lambda$

so that only the integral is approximated. With $\hat x_1$ constant over the step, and
$\hat x_0 = (x - \alpha \hat x_1) / \sigma$:

(2) $x_s = \frac{\sigma_s}{\sigma_t} x_t + c\, \hat x_1 = \alpha_s \hat x_1 + \sigma_s \hat x_0$,
    with $c = \alpha_s (1 - e^{-h})$ and $h = \lambda_s - \lambda_t$

where the right-hand side is finite at both ends. With the data extrapolated by the step before,
of length $h'$:

(3) $x_s = \frac{\sigma_s}{\sigma_t} x_t + c\, D$ and
    $D = \hat x_1 + \frac{h}{2 h'} (\hat x_1 - \hat x_1')$

The SDE that keeps the path's marginals and is the time reversal of its noising gives

(4) $x_s = \frac{\sigma_s}{\sigma_t} e^{-h} x_t + \alpha_s (1 - e^{-2h})\, D
    + \sigma_s \sqrt{1 - e^{-2h}}\; z$

and with $\hat x_1$ in the place of $D$ it is the end $\eta = 1$ of a family whose other end is (2):

(5) $x_s = \alpha_s \hat x_1 + \sqrt{\sigma_s^2 - \eta^2 \tau^2}\; \hat x_0 + \eta \tau z$ with
    $\tau^2 = \sigma_s^2 (1 - e^{-2|h|})$

Steps back, $h < 0$, of (5) at $\eta = 1$ are the path's own noising; its term of noise predicted
is then $\frac{\alpha_s}{\alpha_t} \sigma_t$, and no model is left in it.

Infinite $\lambda$. Where $\alpha_t = 0$ or $\sigma_s = 0$ (pure noise, no noise) $h$ is infinite,
and (2), (4) and (5) have the limits that their right-hand sides say, with $e^{-h} = 0$. In (3) a
step of infinite length, and the one after, take $D = \hat x_1$: the former for want of a limit, the
latter as its limit. So do steps back (encoding) to pure noise, and from data without noise.
Near such an end equal steps of $t$ are no small steps of $\lambda$: over the whole of [0, 1] the
order 2 of (3) holds up to a factor $\log n$.
"""

from typing import Any

import jax.numpy as jnp
from jax.tree_util import Partial

from jaxflow.arrays import expand, root
from jaxflow.sampling.methods.levels import (
    Level,
    blend,
    by_part,
    check_affine,
    first,
    level,
    new_share,
    noised,
    predictions,
    ratio,
    second,
)
from jaxflow.sampling.methods.moves import Field, made, no_memory, normal, where
from jaxflow.types import Array, Keys, Method, Path, PyTree, Schedule, Time

__all__ = ["ddim", "dpm_solver", "sde_dpm_solver"]

Memory = tuple[Array, Time]


def _ddim(
    path: Path, v: Field, t: Time, s: Time, x: PyTree, memory: Any, keys: Keys | None = None
) -> tuple[PyTree, Any]:
    data, noise = predictions(path, v, t, x)

    def step(schedule: Schedule, x: Array, data: Array, noise: Array) -> Array:
        then = level(schedule, s)
        return where(s == t, x, blend(then.alpha, data, (then.sigma, noise)))

    return by_part(path, step, x, data, noise), memory


def _noisy_ddim(
    path: Path,
    eta: Any,
    v: Field,
    t: Time,
    s: Time,
    x: PyTree,
    memory: Any,
    keys: Keys | None = None,
) -> tuple[PyTree, Any]:
    data, noise = predictions(path, v, t, x)
    z = normal(keys, x, "ddim")

    def step(schedule: Schedule, x: Array, data: Array, noise: Array, z: Array) -> Array:
        now, then = level(schedule, t), level(schedule, s)
        grows = ratio(now.sigma, then.sigma) * ratio(then.alpha, now.alpha)  # e^h
        shrinks = ratio(then.sigma, now.sigma) * ratio(now.alpha, then.alpha)
        is_back = then.log_ratio < now.log_ratio
        square = jnp.minimum(jnp.where(is_back, grows, shrinks) ** 2, 1.0)
        kept = then.sigma * root(1 - eta**2 + eta**2 * square)
        drawn = then.sigma * eta * root(1 - square), z
        forth = blend(then.alpha, data, (kept, noise), drawn)
        back = blend(ratio(then.alpha, now.alpha), x, (kept - then.sigma * grows, noise), drawn)
        return where(s == t, x, where(is_back, back, forth))

    return by_part(path, step, x, data, noise, z), memory


def _init(path: Path, v: Field, t: Time, x: PyTree) -> Any:
    """No step yet: it was infinitely far away."""
    return by_part(path, lambda _, x: (jnp.zeros_like(x), jnp.full_like(t, jnp.inf)), x)


def _change(now: Level, then: Level, data: Array, memory: Memory) -> Array:
    """`D` of (3), less the data."""
    before, there = memory
    h, length = then.log_ratio - now.log_ratio, now.log_ratio - there
    known = jnp.isfinite(h) & jnp.isfinite(length) & (length != 0)
    share = jnp.where(known, h / (2 * jnp.where(known, length, 1.0)), 0.0)
    return expand(share, data) * (data - before)


def _dpm_solver(
    path: Path, v: Field, t: Time, s: Time, x: PyTree, memory: Any, keys: Keys | None = None
) -> tuple[PyTree, Any]:
    data, noise = predictions(path, v, t, x)

    def step(
        schedule: Schedule, x: Array, data: Array, noise: Array, memory: Memory
    ) -> tuple[Array, Memory]:
        now, then = level(schedule, t), level(schedule, s)
        change = _change(now, then, data, memory)
        moved = blend(then.alpha, data, (then.sigma, noise), (new_share(now, then), change))
        return where(s == t, (x, memory), (moved, (data, now.log_ratio)))

    found = by_part(path, step, x, data, noise, memory)
    return first(path, found), second(path, found)


def _sde_dpm_solver(
    path: Path, v: Field, t: Time, s: Time, x: PyTree, memory: Any, keys: Keys | None = None
) -> tuple[PyTree, Any]:
    data, _ = predictions(path, v, t, x)
    z = normal(keys, x, "sde_dpm_solver")

    def step(
        schedule: Schedule, x: Array, data: Array, z: Array, memory: Memory
    ) -> tuple[Array, Memory]:
        now, then = level(schedule, t), level(schedule, s)
        kept = ratio(then.sigma, now.sigma)
        shrinks = kept * ratio(now.alpha, then.alpha)  # e^-h
        spread = jnp.maximum(1 - shrinks**2, 0.0)
        mean = data + _change(now, then, data, memory)
        drawn = then.sigma * root(spread), z
        moved = blend(kept * shrinks, x, (then.alpha * spread, mean), drawn)
        moved = where(then.log_ratio < now.log_ratio, noised(now, then, x, z), moved)
        return where(s == t, (x, memory), (moved, (data, now.log_ratio)))

    found = by_part(path, step, x, data, z, memory)
    return first(path, found), second(path, found)


def ddim(path: Path, eta: float = 0.0) -> Method:
    r"""The exponential Euler method (2), or its stochastic kind (5): one call, order 1.

    Exact, in any number of steps, for a data prediction that does not change, and without noise for
    such a noise prediction; on the path `linear` it is Euler's method. With `eta = 1` it is the
    ancestral step of DDPM (of the smaller of its two variances) and SDE-DPM-Solver++(1).

    Args:
        path: the affine path that the velocity was learned on, or a product of them; with noise,
            one from standard normal noise independent of the data.
        eta: the share of noise that is drawn anew, from 0 for none to 1; keys are needed above 0.

    Raises:
        ValueError: where the path has no schedule, for a share outside [0, 1], and in sampling with
            noise but without keys.

    Song et al., Denoising Diffusion Implicit Models, 2021, arXiv:2010.02502, eq. 12 and 16, there
    on variance-preserving paths: $\eta\tau$ is the deviation of eq. 16, in terms of the ratios
    alone, so that it serves every affine path.

    >>> import jax.numpy as jnp
    >>> from jaxflow import paths, sampling
    >>> towards_three = lambda t, x: (3.0 - x) / (1.0 - t[:, None])
    >>> grid = sampling.grids.uniform(1, 0.0, 0.5)
    >>> method = ddim(paths.linear())
    >>> sampling.fixed_step(towards_three, jnp.zeros((1, 1)), grid, method=method).x
    Array([[1.5]], dtype=float32)
    """
    check_affine(path)
    if not 0 <= eta <= 1:
        raise ValueError(f"ddim needs a share of new noise 0 <= eta <= 1; got eta={eta}")
    if eta == 0:
        return made(no_memory, Partial(_ddim, path), calls=1, order=1)
    return made(no_memory, Partial(_noisy_ddim, path, eta), calls=1, order=1)


def dpm_solver(path: Path, order: int = 2) -> Method:
    """DPM-Solver++(2M), (3): one call, order 2.

    Args:
        path: the affine path that the velocity was learned on, or a product of them.
        order: 2, or 1 for the method of that paper's order 1, which is `ddim`.

    Raises:
        ValueError: where the path has no schedule, or for another order.

    Lu et al., DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models,
    2022, arXiv:2211.01095, algorithm 2.
    """
    if order == 1:
        return ddim(path)
    if order != 2:
        raise ValueError(f"dpm_solver is of order 1 or 2; got order={order}")
    check_affine(path)
    return made(Partial(_init, path), Partial(_dpm_solver, path), calls=1, order=2)


def sde_dpm_solver(path: Path) -> Method:
    """SDE-DPM-Solver++(2M), (4): one call, and noise from the keys of the samples.

    Backwards, from data to noise, the SDE is the path's own noising, which needs no model and is
    exact.

    Args:
        path: the affine path that the velocity was learned on, or a product of them; from standard
            normal noise independent of the data.

    Raises:
        ValueError: where the path has no schedule, and in sampling without keys.

    Lu et al., DPM-Solver++, 2022, arXiv:2211.01095, appendix on sampling by SDE solvers.
    """
    check_affine(path)
    return made(Partial(_init, path), Partial(_sde_dpm_solver, path), calls=1, order=2)

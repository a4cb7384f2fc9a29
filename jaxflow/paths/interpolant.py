r"""Two-sided stochastic interpolants and Brownian bridges: paths with noise of their own.

(1) $x_t = \alpha(t)\, x_1 + \sigma(t)\, x_0 + \gamma(t)\, z$, where $z \sim N(0, I)$ is independent
of the pair and $\gamma(0) = \gamma(1) = 0$, or $\gamma$ is constant, see (7)

(2) $u_t = \dot\alpha(t)\, x_1 + \dot\sigma(t)\, x_0 + \dot\gamma(t)\, z$

(3) $\nabla \log p_t(x_t \mid x_0, x_1) = -z / \gamma(t)$

Given the pair, $x_t$ is normal with the standard deviation $\gamma$. So the regression of (3) on
$x_t$ is the score of the marginal for every coupling and every source:

(4) $s(t, x) = \nabla \log p_t(x) = -E[z \mid x_t = x] / \gamma(t)$

(5) $v(t, x) = E[u_t \mid x_t = x]
= E[\dot\alpha x_1 + \dot\sigma x_0 \mid x_t = x] - \gamma \dot\gamma\, s(t, x)$

and $v$ carries $p_0$ to $p_1$, as $dX = (v + \frac{g^2}{2} s)\, dt + g\, dW$ does for any $g(t)$.

(6) The bridge, $\alpha = t$, $\sigma = 1 - t$, $\gamma = \sigma_B \sqrt{t (1 - t)}$: with the mean
$m = t x_1 + (1 - t) x_0$,
$u_t = \frac{1 - 2t}{2 t (1 - t)} (x_t - m) + x_1 - x_0$ and
$\nabla \log p_t(x_t \mid x_0, x_1) = (m - x_t) / (\sigma_B^2\, t (1 - t))$.

(7) I-CFM, $\gamma = \sigma_C$ at all times: $u_t = x_1 - x_0$ for linear shares, and $v$ and the
process above carry $p_0 * N(0, \sigma_C^2)$ to $p_1 * N(0, \sigma_C^2)$, both ends widened. The
score (3) is $-z / \sigma_C$, finite at the ends too.

These paths are not affine: a velocity tells neither data nor noise nor score. One-sided
interpolants, $\alpha x_1 + \sigma x_0$ with a normal $x_0$, are: they stand in `affine`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.arrays import at_least_float32, expand, is_concrete, per_sample
from jaxflow.checks import check_made
from jaxflow.paths.affine import Affine
from jaxflow.paths.ends import as_schedule, where_large
from jaxflow.paths.gammas import Constant, Gamma, brownian, custom
from jaxflow.paths.schedules import Linear
from jaxflow.records import record, static, traceable
from jaxflow.types import AnyArray, Data, Dependent, Interval, Key, PathSample, Schedule, Time

__all__ = ["Interpolant", "bridge", "interpolant"]

_GRID = 1025
_ZERO = 1e-6


@record
class Interpolant:
    """The path (1) of the shares of a pair and the width of the noise.

    `interval` is where all slopes are finite, `noisy` where gamma is not small beside `widest`, its
    largest value.
    """

    shares: Schedule
    gamma: Gamma
    interval: Interval = static()
    noisy: Interval = static(repr=False)
    widest: float = static(repr=False)

    def latent(self, key: Key, x0: Data) -> Data:
        """The noise `z ~ N(0, I)` of (1), one key a sample."""
        dtype = jnp.promote_types(x0.dtype, jnp.float32)
        keys = jax.random.split(key, len(x0))
        shape = x0.shape[1:]
        return per_sample(lambda k: jax.random.normal(k, shape, dtype), keys).astype(x0.dtype)

    def __call__(
        self, t: Time, x0: Data, x1: Data, z: AnyArray | Dependent | None = None
    ) -> PathSample:
        """The point (1), its velocity (2) and its score (3), known for every coupling.

        `x` is exact at every `t`; beyond `interval` the velocity is that of its nearer end, beyond
        `noisy` the score, so that no value or gradient is NaN.

        Raises:
            ValueError: where `z` is missing or of another shape, `x0` and `x1` differ in shape, `t`
                does not lead them, or they are not floating.
        """
        if z is None or isinstance(z, Dependent):
            raise ValueError(
                "an interpolant has noise of its own: give z=path.latent(key, x0), or complete the "
                "batch by draws.standard(path)"
            )
        if z.shape != x0.shape:
            raise ValueError(f"z has shape {z.shape} but x0 {x0.shape}: every number has its noise")
        t = at_least_float32(t)
        inside = jnp.clip(t, *self.interval)
        pair: Any = Affine(self.shares)
        ends = at_least_float32(x0), at_least_float32(x1), Dependent()
        _, gamma_dot = jax.jvp(self.gamma, (inside,), (jnp.ones_like(inside),))
        x = pair(t, *ends).x + expand(self.gamma(t), z) * z
        u = pair(inside, *ends).u + expand(gamma_dot, z) * z
        score = -z / expand(self.gamma(jnp.clip(t, *self.noisy)), z)
        x, u, score = (a.astype(x1.dtype) for a in (x, u, score))
        return PathSample(t, x, u, x0, x1, score)


def interpolant(schedule: Any = None, *, gamma: Gamma) -> Interpolant:
    r"""The two-sided stochastic interpolant (1) between any two distributions.

    Args:
        schedule: the shares of data and source, as `affine` takes them; linear where None.
        gamma: the width of the noise, one of `gammas` or a function of times that is zero at both
            ends and positive between them. `gammas.constant` alone has noise at the ends, (7).

    Raises:
        TypeError: for a gamma that is no function, or a schedule that is none.
        ValueError: for a gamma that does not vanish at the ends or is not positive and of finite
            slope inside, or one whose arrays are traced.

    Albergo, Boffi and Vanden-Eijnden, Stochastic Interpolants: A Unifying Framework for Flows and
    Diffusions, 2023, arXiv:2303.08797. There $x_t = I(t, x_0, x_1) + \gamma(t) z$; here the
    interpolant $I$ is linear in the pair.

    >>> from jaxflow.paths import gammas
    >>> path = interpolant(gamma=gammas.quadratic())
    >>> path(jnp.array([0.5]), jnp.zeros((1, 1)), jnp.ones((1, 1)), jnp.ones((1, 1))).x
    Array([[0.75]], dtype=float32)
    """
    check_made("gamma", gamma)
    if not callable(gamma):
        raise TypeError(
            f"gamma is a function of times, such as paths.gammas.brownian(1.0); got {gamma!r}"
        )
    shares = Linear() if schedule is None else as_schedule(schedule)
    gamma = traceable(gamma if hasattr(gamma, "interval") else custom(gamma))
    if not all(map(is_concrete, jax.tree.leaves(gamma))):
        raise ValueError(
            "the ends of gamma cannot be found while its arrays are traced: build the path "
            "outside, and put the arrays in by dataclasses.replace(path, gamma=...)"
        )
    within: Any = gamma
    (low, high), (low_, high_) = shares.interval, within.interval
    interval = max(low, low_), min(high, high_)
    return Interpolant(shares, gamma, interval, *_measured(gamma, interval))


def bridge(sigma: float = 1.0) -> Interpolant:
    """The Brownian bridge (6), `t x1 + (1 - t) x0 + sigma sqrt(t (1 - t)) z`.

    Between pairs of entropic transport, `couplings.sinkhorn(2 * sigma**2, relative=False)`, its
    marginals are those of the Schroedinger bridge whose reference is a Brownian motion of diffusion
    `sigma`.

    Args:
        sigma: diffusion of the Brownian motion, in the units of the data.

    Raises:
        ValueError: where `sigma` is not positive and finite.

    Tong et al., Simulation-free Schroedinger bridges via score and flow matching, 2023,
    arXiv:2307.03672.

    >>> path = bridge(2.0)
    >>> path(jnp.array([0.5]), jnp.zeros((1, 1)), jnp.ones((1, 1)), jnp.ones((1, 1))).x
    Array([[1.5]], dtype=float32)
    """
    return interpolant(gamma=brownian(sigma))


def _measured(gamma: Gamma, interval: Interval) -> tuple[Interval, float]:
    """Where gamma is not small beside its largest value, and that value."""
    for double in (False, True):
        with jax.enable_x64(double), jax.ensure_compile_time_eval():
            gamma = jax.tree.map(
                lambda a: jnp.asarray(np.asarray(a), jnp.result_type(float)), gamma
            )
            values, _ = _values_and_slopes(gamma, (0.0, 1.0))
            if not isinstance(gamma, Constant):
                _check_ends(values)
            _check_gamma(values, *_values_and_slopes(gamma, interval))
    with jax.enable_x64(True), jax.ensure_compile_time_eval():
        widest = float(np.max(values))
        noisy = where_large(lambda t: np.asarray(gamma(jnp.asarray(t))) / widest, interval)
    return noisy, widest


def _values_and_slopes(gamma: Gamma, interval: Interval) -> tuple[Any, Any]:
    t = jnp.linspace(*interval, _GRID)
    values, slopes = jax.jvp(gamma, (t,), (jnp.ones_like(t),))
    return np.asarray(values), np.asarray(slopes)


def _check_ends(values: np.ndarray) -> None:
    """Refuse a gamma that leaves noise at an end, by its values on [0, 1]."""
    ends = values[[0, -1]]
    if not np.all(np.abs(ends) <= _ZERO * np.max(np.abs(values))):
        raise ValueError(
            f"gamma is {ends[0]:.4g} at t = 0 and {ends[1]:.4g} at t = 1, but vanishes at both "
            "ends of an interpolant; noise at the source alone is an affine path's x0, and noise "
            "of one width at all times is paths.gammas.constant(sigma)"
        )


def _check_gamma(values: np.ndarray, inner: np.ndarray, slopes: np.ndarray) -> None:
    """Refuse a gamma that is no width of noise, by its values on [0, 1] and on its interval."""
    if not (np.all(values[1:-1] > 0) and np.all(np.isfinite(values))):
        raise ValueError(
            "gamma must be positive and finite between t = 0 and 1: without noise a path is affine"
        )
    if not np.all(np.isfinite(slopes)) or not np.all(np.isfinite(inner)):
        raise ValueError(
            "the slope of gamma is not finite on its interval: give one on which it is, as "
            "paths.gammas.custom(gamma, interval=(1e-5, 1 - 1e-5))"
        )

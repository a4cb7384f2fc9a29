r"""Closed forms: the marginal velocity of a Gaussian mixture.

For a standard normal source and data $x_1 \sim \sum_k w_k N(m_k, C_k)$, an affine path has the
marginals

(1) $p_t(x) = \sum_k w_k\, N(x;\, \alpha m_k,\, S_k)$ with $S_k = \alpha^2 C_k + \sigma^2 I$

and with the responsibilities $\gamma_k(x)$ of its components and $y_k = S_k^{-1}(x - \alpha m_k)$

(2) $\nabla \log p_t(x) = -\sum_k \gamma_k\, y_k$

(3) $E[x_1 \mid x] = \sum_k \gamma_k\, (m_k + \alpha C_k\, y_k)$ and
    $E[x_0 \mid x] = \sigma \sum_k \gamma_k\, y_k$

(4) $u_t(x) = \dot\alpha\, E[x_1 \mid x] + \dot\sigma\, E[x_0 \mid x]$

No division by $\alpha$ or $\sigma$ occurs, so all hold at the ends of the interval too, unless a
covariance has no full rank: data that are points, or lie on a line, have no density. Then the
velocity is singular as the noise vanishes, and its interval ends where $\sigma = 10^{-4}$; and (1)
to (3) keep that least noise from there on, so at $t = 1$ they are those of the data plus
$N(0, 10^{-8} I)$. The posterior mean is there the nearest point of the data, its limit.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Real

from jaxflow.arrays import as_floats, at_least_float32, per_sample
from jaxflow.paths.ends import SMALLEST_DIVISOR, schedule_of
from jaxflow.paths.schedules import coefficients
from jaxflow.records import record, static
from jaxflow.types import AnyArray, Array, Data, Float, Interval, Keys, Path, Time
from jaxflow.velocities.prediction import conversion_interval

__all__ = ["gaussian_mixture"]

LEAST_VARIANCE = 1e-16  # less counts as none: its inverse square is not a float32


@record
class GaussianMixture:
    """The exact marginal velocity (4), with its density, score and posterior means.

    Covariances are held by eigenvalues, `[k, d]` or `[k, 1]` where all are equal, and where they
    are not diagonal by eigenvectors `[k, d, d]` too, so that (1) is diagonal in every component's
    own axes at every time.
    """

    path: Path
    weights: Float[Array, "k"]
    means: Float[Array, "k *event"]
    variances: Float[Array, "k _"]
    axes: Float[Array, "k d d"] | None
    interval: Interval = static()
    least_noise: float = static()

    evaluations = 1

    def __call__(self, t: Time, x: Data, **cond: Any) -> Data:
        """The marginal velocity (4); beyond `interval`, that of its nearer end."""
        t = jnp.clip(at_least_float32(t), *self.interval)
        _, x1, y = self._posterior(t, x)
        _, _, alpha_dot, sigma_dot = (c[:, None] for c in coefficients(schedule_of(self.path), t))
        return _as(x, alpha_dot * x1 + sigma_dot * self._ends(t)[1] * y)

    def score(self, t: Time, x: Data) -> Data:
        """The score of the marginal, (2), always the gradient of `log_prob`."""
        return _as(x, -self._posterior(t, x)[2])

    def posterior_mean(self, t: Time, x: Data) -> Data:
        """`E[x1 | x_t = x]`, (3)."""
        return _as(x, self._posterior(t, x)[1])

    def noise(self, t: Time, x: Data) -> Data:
        """`E[x0 | x_t = x]`, (3)."""
        _, _, y = self._posterior(t, x)
        return _as(x, self._ends(t)[1] * y)

    def log_prob(self, t: Time, x: Data) -> Float[Array, "batch"]:
        """Log-density of the marginal (1), in nats."""
        return self._posterior(t, x)[0]

    def sample(self, keys: Keys) -> Data:
        """One datum a key, from the mixture itself (`t = 1`)."""

        def one(key: Array) -> Array:
            which, noise = jax.random.split(key)
            k = jax.random.categorical(which, jnp.log(self.weights))
            z = jax.random.normal(noise, self.means[0].shape, self.means.dtype).ravel()
            offset = jnp.sqrt(self.variances[k]) * z
            if self.axes is not None:
                offset = self.axes[k] @ offset
            return self.means[k] + offset.reshape(self.means.shape[1:])

        return per_sample(one, keys)

    def _ends(self, t: Time) -> tuple[Float[Any, "batch 1"], Float[Any, "batch 1"]]:
        schedule = schedule_of(self.path)
        sigma = jnp.maximum(schedule.sigma(t), self.least_noise)
        return schedule.alpha(t)[:, None], sigma[:, None]

    def _posterior(self, t: Time, x: Data) -> tuple[Array, Array, Array]:
        """The log-density, `E[x1 | x]`, and `y` averaged by the responsibilities."""
        self._check(t, x)
        alpha, sigma = self._ends(as_floats(t))
        means = self.means.reshape(len(self.weights), -1)
        d = means.shape[1]
        offset = as_floats(x).reshape(len(x), 1, d) - alpha[:, :, None] * means
        if self.axes is not None:
            offset = jnp.einsum("bki,kij->bkj", offset, self.axes, precision="highest")
        spread = alpha[:, :, None] ** 2 * self.variances + sigma[:, :, None] ** 2
        scaled = offset / spread
        size = jnp.sum(jnp.log(spread), -1) * (d // self.variances.shape[1])
        log_joint = jnp.log(self.weights) - 0.5 * (
            jnp.sum(offset * scaled, -1) + size + d * math.log(2 * math.pi)
        )
        log_prob = jax.nn.logsumexp(log_joint, -1)
        share = jnp.exp(log_joint - log_prob[:, None])

        def back(coordinates: Array) -> Array:
            if self.axes is None:
                return jnp.sum(share[:, :, None] * coordinates, axis=1)
            return jnp.einsum("bk,bkj,kij->bi", share, coordinates, self.axes, precision="highest")

        nearest = jnp.matmul(share, means, precision="highest")
        return log_prob, nearest + back(alpha[:, :, None] * self.variances * scaled), back(scaled)

    def _check(self, t: Time, x: Data) -> None:
        if jnp.shape(x)[1:] != self.means.shape[1:] or jnp.shape(t) != jnp.shape(x)[:1]:
            raise ValueError(
                f"got t {jnp.shape(t)} and x {jnp.shape(x)}: this mixture takes t [batch] and "
                f"x [batch, {', '.join(map(str, self.means.shape[1:]))}]"
            )


def _as(x: Data, value: Array) -> Data:
    """In the shape of `x`, and in its dtype where that is not of whole numbers."""
    value = value.reshape(jnp.shape(x))
    x = jnp.asarray(x)
    return value.astype(x.dtype) if jnp.issubdtype(x.dtype, jnp.floating) else value


def gaussian_mixture(
    path: Path,
    *,
    weights: Real[AnyArray, "k"] | Sequence[float],
    means: Real[AnyArray, "k *event"] | Sequence[Any],
    covariances: Real[AnyArray, "k ..."] | Sequence[Any],
) -> GaussianMixture:
    """The exact marginal velocity when the data is a Gaussian mixture and the source N(0, I).

    Args:
        path: an affine path.
        weights: positive, summing to one.
        means: one a component.
        covariances: `[k]` (that variance in every direction), `[k, *event]` or `[k, d]` (one
            for each number, independent) or `[k, d, d]` over the flattened event; positive
            semi-definite. Zeros for a set of points: the flow to a training set.

    Returns:
        A velocity with `score(t, x)`, `log_prob(t, x)`, `posterior_mean(t, x)`, `noise(t, x)` and
        `sample(keys)`.

    Raises:
        ValueError: where shapes disagree, a value is not finite, weights are not positive or do
            not sum to one, or a covariance is not symmetric positive semi-definite; when called,
            for times other than `[batch]` or another event.

    >>> from jaxflow import paths
    >>> points = jnp.array([[0.0, 0.0], [4.0, 0.0]])
    >>> flow = gaussian_mixture(
    ...     paths.linear(), weights=jnp.full(2, 0.5), means=points, covariances=jnp.zeros(2)
    ... )
    >>> flow.posterior_mean(jnp.ones(1), jnp.array([[3.0, 1.0]]))
    Array([[4., 0.]], dtype=float32)
    """
    weights, means, covariances = (as_floats(a) for a in (weights, means, covariances))
    k, event = weights.size, means.shape[1:]
    d = math.prod(event)
    diagonal = covariances.shape in ((k,), (k, d), (k, *event))
    if (
        weights.shape != (k,)
        or means.shape[:1] != (k,)
        or not (diagonal or covariances.shape == (k, d, d))
    ):
        raise ValueError(
            f"weights [k] go with means [k, *event] and covariances [k], [k, *event] or [k, d, d]; "
            f"got {weights.shape}, {means.shape} and {covariances.shape}"
        )
    for name, value in {"weights": weights, "means": means, "covariances": covariances}.items():
        if not np.all(np.isfinite(np.asarray(value))):
            raise ValueError(f"{name} hold a value that is not finite")
    shares, covariances = np.asarray(weights), np.asarray(covariances)
    total = float(np.sum(shares))
    if not math.isclose(total, 1.0, abs_tol=1e-5) or np.any(shares <= 0):
        raise ValueError(
            f"weights must be positive and sum to one; got {weights}, whose sum is {total:.6g}"
        )
    axes = None
    if diagonal:
        variances = covariances.reshape(k, -1)
    else:
        if not np.allclose(covariances, covariances.mT, atol=1e-5 * np.max(covariances)):
            raise ValueError(f"a covariance is not symmetric; got {covariances}")
        variances, axes = np.linalg.eigh(covariances)
    if np.any(variances < -1e-6 * np.max(np.abs(variances))):
        raise ValueError(f"a covariance has the negative eigenvalue {np.min(variances):.3g}")
    variances = np.maximum(variances, 0.0)
    rounding = 0.0 if axes is None else 1e-6 * np.max(variances, axis=1, keepdims=True)
    spread = bool(np.all(variances > np.maximum(rounding, LEAST_VARIANCE)))
    interval = conversion_interval(path, "velocity" if spread else "data", "velocity")
    least_noise = 0.0 if spread else SMALLEST_DIVISOR
    axes = None if axes is None else jnp.asarray(axes)
    held = jnp.asarray(variances)
    return GaussianMixture(path, weights, means, held, axes, interval, least_noise)

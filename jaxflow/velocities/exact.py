r"""Closed forms: the marginal velocity of a Gaussian mixture.

For a standard normal source and data $x_1 \sim \sum_k w_k N(m_k, C_k)$, an affine path has the
marginals

(1) $p_t(x) = \sum_k w_k\, N(x;\, \alpha m_k,\, S_k)$ with $S_k = \alpha^2 C_k + \sigma^2 I$

and with the responsibilities $\gamma_k(x)$ of its components and $y_k = S_k^{-1}(x - \alpha m_k)$

(2) $\nabla \log p_t(x) = -\sum_k \gamma_k\, y_k$

(3) $E[x_1 \mid x] = \sum_k \gamma_k\, (m_k + \alpha C_k\, y_k)$ and
    $E[x_0 \mid x] = \sigma \sum_k \gamma_k\, y_k$

(4) $u_t(x) = \dot\alpha\, E[x_1 \mid x] + \dot\sigma\, E[x_0 \mid x]$

No division by $\alpha$ or $\sigma$ occurs, so all hold at the ends of the interval too; only where
a covariance has no full rank is the velocity singular as the noise vanishes, and its interval ends
where $\sigma = 10^{-4}$.
"""

import math

import jax
import jax.numpy as jnp

from jaxflow.arrays import at_least_float32, per_sample
from jaxflow.paths.schedules import coefficients, schedule_of
from jaxflow.records import record, static
from jaxflow.types import Array, Data, Float, Interval, Keys, Path, Shaped, Time
from jaxflow.velocities.prediction import conversion_interval

__all__ = ["gaussian_mixture"]


@record
class GaussianMixture:
    """The exact marginal velocity (4), with its density, score and posterior means.

    Covariances are held by eigenvalues `[k, d]` and eigenvectors `[k, d, d]`, so that (1) is
    diagonal in every component's own axes at every time.
    """

    path: Path
    weights: Float[Array, "k"]
    means: Float[Array, "k *event"]
    variances: Float[Array, "k d"]
    axes: Float[Array, "k d d"]
    interval: Interval = static()

    evaluations = 1

    def __call__(self, t: Time, x: Data, **cond: Array) -> Data:
        """The marginal velocity (4); beyond `interval`, that of its nearer end."""
        t = jnp.clip(at_least_float32(t), *self.interval)
        _, _, alpha_dot, sigma_dot = (c[:, None] for c in coefficients(schedule_of(self.path), t))
        _, x1, y = self._posterior(t, x)
        sigma = self._ends(t)[1]
        return _like(x, alpha_dot * x1 + sigma_dot * sigma * y)

    def score(self, t: Time, x: Data) -> Data:
        """The score of the marginal, (2)."""
        return _like(x, -self._posterior(t, x)[2])

    def posterior_mean(self, t: Time, x: Data) -> Data:
        """`E[x1 | x_t = x]`, (3)."""
        return _like(x, self._posterior(t, x)[1])

    def noise(self, t: Time, x: Data) -> Data:
        """`E[x0 | x_t = x]`, (3)."""
        return _like(x, self._ends(t)[1] * self._posterior(t, x)[2])

    def log_prob(self, t: Time, x: Data) -> Float[Array, "batch"]:
        """Log-density of the marginal (1), in nats."""
        return self._posterior(t, x)[0]

    def sample(self, keys: Keys) -> Data:
        """One datum a key, from the mixture itself (`t = 1`)."""

        def one(key: Array) -> Array:
            which, noise = jax.random.split(key)
            k = jax.random.categorical(which, jnp.log(self.weights))
            z = jax.random.normal(noise, self.variances.shape[1:], self.means.dtype)
            offset = self.axes[k] @ (jnp.sqrt(self.variances[k]) * z)
            return self.means[k] + offset.reshape(self.means.shape[1:])

        return per_sample(one, keys)

    def _ends(self, t: Time) -> tuple[Array, Array]:
        schedule = schedule_of(self.path)
        return schedule.alpha(t)[:, None], schedule.sigma(t)[:, None]

    def _posterior(self, t: Time, x: Data) -> tuple[Array, Array, Array]:
        """`log p_t(x)` `[batch]`, `E[x1 | x]` and the mean of `y` `[batch, d]`."""
        alpha, sigma = self._ends(t)
        means = self.means.reshape(len(self.weights), -1)
        offset = x.reshape(len(x), 1, -1) - alpha[:, :, None] * means
        spread = alpha[:, :, None] ** 2 * self.variances + sigma[:, :, None] ** 2
        along = jnp.einsum("bki,kij->bkj", offset, self.axes, precision="highest")
        scaled = along / spread
        d = means.shape[1]
        log_joint = jnp.log(self.weights) - 0.5 * (
            jnp.sum(along * scaled + jnp.log(spread), -1) + d * math.log(2 * math.pi)
        )
        log_prob = jax.nn.logsumexp(log_joint, -1)
        share = jnp.exp(log_joint - log_prob[:, None])

        def back(coordinates: Array) -> Array:
            return jnp.einsum("bk,bkj,kij->bi", share, coordinates, self.axes, precision="highest")

        x1 = share @ means + back(alpha[:, :, None] * self.variances * scaled)
        return log_prob, x1, back(scaled)


def _like(x: Data, value: Array) -> Data:
    return value.reshape(x.shape).astype(jnp.result_type(x))


def gaussian_mixture(
    path: Path,
    *,
    weights: Float[Array, "k"],
    means: Float[Array, "k *event"],
    covariances: Shaped[Array, "k ..."],
) -> GaussianMixture:
    """The exact marginal velocity when the data is a Gaussian mixture and the source N(0, I).

    Args:
        path: an affine path.
        weights: positive, summing to one.
        means: one a component.
        covariances: `[k]` (that variance in every direction) or `[k, d, d]` over the flattened
            event; positive semi-definite.

    Returns:
        A velocity with `score(t, x)`, `log_prob(t, x)`, `posterior_mean(t, x)`, `noise(t, x)` and
        `sample(keys)`.

    Raises:
        ValueError: where shapes disagree, weights do not sum to one, or a covariance is not
            symmetric positive semi-definite.
    """
    weights, means, covariances = (jnp.asarray(a) for a in (weights, means, covariances))
    k = len(weights)
    d = math.prod(means.shape[1:])
    if means.shape[:1] != (k,) or covariances.shape not in ((k,), (k, d, d)):
        raise ValueError(
            f"{k} weights go with means [{k}, *event] and covariances [{k}] or [{k}, {d}, {d}]; "
            f"got {means.shape} and {covariances.shape}"
        )
    if not jnp.allclose(jnp.sum(weights), 1.0, atol=1e-5) or bool(jnp.any(weights <= 0)):
        raise ValueError(f"weights must be positive and sum to one; got {weights}")
    if covariances.ndim == 1:
        variances = jnp.broadcast_to(covariances[:, None], (k, d))
        axes = jnp.broadcast_to(jnp.eye(d, dtype=covariances.dtype), (k, d, d))
    else:
        if not jnp.allclose(covariances, covariances.mT, atol=1e-5 * jnp.max(covariances)):
            raise ValueError(f"a covariance is not symmetric; got {covariances}")
        variances, axes = jnp.linalg.eigh(covariances)
    if bool(jnp.any(variances < -1e-6 * jnp.max(jnp.abs(variances)))):
        raise ValueError(f"a covariance has a negative eigenvalue; got {covariances}")
    variances = jnp.maximum(variances, 0.0)
    spread = bool(jnp.all(variances > 1e-6 * jnp.max(variances, axis=1, keepdims=True)))
    interval = conversion_interval(path, "velocity" if spread else "data", "velocity")
    return GaussianMixture(path, weights, means, variances, axes, interval)

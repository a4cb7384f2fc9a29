r"""Predictor and corrector: a step of any method, and Langevin steps at the time it comes to.

A step of the score at a fixed time $s$ keeps the marginal there, but for its own length:

(1) $x \leftarrow x + \epsilon\, s(x) + \sqrt{2 \epsilon}\; z$ with $\epsilon = 2 r^2 \sigma_s^2$

With the posterior mean $\hat x_0 = -\sigma_s\, s(x)$ of the noise it is, without a division,

(2) $x \leftarrow x + 2 r \sigma_s\, (z - r\, \hat x_0)$

so that $r$ is the ratio of signal to noise of a step where $\hat x_0$ is as long as $z$, and
nothing is corrected where no noise is left. Of a Gaussian marginal of variance $S$, which is at
least $\sigma_s^2$, (1) keeps the mean and the variance

(3) $S / (1 - r^2 \sigma_s^2 / S)$

The paper measures lengths instead, $\epsilon = 2 (r \|z\| / \|s(x)\|)^2$, as means over the batch.
Here a sample does not depend on its batch; and a length measured on each sample by itself would
make steps that depend on the state, which keep a density proportional to $p\, \|s\|^2$ and not $p$.
So (1) has the lengths of noise itself, $\|s\| = \|z\| / \sigma_s$: the step of annealed Langevin
dynamics.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.checks import check_made
from jaxflow.records import record, static
from jaxflow.sampling.methods.levels import blend, by_part, check_affine, predictions
from jaxflow.sampling.methods.moves import Field, normal, where
from jaxflow.types import Array, Keys, Method, Path, PyTree, Schedule, Time

__all__ = ["corrected"]


@record
class Corrected:
    """A step of the method, and `steps` of (2)."""

    method: Method
    path: Path
    snr: Any
    steps: int = static()

    def __call__(
        self, v: Field, t: Time, s: Time, x: PyTree, memory: Any, keys: Keys | None = None
    ) -> tuple[PyTree, Any]:
        own: list[Keys | None] = [None] * (self.steps + 1)
        if keys is not None:
            each = jax.vmap(lambda key: jax.random.split(key, len(own)), out_axes=1)(keys)
            own = list(each)
        moved, memory = self.method.step(v, t, s, x, memory, own[0])
        for key in own[1:]:
            moved = self._corrected(v, s, moved, normal(key, x, "corrected"))
        return where(s == t, x, moved), memory

    def _corrected(self, v: Field, s: Time, x: PyTree, z: PyTree) -> PyTree:
        _, noise = predictions(self.path, v, s, x)

        def step(schedule: Schedule, x: Array, noise: Array, z: Array) -> Array:
            size = 2 * self.snr * schedule.sigma(s)
            return blend(jnp.ones_like(size), x, (size, z), (-self.snr * size, noise))

        return by_part(self.path, step, x, noise, z)


def corrected(method: Method, path: Path, *, steps: int = 1, snr: float = 0.16) -> Method:
    """A method whose steps are each followed by steps of Langevin dynamics (2).

    Langevin steps draw the state towards the marginal of the time that it is at, whatever errors
    brought it elsewhere. They pay where steps are many or networks rough, and leave a bias that no
    finer grid takes away: variances of noisy states are too large by a share of up to about
    `snr**2`, by (3), and the less the less noise is left.

    Args:
        method: the predictor, of the same velocity. What one of several steps remembers was said of
            the state before it was corrected, so one of a single step goes better with it.
        path: the affine path that the velocity was learned on, or a product of them; from standard
            normal noise independent of the data.
        steps: Langevin steps after each step of the method, of a call each. Those of a last step
            without noise are called, and counted, but move nothing.
        snr: the ratio $r$ of (1), above 0 and below 1, where (1) is no longer stable.

    Raises:
        TypeError: for what is no method.
        ValueError: where the path has no schedule, for no steps or a ratio out of range; and in
            sampling without keys.

    Song et al., Score-Based Generative Modeling through Stochastic Differential Equations, 2021,
    arXiv:2011.13456, algorithms 1, 4 and 5, and Song & Ermon, Generative Modeling by Estimating
    Gradients of the Data Distribution, 2019, arXiv:1907.05600, algorithm 1, for the lengths.

    >>> from jaxflow import paths, sampling
    >>> path = paths.linear()
    >>> method = corrected(sampling.ddim(path), path)
    >>> to_zero = lambda t, x: -x / jnp.maximum(1 - t, 1e-6)[:, None]
    >>> keys = jax.random.split(jax.random.key(0), 2)
    >>> grid = sampling.grids.uniform(4)
    >>> end = sampling.fixed_step(to_zero, jnp.ones((2, 1)), grid, method=method, keys=keys)
    >>> jnp.round(jnp.abs(end.x), 3).tolist(), end.nfe.tolist()
    ([[0.0], [0.0]], [8, 8])
    """
    check_made("method", method)
    if not isinstance(method, Method):
        raise TypeError(
            f"corrected needs a method to correct, as sampling.ddim(path); got {method!r}"
        )
    check_affine(path)
    if not (isinstance(steps, int) and steps >= 1):
        raise ValueError(f"corrected needs a whole number of steps, 1 or more; got steps={steps}")
    if not 0 < snr < 1:
        raise ValueError(
            f"corrected needs a ratio of signal to noise 0 < snr < 1, as 0.16; got snr={snr}"
        )
    step = Corrected(method, path, snr, steps)
    return Method(method.init, step, method.calls + steps, method.order, method.grid)

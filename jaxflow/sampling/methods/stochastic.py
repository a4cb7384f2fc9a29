r"""Stochastic methods: the flow's marginals by way of an SDE, with noise a sample and step.

(1) $dX = (v + \frac{g^2}{2} s)\, dt + g\, dW$ has the marginals of $dX = v\, dt$ for any $g(t)$
    (see `diffusions`), and $dX = (v - \frac{g^2}{2} s)\, dt + g\, d\bar W$ has them backwards

(2) euler_maruyama: $x + h\, f(t, x) + g_t \sqrt{|h|}\, z$, with $f$ the drift of (1)

(3) stochastic_heun: $x + \frac h2 (f(t, x) + f(s, y)) + \frac{g_t + g_s}{2} \sqrt{|h|}\, z$ and
    $y = x + h f(t, x) + g_t \sqrt{|h|}\, z$

As $g$ depends on time alone, (2) is of weak order 1 and (3) of weak order 2: its expansion has
every term of the simplified Taylor scheme (Kloeden & Platen, Numerical Solution of Stochastic
Differential Equations, 1992, section 14.2).

The score is read off the velocity, at no further call, where a path is given, or a function
where the path does not tell it. The last step: where a path is given and a step ends without noise
($\sigma = 0$), it goes to the posterior mean of the data and adds no noise, as `fixed_step` does
where a velocity is not finite at the end.

A sample depends on its own key alone. A finer grid draws other noise: `sampling.sde` shares one
Brownian path between grids.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxflow.records import record, traceable
from jaxflow.sampling.diffusions import as_diffusion
from jaxflow.sampling.methods.levels import blend, by_part, check_affine
from jaxflow.sampling.methods.moves import Field, made, move, no_memory, normal, where
from jaxflow.types import Array, Keys, Method, Path, PyTree, Schedule, Time
from jaxflow.velocities.prediction import convert

__all__ = ["Drift", "drift_of", "euler_maruyama", "stochastic_heun"]


@record
class Drift:
    """What (1) needs besides the velocity: its diffusion, and a path or a score."""

    diffusion: Callable[[Time], Time]
    path: Path | None
    score: Callable[..., Any] | None

    def __call__(self, value: PyTree, g: Time, t: Time, x: PyTree, **cond: Any) -> PyTree:
        """The drift of (1) where the velocity is `value`, forwards for `g >= 0`."""
        if self.score is not None:
            score = self.score(t, x, **cond)
        else:
            assert self.path is not None
            score = convert(value, t, x, path=self.path, source="velocity", target="score")
        value = jax.tree.map(lambda a, b: a.astype(b.dtype), value, x)
        return move(value, (g * jnp.abs(g) / 2, score))

    def finish(self, value: PyTree, t: Time, s: Time, x: PyTree, otherwise: PyTree) -> PyTree:
        """The posterior mean for samples whose step ends without noise."""
        if self.path is None:
            return otherwise
        data = convert(value, t, x, path=self.path, source="velocity", target="data")

        def end(schedule: Schedule, data: Array, otherwise: Array) -> Array:
            is_last = (schedule.sigma(s) <= 0) & (s > t)
            return where(is_last, blend(schedule.alpha(s), data), otherwise)

        return by_part(self.path, end, data, otherwise)


def drift_of(
    diffusion: Any, path: Path | None, score: Callable[..., Any] | None, name: str
) -> Drift:
    """What (1) needs, checked.

    Raises:
        ValueError: where neither a path nor a score is given, or both are.
    """
    if (path is None) == (score is None):
        raise ValueError(
            f"{name} needs the score of the marginals: give the path that the velocity was learned "
            "on, from standard normal noise independent of the data, or else the score (t, x)"
        )
    if path is not None:
        check_affine(path)
    return Drift(as_diffusion(diffusion), traceable(path), traceable(score))


def _drawn(x: PyTree, h: Time, keys: Keys | None, name: str) -> PyTree:
    """Noise of variance `|h|`."""
    zero = jax.tree.map(jnp.zeros_like, x)
    return move(zero, (jnp.sqrt(jnp.abs(h)), normal(keys, x, name)))


def _euler_maruyama(
    drift: Drift, v: Field, t: Time, s: Time, x: PyTree, memory: Any, keys: Keys | None = None
) -> tuple[PyTree, Any]:
    h = s - t
    noise = _drawn(x, h, keys, "euler_maruyama")
    g, value = drift.diffusion(t), v(t, x)
    along = drift(value, jnp.sign(h) * g, t, x)
    return drift.finish(value, t, s, x, move(x, (h, along), (g, noise))), memory


def _stochastic_heun(
    drift: Drift, v: Field, t: Time, s: Time, x: PyTree, memory: Any, keys: Keys | None = None
) -> tuple[PyTree, Any]:
    h = s - t
    noise = _drawn(x, h, keys, "stochastic_heun")
    g, g_next, value = drift.diffusion(t), drift.diffusion(s), v(t, x)
    along = drift(value, jnp.sign(h) * g, t, x)
    y = move(x, (h, along), (g, noise))
    along_next = drift(v(s, y), jnp.sign(h) * g_next, s, y)
    moved = move(x, (h / 2, along), (h / 2, along_next), ((g + g_next) / 2, noise))
    return drift.finish(value, t, s, x, moved), memory


def euler_maruyama(
    diffusion: Any, *, path: Path | None = None, score: Callable[..., Any] | None = None
) -> Method:
    """The Euler-Maruyama method (2): one call, weak order 1.

    Args:
        diffusion: $g$, a number or a function of the times, as those of `diffusions`.
        path: the affine path (or product) that the velocity was learned on, to read the score off
            it; from standard normal noise independent of the data.
        score: instead of a path, the score `(t, x)`, its conditions bound; it is called once where
            the velocity is, and not counted.

    Raises:
        ValueError: where neither a path nor a score is given, or both are; for a path without
            schedule; and in sampling without keys.

    >>> from jaxflow import paths, sampling
    >>> path = paths.linear()
    >>> method = euler_maruyama(sampling.diffusions.sigma(path), path=path)
    >>> keys = jax.random.split(jax.random.key(0), 2)
    >>> to_zero = lambda t, x: -x / (1 - t[:, None])
    >>> grid = sampling.grids.uniform(8)
    >>> end = sampling.fixed_step(to_zero, jnp.ones((2, 1)), grid, method=method, keys=keys)
    >>> abs(end.x).tolist()
    [[0.0], [0.0]]
    """
    drift = drift_of(diffusion, path, score, "euler_maruyama")
    return made(no_memory, Partial(_euler_maruyama, drift), calls=1, order=1)


def stochastic_heun(
    diffusion: Any, *, path: Path | None = None, score: Callable[..., Any] | None = None
) -> Method:
    """Heun's method with noise (3): two calls, weak order 2.

    Args:
        diffusion, path, score: as for `euler_maruyama`; a score is called at both ends of a step.

    Raises:
        ValueError: as `euler_maruyama`.
    """
    drift = drift_of(diffusion, path, score, "stochastic_heun")
    return made(no_memory, Partial(_stochastic_heun, drift), calls=2, order=2)

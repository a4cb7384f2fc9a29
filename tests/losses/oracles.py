"""Flow maps that are known: of a Gaussian in closed form, of a mixture by a solve in float64."""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow import paths, velocities
from jaxflow.arrays import expand
from jaxflow.records import record, static
from jaxflow.types import PathSample

MEAN, STD = 0.7, 0.4
BUMPS = 3
STEPS = 64


class Oracle(NamedTuple):
    """The velocity of the linear path to a distribution, and the average of its flow."""

    velocity: Callable[..., Any]  # (t, x) -> v
    average: Callable[..., Any]  # (t, r, x) -> u
    sample: Callable[..., Any]  # key, shape -> x1

    def network(self, params, t, x, *, r, key=None):
        """The exact average velocity at parameters of zero, moved in three ways elsewhere."""
        a, b = expand(t, x), expand(r, x)
        bumps = jnp.stack([jnp.ones_like(x), jnp.sin(x + a), (b - a) * x + b])
        return self.average(t, r, x) + jnp.tensordot(params, bumps, 1)

    def teacher(self, params, t, x, *, r=None, key=None):
        return self.velocity(t, x) if r is None else self.average(t, r, x)


def spread(t):
    """Standard deviation at `t` of the linear path to N(MEAN, STD^2)."""
    return jnp.sqrt((t * STD) ** 2 + (1 - t) ** 2)


def _velocity(t, x):
    """Exact, `d/dt` of the map below at `r = t`."""
    t = expand(t, x)
    slope = (t * STD**2 - (1 - t)) / spread(t) ** 2
    return MEAN + slope * (x - t * MEAN)


def exact_map(t, r, x):
    t, r = (expand(a, x) for a in (t, r))
    return r * MEAN + spread(r) / spread(t) * (x - t * MEAN)


def _average(t, r, x):
    """Of the exact map, and its limit where the times are equal, finite in value and derivative.

    `(X - x) / (r - t)` with the difference of the spreads written out: their squares are
    polynomials, so the division is exact.
    """
    t, r = (expand(a, x) for a in (t, r))
    divided = (STD**2 + 1) * (t + r) - 2  # (spread(r)^2 - spread(t)^2) / (r - t)
    return MEAN + divided / (spread(r) + spread(t)) / spread(t) * (x - t * MEAN)


GAUSSIAN = Oracle(
    _velocity, _average, lambda key, shape: MEAN + STD * jax.random.normal(key, shape)
)

WEIGHTS, CENTRES = np.array([0.6, 0.4]), np.array([[-0.8, 0.3], [0.9, -0.2]])
VARIANCES = np.array([0.09, 0.16])


@cache
def _mixture(x64):
    """The library's own, made outside of any trace in the precision that is on."""
    covariances = VARIANCES[:, None, None] * np.eye(2)
    with jax.ensure_compile_time_eval():
        return velocities.gaussian_mixture(
            paths.linear(), weights=WEIGHTS, means=CENTRES, covariances=covariances
        )


def _of_mixture(t, x):
    return _mixture(jax.config.jax_enable_x64)(t, x)


def _average_of_mixture(t, r, x):
    """The mean of the velocity over equal parts of the way, by Runge and Kutta's method.

    Nothing is divided by `r - t`, so it is smooth where the times are equal.
    """
    h = (r - t) / STEPS

    def part(carry, i):
        x, total = carry
        at, span = t + i * h, expand(h, x)
        k1 = _of_mixture(at, x)
        k2 = _of_mixture(at + h / 2, x + span / 2 * k1)
        k3 = _of_mixture(at + h / 2, x + span / 2 * k2)
        k4 = _of_mixture(at + h, x + span * k3)
        mean = (k1 + 2 * k2 + 2 * k3 + k4) / 6
        return (x + span * mean, total + mean / STEPS), None

    (_, total), _ = jax.lax.scan(part, (x, jnp.zeros_like(x)), jnp.arange(STEPS))
    return total


def _sample_of_mixture(key, shape):
    keys = jax.random.split(key)
    which = jax.random.choice(keys[0], 2, shape[:1], p=jnp.asarray(WEIGHTS))
    noise = jax.random.normal(keys[1], shape)
    return jnp.asarray(CENTRES)[which] + jnp.sqrt(jnp.asarray(VARIANCES))[which, None] * noise


MIXTURE = Oracle(_of_mixture, _average_of_mixture, _sample_of_mixture)
ORACLES = {"gaussian": GAUSSIAN, "mixture": MIXTURE}


@record
class Marginal:
    """The linear path with the marginal velocity in the place of the pair's own."""

    name: str = static()

    schedule = paths.linear().schedule

    def __call__(self, t, x0, x1, z=None):
        sample = paths.linear()(t, x0, x1)
        return PathSample(t, sample.x, ORACLES[self.name].velocity(t, sample.x), x0, x1)


@record
class Flowing:
    """The flow itself as a path: a pair is a point of the source and where it is carried to."""

    name: str = static()

    schedule = paths.linear().schedule

    def __call__(self, t, x0, x1, z=None):
        oracle = ORACLES[self.name]
        x = x0 + expand(t, x0) * oracle.average(jnp.zeros_like(t), t, x0)
        return PathSample(t, x, oracle.velocity(t, x), x0, x1)

r"""Weights that keep a loss finite.

Where an error is carried from one space into another by a coefficient $c(t)$ that is infinite at an
end of the interval, $E_t[c^2 \| \text{error} \|^2]$ is too, or is made by a handful of examples
(a kind regressed on itself is not, but for the score):

| prediction | regress | $c$ grows as | weight |
|---|---|---|---|
| data | any but score | $1 / \sigma$ | `sigma(path)` |
| noise, score | velocity, data, salimans_ho | $1 / \alpha$ | `alpha(path)` |
| velocity | any but score | $1 / (\alpha \dot\sigma - \sigma \dot\alpha)$ | `determinant(path)` |
| any but data | score | $1 / \sigma$ | `sigma(path)` |
| data | score | $1 / \sigma^2$ | `sigma(path, power=4)` |

each the square of the divisor. `constant()` says that the times already avoid that end.
"""

import jax.numpy as jnp

from jaxflow.arrays import at_least_float32
from jaxflow.paths.ends import schedule_of
from jaxflow.paths.schedules import determinant as determinant_of
from jaxflow.records import record, static
from jaxflow.types import Array, Path, Schedule, Time

__all__ = ["alpha", "constant", "determinant", "sigma"]


@record
class Power:
    """A power of what a schedule says at `t`."""

    schedule: Schedule
    of: str = static()
    power: float = static()

    def __call__(self, t: Time) -> Array:
        t = at_least_float32(t)
        if self.of == "determinant":
            return jnp.abs(determinant_of(self.schedule, t)) ** self.power
        return getattr(self.schedule, self.of)(t) ** self.power


@record
class Constant:
    """One at all times."""

    def __call__(self, t: Time) -> Array:
        return jnp.ones_like(at_least_float32(t))


def sigma(path: Path, power: float = 2.0) -> Power:
    """`sigma(t)^power`, the share of the noise; with power 2 the weight of score matching.

    Song et al., Score-Based Generative Modeling through SDEs, 2021, arXiv:2011.13456, eq. 7.

    Raises:
        ValueError: where the path has no schedule.

    >>> from jaxflow import paths
    >>> sigma(paths.linear())(jnp.array([0.5]))
    Array([0.25], dtype=float32)
    """
    return Power(schedule_of(path), "sigma", power)


def alpha(path: Path, power: float = 2.0) -> Power:
    """`alpha(t)^power`, the share of the data.

    Raises:
        ValueError: where the path has no schedule.
    """
    return Power(schedule_of(path), "alpha", power)


def determinant(path: Path, power: float = 2.0) -> Power:
    """`|alpha d sigma/dt - sigma d alpha/dt|^power`, by which velocities tell data from noise.

    Raises:
        ValueError: where the path has no schedule.
    """
    return Power(schedule_of(path), "determinant", power)


def constant() -> Constant:
    """One: for a loss whose times stay away from where it is singular."""
    return Constant()

r"""What the way of a flow costs, and how straight it is.

Along the path $x(t)$ of a sample from $a$ to $b$, with $\Delta = x(b) - x(a)$:

(1) energy $E = \int_a^b \| v(t, x(t)) \|^2\, dt$

(2) length $\ell = \int_a^b \| v(t, x(t)) \|\, dt$

(3) straightness $S = \int_a^b \big\| v - \tfrac{\Delta}{b - a} \big\|^2 dt
    = E - \tfrac{\| \Delta \|^2}{b - a}$, since $\int v\, dt = \Delta$

$S$ is 0 where a sample goes straight at constant speed, so that one step of Euler's method is
exact; $\ell / \|\Delta\|$ is 1 where its way is a line, at whatever speed. Over $[0, 1]$ the mean
energy is at least the squared Wasserstein distance of the two ends (Benamou & Brenier, 2000), which
optimal transport attains.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxflow.arrays import at_least_float32, event_sum
from jaxflow.records import record
from jaxflow.sampling import grids
from jaxflow.sampling.fixed_step import fixed_step
from jaxflow.types import Array, Bool, Float, Method, PyTree, Time, Velocity
from jaxflow.velocities.function import as_velocity

__all__ = ["PathCost", "path_cost"]


@record
class PathCost:
    """What (1) to (3) are for each sample, and where it ends."""

    x: PyTree
    energy: Float[Array, "batch"]
    length: Float[Array, "batch"]
    distance: Float[Array, "batch"]
    straightness: Float[Array, "batch"]
    success: Bool[Array, "batch"]

    @property
    def detour(self) -> Float[Array, "batch"]:
        """Length over distance, 1 for a line."""
        return self.length / self.distance


@record
class Measured:
    """The velocity of `{x, energy, length}`."""

    velocity: Velocity

    path = None

    @property
    def evaluations(self) -> int:
        """Those of the velocity."""
        return self.velocity.evaluations

    @property
    def interval(self) -> tuple[float, float]:
        """That of the velocity."""
        return self.velocity.interval

    def __call__(self, t: Time, x: Mapping[str, Any], **cond: Any) -> Mapping[str, Any]:
        v = self.velocity(t, x["x"], **cond)
        square = _square(v)
        moving = square > 0
        speed = jnp.where(moving, jnp.sqrt(jnp.where(moving, square, 1.0)), 0.0)
        return {"x": v, "energy": square, "length": speed}


def path_cost(
    velocity: Velocity | Callable[..., PyTree],
    x0: PyTree,
    grid: ArrayLike | Sequence[float] | None = None,
    *,
    method: Method | None = None,
    cond: Mapping[str, Any] | None = None,
) -> PathCost:
    """Energy, length and straightness, (1) to (3), of each sample's way along a flow.

    Args:
        velocity: a Velocity, or a plain function `(t, x, **cond) -> v`.
        x0: the state at `grid[0]`, `[batch, ...]`.
        grid: times of the steps, inside the velocity's interval; a hundred equal ones where None.
        method: of a step, Heun's where None; the integrals have its order.
        cond: conditions, each `[batch, ...]`.

    Raises:
        ValueError: as `fixed_step`, and for a grid that leaves the velocity's interval.

    Liu, Gong & Liu, Flow Straight and Fast, 2023, arXiv:2209.03003, section 2.2; Tong et al.,
    Improving and Generalizing Flow-Based Generative Models, 2024, arXiv:2302.00482, whose
    normalised path energy is `energy.mean() / wasserstein**2 - 1`.

    >>> cost = path_cost(lambda t, x: jnp.full_like(x, 2.0), jnp.zeros((1, 1)))
    >>> [round(float(a[0]), 4) for a in (cost.energy, cost.length, cost.straightness)]
    [4.0, 2.0, 0.0]
    """
    velocity = as_velocity(velocity)
    low, high = velocity.interval
    grid = grids.uniform(100, low, high) if grid is None else grid
    zero = jnp.zeros(len(jax.tree.leaves(x0)[0]))
    start = {"x": x0, "energy": zero, "length": zero}
    solved = fixed_step(Measured(velocity), start, grid, method=method, cond=cond)
    end, times = solved.x, jnp.asarray(grid, jnp.float32)
    square = _square(jax.tree.map(lambda a, b: at_least_float32(b) - a, x0, end["x"]))
    sign = jnp.sign(times[-1] - times[0])
    energy, length = sign * end["energy"], sign * end["length"]
    straightness = energy - square / jnp.abs(times[-1] - times[0])
    return PathCost(end["x"], energy, length, jnp.sqrt(square), straightness, solved.success)


def _square(x: PyTree) -> Array:
    """The squared norm of each sample with all its parts."""
    parts = [event_sum(jnp.square(at_least_float32(a))) for a in jax.tree.leaves(x)]
    return sum(parts[1:], parts[0])

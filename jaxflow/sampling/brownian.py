r"""One sample's way along its Brownian path, by a solver of Diffrax.

With $t = a + (b - a) \tau$ the SDE of the marginals is, both ways in time,

(1) $dX = \left((b - a)\, v + |b - a| \frac{g^2}{2} s\right) d\tau
    + \sqrt{|b - a|}\; g\, dW_\tau$ on $[0, 1]$

whose noise is additive: $g$ depends on time alone.
"""

from collections.abc import Mapping
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.records import record, static
from jaxflow.sampling.methods.stochastic import Drift
from jaxflow.types import Array, Interval, Key, Path, PyTree, Velocity

__all__ = ["FINEST", "Diffusing", "calls_a_step", "solve"]

AREAS = (diffrax.BrownianIncrement, diffrax.SpaceTimeLevyArea, diffrax.SpaceTimeTimeLevyArea)
FINEST = 2.0**-16
MAX_STEPS = 4096
FIRST_STEP = 0.01


@record
class Diffusing:
    """A velocity with the drift of (1), and the times where both are finite."""

    velocity: Velocity
    drift: Drift
    interval: Interval = static()

    @property
    def path(self) -> Path | None:
        """That of the drift, or else of the velocity."""
        return self.velocity.path if self.drift.path is None else self.drift.path

    @property
    def evaluations(self) -> int:
        """Those of the velocity."""
        return self.velocity.evaluations

    def __call__(self, t: Any, x: PyTree, **cond: Any) -> PyTree:
        return self.velocity(t, x, **cond)


class Scaled(diffrax.ControlTerm):
    """Noise times one number."""

    def prod(self, vf: Array, control: PyTree) -> PyTree:
        return jax.tree.map(lambda a: vf.astype(a.dtype) * a, control)


def solve(
    flow: Diffusing,
    times: Array,
    solver: Any,
    tolerances: tuple[Any, Any] | None,
    x: PyTree,
    key: Key,
    cond: Mapping[str, Any],
) -> tuple[PyTree, Array, Array]:
    """One sample: its states at all times, its steps, and whether it got there."""
    first, way = times[0], times[-1] - times[0]
    stretch, direction = jnp.abs(way), jnp.sign(way)

    def at(tau: Any) -> Array:
        return jnp.reshape(first + way * tau, (1,))

    def drift(tau: Any, y: PyTree, cond: Mapping[str, Any]) -> PyTree:
        batch, cond = jax.tree.map(lambda a: a[None], (y, cond))
        value, g = flow(at(tau), batch, **cond), flow.drift.diffusion(at(tau))
        along = flow.drift(value, direction * g, at(tau), batch, **cond)
        return jax.tree.map(lambda a, b: (way * a[0]).astype(b.dtype), along, y)

    def noise(tau: Any, y: PyTree, cond: Any) -> Array:
        return (jnp.sqrt(stretch) * flow.drift.diffusion(at(tau))[0]).astype(times.dtype)

    shape = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), x)
    area = getattr(solver, "minimal_levy_area", diffrax.AbstractBrownianIncrement)
    kind = next(kind for kind in AREAS if issubclass(kind, area))
    brownian = diffrax.VirtualBrownianTree(0.0, 1.0, FINEST, shape, key, kind)
    terms = diffrax.MultiTerm(diffrax.ODETerm(drift), Scaled(noise, brownian))
    shares = (times - first) / way
    if tolerances is None:
        return _walked(solver, terms, shares, x, cond)
    solved = diffrax.diffeqsolve(
        terms,
        solver,
        0.0,
        1.0,
        FIRST_STEP,
        x,
        cond,
        saveat=diffrax.SaveAt(ts=shares) if len(shares) > 2 else diffrax.SaveAt(t0=True, t1=True),
        stepsize_controller=diffrax.PIDController(
            rtol=tolerances[0], atol=tolerances[1], dtmin=2 * FINEST, force_dtmin=True
        ),
        max_steps=MAX_STEPS,
        throw=False,
    )
    return solved.ys, solved.stats["num_steps"], solved.result == diffrax.RESULTS.successful


def _walked(
    solver: Any, terms: Any, shares: Array, x: PyTree, cond: Mapping[str, Any]
) -> tuple[PyTree, Array, Array]:
    """By steps from time to time."""

    def step(carry: tuple[PyTree, Any], at: tuple[Array, Array]) -> tuple[Any, PyTree]:
        y, state = carry
        y, _, _, state, _ = solver.step(terms, *at, y, cond, state, made_jump=False)
        return (y, state), y

    state = solver.init(terms, shares[0], shares[1], x, cond)
    _, xs = jax.lax.scan(jax.checkpoint(step), (x, state), (shares[:-1], shares[1:]))
    xs = jax.tree.map(lambda a, rest: jnp.concatenate([a[None], rest]), x, xs)
    return xs, jnp.asarray(len(shares) - 1), jnp.asarray(True)


def calls_a_step(solver: Any) -> int:
    """One a stage of the drift."""
    tableau = getattr(solver, "tableau", None)
    if tableau is None:
        return 1
    ignored = getattr(tableau, "ignore_stage_f", None)
    return len(tableau.b_sol) - (0 if ignored is None else int(np.sum(ignored)))

r"""A solver learned for one velocity: its times, and what every step adds of the calls before.

A non-stationary solver of $n$ steps calls the velocity once a step, $u_j = v(t_j, x_j)$, at times
$t_0 < \dots < t_n$ of its own, and has a rule of its own for each state:

(1) $x_{i+1} = a_i\, x_0 + \sum_{j \le i} b_{ij}\, u_j$

Euler's method is $a_i = 1$ and $b_{ij} = h_j = t_{j+1} - t_j$; every explicit Runge-Kutta or
multistep method of $n$ calls is of the form (1), its inner stages counted as states. That of two
steps of Adams-Bashforth, where learning starts, sums its steps
$h_i u_i + \frac{h_i^2}{2 h_{i-1}} (u_i - u_{i-1})$:

(2) $b_{ij} = \sum_{k \le i} w_{kj}$, with $w_{kk} = h_k + \frac{h_k^2}{2 h_{k-1}}$,
    $w_{k,k-1} = -\frac{h_k^2}{2 h_{k-1}}$ and $w_{00} = h_0$

Against the exact ends $x(t_n)$ of the same noise, known from a solve to a tolerance, times and
coefficients descend the mean logarithm of the squared error of a sample with $d$ numbers (a mean
of PSNR, but for sign and scale)

(3) $L = \mathrm{mean}\, \log\big(\tfrac1d \|x_n - x(t_n)\|^2 + \epsilon^2\big)$

with $\epsilon$ the rounding unit, so that an error of nothing has a gradient. That gradient grows
as the error vanishes, so its direction alone goes to Adam (whose steps would else be held short for
as long as it remembers one lucky batch). The times stay in
order as the sums of a softmax,

(4) $t_i = t_0 + (t_n - t_0) \sum_{j < i} \mathrm{softmax}(z)_j$

All that is learned is free of units: $a$, $z$, and $b$ in units of the mean step; so one rate of
learning serves all velocities.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial
from jax.typing import ArrayLike

from jaxflow.arrays import at_least_float32
from jaxflow.checks import check_batch
from jaxflow.records import record, traceable
from jaxflow.sampling.adaptive import adaptive, mean_squares
from jaxflow.sampling.ends import check_grid, check_order
from jaxflow.sampling.methods.moves import Field, check_real
from jaxflow.types import AnyArray, Array, Float, Keys, Method, PyTree, Time, Velocity
from jaxflow.velocities.function import as_velocity

__all__ = ["Bespoke", "bespoke"]

RATE = 1e-2
EVERY = 20  # steps of learning between two measurements on the pairs held out
LEAST = 4  # pairs, one of them held out


@record
class Bespoke:
    """A solver (1): its grid `[n + 1]`, coefficients `a [n]` and `b [n, n]`, and what it is worth.

    `before` and `after` are errors on pairs that were held out, of the solver that learning started
    from and of this one: the geometric mean over samples of the root mean square over a sample,
    `exp(L / 2)` of (3). Arrays all, so that it is saved as any pytree.
    """

    grid: Float[AnyArray, "times"]
    a: Float[AnyArray, "n"]
    b: Float[AnyArray, "n n"]
    before: Float[AnyArray, ""]
    after: Float[AnyArray, ""]

    @property
    def method(self) -> Method:
        """The steps (1): one call each, for the own grid alone; `order` 0, since no other is."""
        return Method(Partial(_init, self.a), Partial(_step, self.a, self.b), 1, 0, self.grid)


def bespoke(
    velocity: Velocity | Callable[..., PyTree],
    x0: PyTree,
    grid: ArrayLike,
    *,
    steps: int = 2000,
    batch: int = 64,
    rtol: ArrayLike = 1e-5,
    atol: ArrayLike = 1e-5,
    cond: Mapping[str, Any] | None = None,
) -> Bespoke:
    """The solver (1) of `n` calls that comes nearest to the exact flow of a velocity, by (3).

    Learned once on a few hundred samples, and used for all others. It starts as `ab2()` on the
    given grid, and the best on the last quarter of the samples, which it does not learn from, is
    kept: there it is never worse than that. `before` and `after` say by how much it is better.
    The kept one is chosen by them, so where they are few `after` is below the error on new samples:
    half of it for 32 held out of 128, at 6 calls of a mixture in the plane.

    Where the grid ends beyond the velocity's interval, the learned one ends at the interval's end,
    as does the method that it starts from, and what is learned is the posterior mean that
    `adaptive` ends on.

    A step of learning costs `n` calls of the velocity forwards and backwards for each of its pairs,
    and holds `n^2` states a pair; a sampler holds `n`.

    Args:
        velocity: a Velocity, or a plain function `(t, x, **cond) -> v`.
        x0: independent states at `grid[0]`, `[batch, ...]`: some hundreds of them.
        grid: `[n + 1]` times, as of `grids`, from which learning starts and whose ends it keeps.
        steps: of Adam, its rate falling from .01 to 0 by a cosine.
        batch: pairs a step, which are taken in turn.
        rtol, atol: tolerances of the exact ends, well below the errors of the solver.
        cond: conditions, each `[batch, ...]`.

    Raises:
        ValueError: for fewer than 4 samples, less than one step or pair a step, a grid a sample, a
            sample that cannot be solved to the tolerance, or what `adaptive` refuses.

    Shaul et al., Bespoke Non-Stationary Solvers for Fast Sampling of Diffusion and Flow Models,
    2024, arXiv:2403.01329; starting from `ab2`, and the direction of the gradient, are ours.

    >>> from jaxflow import sampling
    >>> growth, x0 = lambda t, x: x, jnp.linspace(0.5, 2.0, 32)[:, None]
    >>> learned = bespoke(growth, x0, sampling.grids.uniform(2), steps=300)
    >>> end = sampling.fixed_step(growth, x0, learned.grid, method=learned.method)
    >>> int(end.nfe[0]), bool(jnp.abs(end.x / x0 - jnp.exp(1.0)).max() < 1e-3)
    (2, True)
    """
    velocity = as_velocity(velocity)
    cond = {} if cond is None else dict(cond)
    count = check_batch(x0, cond)
    if count < LEAST or steps < 1 or batch < 1:
        raise ValueError(
            f"bespoke needs at least {LEAST} samples, one step and one pair a step; got "
            f"{count} samples, steps={steps}, batch={batch}"
        )
    given = np.asarray(check_grid(velocity, grid)[0])
    inside = check_order(np.clip(given, *velocity.interval))
    ends = float(given[0]), float(given[-1])
    exact = adaptive(velocity, x0, ends, rtol=rtol, atol=atol, cond=cond)
    if not bool(jnp.all(exact.success)):
        raise ValueError("bespoke needs exact ends, but a sample could not be solved: raise rtol")
    pairs = x0, exact.x, cond
    found = _learn(traceable(velocity), pairs, inside, steps=steps, batch=batch)
    times = np.array(found.grid, np.float64)
    times[0], times[-1] = inside[0], inside[-1]
    return Bespoke(times, found.a, found.b, found.before, found.after)


@partial(jax.jit, static_argnames=("steps", "batch"))
def _learn(velocity: Velocity, pairs: PyTree, grid: Array, *, steps: int, batch: int) -> Bespoke:
    """The best solver met in descending (3), and its errors on the pairs held out."""
    x0, x1, cond = pairs
    x0, x1 = (jax.tree.map(at_least_float32, x) for x in (x0, x1))
    count = check_batch(x0, cond)
    seen = count - count // 4
    dtype = jnp.result_type(*jax.tree.leaves(x0))
    grid = jnp.asarray(grid, dtype)
    held = jax.tree.map(lambda a: a[seen:], (x0, x1, cond))
    moved = _unmoved(len(grid) - 1, dtype)
    optimizer = _optimizer(steps)

    def loss(moved: PyTree, pairs: PyTree) -> Array:
        return _loss(velocity, *_solver(moved, grid), pairs)

    def measured(moved: PyTree, best: tuple[PyTree, Array]) -> tuple[PyTree, Array]:
        times, *_ = _solver(moved, grid)
        error = jnp.where(_ordered(times), loss(moved, held), jnp.inf)
        better = error < best[1]
        return jax.tree.map(lambda a, b: jnp.where(better, a, b), (moved, error), best)

    def step(carry: Any, i: Array) -> tuple[Any, Array]:
        moved, state, best = carry
        due = (i % EVERY == 0) | (i == steps)
        best = jax.lax.cond(due, measured, lambda _, best: best, moved, best)
        rows = (i * min(batch, seen) + jnp.arange(min(batch, seen))) % seen
        gradient = jax.grad(loss)(moved, jax.tree.map(lambda a: a[rows], (x0, x1, cond)))
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(moved, updates), state, best), best[1]

    carry = moved, optimizer.init(moved), (moved, jnp.full((), jnp.inf, dtype))
    (_, _, (moved, _)), errors = jax.lax.scan(step, carry, jnp.arange(steps + 1))
    before, after = jnp.exp(errors[0] / 2), jnp.exp(errors[-1] / 2)
    return Bespoke(*_solver(moved, grid), before, after)


def _optimizer(steps: int) -> optax.GradientTransformation:
    """Adam on directions, its rate falling to 0."""
    rate = optax.cosine_decay_schedule(RATE, steps)
    return optax.chain(optax.normalize_by_update_norm(), optax.adam(rate, b2=0.99))


def _loss(velocity: Velocity, times: Array, a: Array, b: Array, pairs: PyTree) -> Array:
    """The objective (3)."""
    x0, x1, cond = pairs
    apart = jax.tree.map(jnp.subtract, _end(velocity, times, a, b, x0, cond), x1)
    return jnp.mean(jnp.log(mean_squares(apart) + jnp.finfo(times.dtype).eps ** 2))


def _end(velocity: Velocity, times: Array, a: Array, b: Array, x0: PyTree, cond: Any) -> PyTree:
    """Where the solver (1) ends, by the steps that a sampler takes."""
    at = jnp.broadcast_to(times[:-1, None], (len(a), check_batch(x0, cond)))

    def v(t: Time, x: PyTree) -> PyTree:
        return velocity(t, x, **cond)

    def step(carry: Any, t: Time) -> tuple[Any, None]:
        return _step(a, b, v, t, t, *carry), None

    carry = x0, _init(a, v, at[0], x0)
    return jax.lax.scan(jax.checkpoint(step, prevent_cse=False), carry, at)[0][0]


def _init(a: Array, v: Field, t: Time, x: PyTree) -> tuple[Array, PyTree, PyTree]:
    """The number of the step, the start, and room for the calls."""
    check_real(x)
    room = jax.tree.map(lambda x: jnp.zeros((len(a), *x.shape), x.dtype), x)
    return jnp.zeros((), jnp.int32), x, room


def _step(
    a: Array, b: Array, v: Field, t: Time, s: Time, x: PyTree, memory: Any, keys: Keys | None = None
) -> tuple[PyTree, Any]:
    """The rule (1)."""
    i, x0, calls = memory
    calls = jax.tree.map(lambda us, u: us.at[i].set(u.astype(us.dtype)), calls, v(t, x))

    def moved(x0: Array, us: Array) -> Array:
        total = jnp.tensordot(jnp.asarray(b[i], us.dtype), us, 1, precision="highest")
        return jnp.asarray(a[i], x0.dtype) * x0 + total

    return jax.tree.map(moved, x0, calls), (i + 1, x0, calls)


def _unmoved(n: int, dtype: Any) -> tuple[Array, Array, Array]:
    """What is learned, where it starts: changes of `z` in (4), of `a` and of `b`."""
    return jnp.zeros(n, dtype), jnp.zeros(n, dtype), jnp.zeros((n, n), dtype)


def _solver(moved: tuple[Array, Array, Array], grid: Array) -> tuple[Array, Array, Array]:
    """Times (4) and coefficients of (1), by their changes from (2) on the given grid."""
    z, a, b = moved
    span, steps = grid[-1] - grid[0], jnp.diff(grid)
    shares = jnp.cumsum(jax.nn.softmax(jnp.log(steps / span) + z))
    times = jnp.concatenate([grid[:1], grid[0] + span * shares[:-1], grid[-1:]])
    return times, 1 + a, jnp.tril(_adams_bashforth(steps) + span / len(steps) * b)


def _adams_bashforth(h: Float[Array, "n"]) -> Float[Array, "n n"]:
    """The coefficients (2)."""
    change = h[1:] ** 2 / (2 * h[:-1])
    weights = jnp.diag(h.at[1:].add(change)) - jnp.diag(change, -1)
    return jnp.cumsum(weights, axis=0)


def _ordered(times: Float[Array, "times"]) -> Array:
    """Whether no two times are one number."""
    steps = jnp.diff(times)
    return jnp.all(steps > 0) | jnp.all(steps < 0)

"""Fixed and adaptive steps against closed forms: order, cost, ends, directions."""

import inspect

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxflow import paths, sampling
from jaxflow.sampling import adaptive, fixed_step, grids, methods
from jaxflow.types import Method
from jaxflow.velocities import from_network
from tests.sampling.tables import EVERYWHERE, EXACT, METHODS

SOLVERS = ["Heun", "Bosh3", "Tsit5", "Dopri5", "Dopri8", "Ralston"]


def test_every_method_and_grid_is_in_a_table():
    def public(module):
        return {n for n in module.__all__ if inspect.isfunction(getattr(module, n))}

    assert public(methods) == {name.split(".")[0] for name in METHODS}
    assert public(sampling) == {
        *public(methods), "adaptive", "bespoke", "by_block", "edits", "entropy_bounded", "exact",
        "first_hitting", "fixed_step", "flow_map", "hutchinson", "jumps", "lagrangian_residual",
        "log_prob", "mixed", "path_cost", "sde", "semigroup_residual",
    }  # fmt: skip


def falling(t, x):
    """`x' = -2 (t + 1) x^2`, so that `1 / x - (t + 1)^2` is constant."""
    return jax.tree.map(lambda a: -2 * (t[:, None] + 1) * a**2, x)


def fallen(x, start, stop):
    return 1 / (1 / x + (stop + 1) ** 2 - (start + 1) ** 2)


def falling_frames(t, x):
    return -2 * (t + 1) * x**2


X = np.array([[0.7, 0.5], [0.3, 0.9]])


LINEAR = paths.linear()


@pytest.mark.parametrize("name", EXACT)
def test_order(name, x64):
    """On steps of changing length, forwards and backwards; of an exponential method inside (0, 1).

    The flow is none of the path's, which an exponential method solves as any other.
    """
    row = METHODS[name]
    method = row.make(LINEAR)
    keys = jax.random.split(jax.random.key(0), 2) if row.keys else None
    run = jax.jit(lambda x, grid: fixed_step(falling, x, grid, method=method, keys=keys))
    low, high = (0.2, 0.8) if row.exponential else (0.0, 1.0)
    for start, stop in ((low, high), (high, low)):
        x, errors = fallen(X, 0, start), []
        for n in (384, 768) if row.exponential else (48, 96):
            solution = run(jnp.asarray(x), jnp.asarray(grids.shifted(n, 2.0, start, stop)))
            errors.append(np.abs(np.asarray(solution.x) - fallen(x, start, stop)).max())
            assert solution.nfe.tolist() == [row.calls * n] * 2
        order = np.log2(errors[0] / errors[1])
        assert order > row.order - 0.15
        if "unipc" not in name:  # of which single steps alone are not of a higher order
            assert order < row.order + 0.15
    assert method.order == row.order
    assert method.calls == row.calls


def _heun_step(v, t, h, x):
    first = v(t, x)
    return x + h / 2 * (first + v(t + h, x + h * first))


def _rk4_step(v, t, h, x):
    k1 = v(t, x)
    k2 = v(t + h / 2, x + h / 2 * k1)
    k3 = v(t + h / 2, x + h / 2 * k2)
    k4 = v(t + h, x + h * k3)
    return x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


STEPS = {
    "euler": lambda v, t, h, x: x + h * v(t, x),
    "midpoint": lambda v, t, h, x: x + h * v(t + h / 2, x + h / 2 * v(t, x)),
    "heun": _heun_step,
    "rk4": _rk4_step,
}


@pytest.mark.parametrize("name", EVERYWHERE)
def test_every_step_is_the_formula(name, x64):
    """Two steps of unlike length in NumPy, which tell methods of one order apart."""
    t, u, s = grid = np.array([0.1, 0.3, 0.8])

    def v(t, x):
        return falling(np.full(2, t), x)

    if name in ("ab2", "ab3"):
        x1 = X + (u - t) * v(t, X)
        if name == "ab3":
            mended = X + (u - t) / 2 * (v(t, X) + v(u, x1))
        share = (s - u) / (2 * (u - t))
        start = mended if name == "ab3" else x1
        expected = start + (s - u) * ((1 + share) * v(u, x1) - share * v(t, X))
    else:
        step = STEPS[name]
        expected = step(v, u, s - u, step(v, t, u - t, X))
    found = fixed_step(falling, jnp.asarray(X), grid, method=getattr(methods, name)())
    np.testing.assert_allclose(found.x, expected, rtol=1e-13)


def test_three_steps_integrate_a_parabola(x64):
    """Whose first step is mended to Heun's, exact for a line alone; from the third on exactly."""
    grid = np.array([0.0, 0.1, 0.3, 0.35, 0.8, 1.0])

    def parabola(t, x):
        return (3 * t**2)[:, None] + 0 * x

    states = fixed_step(parabola, np.zeros((1, 1)), grid, method=methods.ab3(), save=True).xs
    np.testing.assert_allclose(
        np.diff(np.asarray(states)[2:, 0, 0]), np.diff(grid[2:] ** 3), rtol=1e-12
    )
    line = fixed_step(
        lambda t, x: t[:, None] + 0 * x, jnp.zeros((1, 1)), grid, method=methods.ab3()
    )
    np.testing.assert_allclose(line.x, 0.5, rtol=1e-13)


def some_fast_solvers():
    fast = ("Bosh3", "Heun", "Dopri8")
    return [
        pytest.param(name, False, marks=() if name in fast else pytest.mark.slow)
        for name in SOLVERS
    ]


class Counted:
    """A velocity that counts its calls as they run."""

    def __init__(self):
        self.calls = 0

    def __call__(self, t, x):
        jax.debug.callback(self.count)
        return falling(t, x) + 0.3 * jnp.sin(40 * t[:, None] ** 2)

    def count(self):
        self.calls += 1


@pytest.mark.parametrize("name", METHODS)
def test_fixed_steps_count_their_calls(name):
    velocity = Counted()
    keys = jax.random.split(jax.random.key(0), 2)
    solution = fixed_step(
        velocity, jnp.asarray(X), grids.uniform(7), method=METHODS[name].make(LINEAR), keys=keys
    )
    jax.block_until_ready(solution)
    jax.effects_barrier()
    assert solution.nfe.tolist() == [velocity.calls] * 2


@pytest.mark.parametrize(("name", "per_sample"), [*some_fast_solvers(), ("Tsit5", True)])
def test_adaptive_counts_its_calls(name, per_sample):
    """Rejected steps included, whether or not the method's last stage is the next one's first."""
    velocity, n = Counted(), 1 if per_sample else 2
    solution = adaptive(
        velocity, jnp.asarray(X[:n]), solver=getattr(diffrax, name)(), rtol=1e-3, atol=1e-3,
        per_sample=per_sample,
    )  # fmt: skip
    jax.block_until_ready(solution)
    jax.effects_barrier()
    assert bool(solution.success.all())
    assert solution.nfe.tolist() == [velocity.calls] * n


@pytest.mark.parametrize("name", ["Bosh3", "Tsit5"])
def test_adaptive_reaches_its_tolerance(name, x64):
    run = jax.jit(
        lambda x, tolerance: adaptive(
            falling, x, solver=getattr(diffrax, name)(), rtol=tolerance, atol=tolerance
        )
    )
    previous = 0
    for tolerance in (1e-4, 1e-7):
        solution = run(jnp.asarray(X), tolerance)
        np.testing.assert_allclose(solution.x, fallen(X, 0, 1), atol=5 * tolerance)
        assert np.all(solution.nfe > previous)
        previous = solution.nfe


def test_saves_directions_and_parts_of_the_way(x64):
    """Saved times, a start and a stop inside, and back again to where it began."""
    grid = np.array([0.2, 0.3, 0.55, 0.9])
    tight = {"rtol": 1e-9, "atol": 1e-9}
    steps = np.interp(np.linspace(0, 3, 121), np.arange(4), grid)
    exact = np.stack([fallen(X, 0.2, t) for t in grid])
    solve = jax.jit(lambda x, grid: adaptive(falling, x, grid, **tight))
    there = solve(jnp.asarray(X), grid)
    fixed = fixed_step(falling, jnp.asarray(X), steps, method=sampling.rk4(), save=True)
    np.testing.assert_allclose(there.xs, exact, atol=5e-9)
    np.testing.assert_allclose(there.t, grid)
    np.testing.assert_allclose(np.asarray(fixed.xs)[::40], exact, atol=1e-9)
    np.testing.assert_allclose(fixed.t, steps)
    for solution in (there, fixed):
        xs = np.asarray(solution.xs)
        np.testing.assert_array_equal(xs[-1], solution.x)
        np.testing.assert_array_equal(xs[0], X)
    back = solve(there.x, grid[::-1])
    np.testing.assert_allclose(back.xs, exact[::-1], atol=2e-8)
    shared = jax.jit(lambda x: adaptive(falling, x, (0.2, 0.9), per_sample=False, **tight))(X)
    np.testing.assert_allclose(shared.x, exact[-1], atol=5e-9)
    assert len(set(shared.nfe.tolist())) == 1
    assert shared.t is None
    assert shared.xs is None


@pytest.mark.parametrize("x64", [False, True])
def test_any_pytree_in_its_own_dtype(x64):
    """The state may be a mapping of parts; each keeps its dtype, in float64 mode too."""
    with jax.enable_x64(x64):
        x = {"a": jnp.asarray(X, jnp.bfloat16), "b": jnp.asarray(X[:, :1], jnp.float32)}
        solutions = [(fixed_step(falling, x, grids.uniform(20)), 2e-3)]
        if x64:
            for per_sample in (True, False):
                solutions += [(adaptive(falling, x, rtol=1e-4, per_sample=per_sample), 1e-3)]
        half = fallen(np.asarray(x["a"], float), 0, 1)
        for solution, rtol in solutions:
            dtypes = {k: v.dtype for k, v in solution.x.items()}
            assert dtypes == {"a": jnp.bfloat16, "b": jnp.float32}
            np.testing.assert_allclose(solution.x["b"], fallen(X[:, :1], 0, 1), rtol=rtol)
            np.testing.assert_allclose(np.asarray(solution.x["a"], float), half, rtol=rtol + 2**-8)
            assert solution.nfe.dtype == jnp.int32
            assert solution.success.tolist() == [True, True]


def test_a_grid_a_sample(x64):
    """Each sample on its own times; a step of no length moves nothing, whatever the method."""
    own = np.stack([grids.uniform(64), grids.uniform(64, 0.1, 0.6)], axis=1)
    tolerances = {1: 5e-3, 2: 5e-5, 3: 5e-6, 4: 5e-9}
    for name, row in EVERYWHERE.items():
        solution = fixed_step(falling, jnp.asarray(X), own, method=getattr(methods, name)())
        expected = [fallen(X[0], 0, 1), fallen(X[1], 0.1, 0.6)]
        np.testing.assert_allclose(solution.x, expected, atol=tolerances[row.order])
    still = np.concatenate([[0.0], np.array([1e-6, 2e-5]), grids.uniform(20, 0.0001, 0.9)])
    starts = from_network(
        lambda p, t, x, key=None: -x, None, path=paths.linear(), prediction="noise"
    )
    keys = jax.random.split(jax.random.key(0), 2)
    for name, row in METHODS.items():
        solution = fixed_step(starts, jnp.asarray(X), still, method=row.make(LINEAR), keys=keys)
        assert bool(solution.success.all()), name


def test_a_step_of_no_length_is_none(x64):
    """Frames that stand still, at first and between, end where they would without those times."""
    moving = np.array([0.1, 0.2, 0.45, 0.6, 0.8])
    pauses = np.array([0.1, 0.1, 0.2, 0.2, 0.45, 0.6, 0.6, 0.8])
    keys = jax.random.split(jax.random.key(0), 2)

    def end(times, method):
        own = np.repeat(times[:, None, None], 2, axis=1)
        return fixed_step(falling_frames, X, own, method=method, keys=keys)

    for name, row in METHODS.items():
        method = row.make(LINEAR)
        paused = end(pauses, method)
        if name in EXACT:
            plain = end(moving, method)
            np.testing.assert_allclose(paused.x, plain.x, rtol=1e-12, err_msg=name)
        assert np.all(paused.success), name


def wander(v, t, s, x, memory, keys=None):
    """A step of random length, by the keys of the step."""
    return x + jax.vmap(lambda key: jax.random.normal(key, (2,)))(keys), memory + 1


def test_every_step_of_every_sample_has_a_key_of_its_own(key):
    """Step `i` of sample `n` draws by `fold_in(keys[n], i)`, whatever its batch-mates."""
    method = Method(Partial(lambda v, t, x: 0), Partial(wander), calls=1, order=1)
    keys = jax.random.split(key, 3)

    def walk(keys):
        x0 = jnp.zeros((len(keys), 2))
        return fixed_step(falling, x0, grids.uniform(4), method=method, keys=keys, save=True).xs

    @jax.jit
    def draws(keys):
        of_step = jax.vmap(lambda i, key: jax.random.normal(jax.random.fold_in(key, i), (2,)))
        return jnp.stack([of_step(jnp.full(3, i), keys) for i in range(4)])

    states = np.asarray(walk(keys))
    np.testing.assert_allclose(np.diff(states, axis=0), draws(keys), atol=1e-6)
    np.testing.assert_allclose(np.asarray(walk(keys[1:2]))[:, 0], states[:, 1], atol=1e-6)
    with pytest.raises(
        ValueError, match=r"^keys has shape \(3,\): one typed key a sample is needed"
    ):
        fixed_step(falling, jnp.zeros((2, 2)), grids.uniform(4), method=method, keys=keys)


def test_a_shared_step_is_that_of_the_worst_sample_or_of_the_mean(x64):
    """63 samples that stand still beside one that moves cost nothing, or dilute its error."""
    x = np.concatenate([X[:1], np.zeros((63, 2))])
    shared = {"per_sample": False, "rtol": 1e-6, "atol": 1e-6}
    alone = adaptive(falling, x[:1], **shared)
    worst = adaptive(falling, x, norm="worst", **shared)
    rms = adaptive(falling, x, norm="rms", **shared)
    assert worst.nfe.tolist() == [alone.nfe[0]] * 64
    np.testing.assert_allclose(np.asarray(worst.x)[0], np.asarray(alone.x)[0], rtol=1e-12)
    assert int(rms.nfe[0]) < 0.8 * int(worst.nfe[0])
    errors = [np.abs(np.asarray(s.x)[0] - fallen(X[0], 0, 1)).max() for s in (worst, rms)]
    assert errors[0] < 5e-6 < errors[1]
    with pytest.raises(ValueError, match=r"^norm is 'max', but must be one of worst, rms$"):
        adaptive(falling, x, norm="max")


def test_parts_are_solved_as_one_sample(x64):
    """The error is a mean over all numbers of a sample, however they are parted."""
    whole = np.concatenate([X[:, :1], np.zeros((2, 7))], axis=1)
    for per_sample in (True, False):
        one, two = (
            adaptive(falling, x, rtol=1e-7, atol=1e-7, per_sample=per_sample)
            for x in (whole, {"a": whole[:, :1], "b": whole[:, 1:]})
        )
        np.testing.assert_array_equal(two.nfe, one.nfe)
        np.testing.assert_allclose(two.x["a"], np.asarray(one.x)[:, :1], rtol=1e-12)


def test_gradients_through_samplers(x64):
    """Of the end in the start: the derivative of the closed form."""
    expected = jax.jit(jax.jacfwd(lambda x: fallen(x, 0, 1)))(X[0])
    for run in (
        lambda x: fixed_step(falling, x, grids.uniform(50), method=sampling.rk4()).x,
        lambda x: adaptive(falling, x, per_sample=False, rtol=1e-8, atol=1e-8).x,
    ):
        got = jax.jit(jax.jacrev(lambda x, run=run: run(x[None])[0]))(X[0])
        np.testing.assert_allclose(got, expected, atol=1e-7)


def test_failure_is_told_a_sample():
    """NaN, and a solver that runs to its limit; the others are not touched."""

    def breaks(t, x):
        """For small `x` none, NaN for large, and endless to solve for the largest."""
        endless = 1e4 * jnp.sin(1e5 * t[:, None])
        return jnp.where(x > 30, endless, jnp.where(x > 10, jnp.nan, 1.0)) * jnp.ones_like(x)

    x = jnp.array([[1.0], [20.0], [40.0]])
    assert fixed_step(breaks, x[:2], grids.uniform(2)).success.tolist() == [True, False]
    solved = adaptive(breaks, x)
    assert solved.success.tolist() == [True, False, False]
    assert solved.x[0, 0] == pytest.approx(2.0)
    assert solved.nfe[1] < 500
    assert solved.nfe[2] == 6 * 4096 + 1
    half = adaptive(lambda t, x: jnp.full_like(x, 1e4), jnp.array([[6e4], [1.0]], jnp.float16))
    assert half.success.tolist() == [False, True]
    assert half.x[0, 0] == jnp.inf


@pytest.mark.parametrize("per_sample", [True, False])
def test_a_sample_that_is_not_finite_fails_soon(per_sample):
    """Alone where steps are its own; with all where they are shared, never as a false success."""
    x = jnp.asarray(X).at[1].set(jnp.nan)
    solution = jax.jit(lambda x: adaptive(falling, x, per_sample=per_sample))(x)
    assert solution.success.tolist() == [per_sample, False]
    assert solution.nfe[1] < 100
    if per_sample:
        np.testing.assert_array_equal(
            solution.x[0], jax.jit(lambda x: adaptive(falling, x))(X).x[0]
        )


def test_a_field_that_ends_in_nan_fails_soon():
    broken = jax.jit(lambda x: adaptive(lambda t, x: jnp.where(t[:, None] > 0.5, jnp.nan, -x), x))(
        jnp.asarray(X)
    )
    assert not broken.success.any()
    assert broken.nfe.max() < 500


@pytest.mark.parametrize("solve", [adaptive, fixed_step])
@pytest.mark.parametrize("shape", [(), (1,), (3, 4), (3, 3, 2), (3, 2, 2, 2)])
def test_grids_of_a_wrong_shape(solve, shape):
    grid = np.linspace(0, 1, max(1, int(np.prod(shape)))).reshape(shape)
    with pytest.raises(ValueError, match="sequence of two or more times"):
        solve(falling, jnp.asarray(X), grid)


def test_a_grid_a_sample_saves_the_times_given(x64):
    """Each sample goes its own way; what is saved are the times that were given."""
    grid = np.stack([np.linspace(0, 1, 41), np.linspace(0.2, 0.9, 41)], axis=1)
    solution = fixed_step(falling, jnp.asarray(X), grid, method=sampling.rk4(), save=True)
    np.testing.assert_array_equal(solution.t, grid)
    exact = [fallen(X[i : i + 1], grid[0, i], grid[-1, i])[0] for i in range(2)]
    np.testing.assert_allclose(solution.x, exact, atol=3e-8)

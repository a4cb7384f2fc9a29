"""Fixed and adaptive steps against closed forms: order, cost, ends, directions."""

import inspect

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxflow import paths, sampling
from jaxflow.sampling import adaptive, fixed_step, grids, methods
from jaxflow.training import data_mesh
from jaxflow.velocities import from_network, gaussian_mixture
from jaxflow.velocities.prediction import KINDS
from tests.problems import COVARIANCES, CURVES, GAUSSIAN, MEANS, points

METHODS = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4, "ab2": 1}
ORDERS = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4, "ab2": 2}
SOLVERS = ["Heun", "Bosh3", "Tsit5", "Dopri5", "Dopri8", "Ralston"]


def test_every_method_and_grid_is_in_a_table():
    def public(module):
        return {n for n in module.__all__ if inspect.isfunction(getattr(module, n))}

    assert public(methods) == set(METHODS) == set(ORDERS)
    assert public(grids) == set(GRIDS)
    assert public(sampling) == {
        *METHODS, "adaptive", "fixed_step", "exact", "hutchinson", "log_prob"
    }  # fmt: skip


def falling(t, x):
    """`x' = -2 (t + 1) x^2`, so that `1 / x - (t + 1)^2` is constant."""
    return jax.tree.map(lambda a: -2 * (t[:, None] + 1) * a**2, x)


def fallen(x, start, stop):
    return 1 / (1 / x + (stop + 1) ** 2 - (start + 1) ** 2)


X = np.array([[0.7, 0.5], [0.3, 0.9]])


@pytest.mark.parametrize("name", METHODS)
def test_order(name, x64):
    """On steps of changing length, forwards and backwards."""
    method = getattr(sampling, name)()
    run = jax.jit(lambda x, grid: fixed_step(falling, x, grid, method=method))
    for forwards in (True, False):
        errors = []
        for n in (48, 96):
            grid = grids.shifted(n, 2.0, *((0.0, 1.0) if forwards else (1.0, 0.0)))
            solution = run(jnp.asarray(X), jnp.asarray(grid))
            errors.append(np.abs(solution.x - fallen(X, grid[0], grid[-1])).max())
            assert solution.nfe.tolist() == [METHODS[name] * n] * 2
        assert abs(np.log2(errors[0] / errors[1]) - ORDERS[name]) < 0.15
    assert method.order == ORDERS[name]
    assert method.calls == METHODS[name]


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
    solution = fixed_step(velocity, jnp.asarray(X), grids.uniform(7), method=getattr(methods, name)())
    jax.block_until_ready(solution)
    jax.effects_barrier()
    assert solution.nfe.tolist() == [velocity.calls] * 2


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("per_sample", [True, False])
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


@pytest.mark.parametrize("name", ["Bosh3", "Tsit5", "Dopri8"])
def test_adaptive_reaches_its_tolerance(name, x64):
    run = jax.jit(
        lambda x, tolerance: adaptive(
            falling, x, solver=getattr(diffrax, name)(), rtol=tolerance, atol=tolerance
        )
    )
    previous = 0
    for tolerance in (1e-4, 1e-7):
        solution = run(jnp.asarray(X), tolerance)
        np.testing.assert_allclose(solution.x, fallen(X, 0, 1), atol=3 * tolerance)
        assert np.all(solution.nfe > previous)
        previous = solution.nfe


def test_saves_directions_and_parts_of_the_way(x64):
    """Saved times, a start and a stop inside, and back again to where it began."""
    grid = np.array([0.2, 0.3, 0.55, 0.9])
    tight = {"rtol": 1e-9, "atol": 1e-9}
    steps = np.interp(np.linspace(0, 3, 121), np.arange(4), grid)
    exact = np.stack([fallen(X, 0.2, t) for t in grid])
    there = adaptive(falling, jnp.asarray(X), grid, **tight)
    fixed = fixed_step(falling, jnp.asarray(X), steps, method=sampling.rk4(), save=True)
    np.testing.assert_allclose(there.xs, exact, atol=1e-8)
    np.testing.assert_allclose(there.t, grid)
    np.testing.assert_allclose(fixed.xs[::40], exact, atol=1e-8)
    np.testing.assert_allclose(fixed.t, steps)
    for solution in (there, fixed):
        np.testing.assert_array_equal(solution.xs[-1], solution.x)
        np.testing.assert_array_equal(solution.xs[0], X)
    back = adaptive(falling, there.x, grid[::-1], **tight)
    np.testing.assert_allclose(back.xs, exact[::-1], atol=1e-8)
    plain = adaptive(falling, jnp.asarray(X), (0.2, 0.9), **tight)
    assert plain.t is None
    assert plain.xs is None
    shared = adaptive(falling, jnp.asarray(X), grid, per_sample=False, **tight)
    np.testing.assert_allclose(shared.xs, exact, atol=1e-8)
    assert len(set(shared.nfe.tolist())) == 1


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("x64", [False, True])
def test_any_pytree_in_its_own_dtype(dtype, x64):
    """The state may be a mapping of parts; each keeps its dtype, in float64 mode too."""
    with jax.enable_x64(x64):
        x = {"a": jnp.asarray(X, dtype), "b": jnp.asarray(X[:, :1], jnp.float32)}
        for solution in (
            fixed_step(falling, x, grids.uniform(20)),
            adaptive(falling, x, (0.0, 0.5, 1.0), rtol=1e-4, atol=1e-4),
            adaptive(falling, x, per_sample=False),
        ):
            assert {k: v.dtype for k, v in solution.x.items()} == {"a": dtype, "b": jnp.float32}
            np.testing.assert_allclose(solution.x["b"], fallen(X[:, :1], 0, 1), rtol=2e-3)
            assert solution.nfe.dtype == jnp.int32
            assert solution.success.tolist() == [True, True]


def test_a_grid_a_sample(x64):
    """Each sample on its own times; a step of no length moves nothing, whatever the method."""
    own = np.stack([grids.uniform(64), grids.uniform(64, 0.1, 0.6)], axis=1)
    for name in METHODS:
        solution = fixed_step(falling, jnp.asarray(X), own, method=getattr(methods, name)())
        expected = [fallen(X[0], 0, 1), fallen(X[1], 0.1, 0.6)]
        np.testing.assert_allclose(solution.x, expected, atol=2e-2)
    late = from_network(lambda p, t, x, key=None: falling(t, x), None, path=paths.linear())
    late = sampling.methods.ab2(), late
    still = np.concatenate([[0.0], np.array([1e-6, 2e-5]), grids.uniform(20, 0.0001, 0.9)])
    starts = from_network(
        lambda p, t, x, key=None: -x, None, path=paths.linear(), prediction="noise"
    )
    for name in METHODS:
        solution = fixed_step(starts, jnp.asarray(X), still, method=getattr(methods, name)())
        assert bool(solution.success.all()), name


def test_gradients_through_samplers(x64):
    """Of the end in the start: the derivative of the closed form."""
    expected = jax.jacfwd(lambda x: fallen(x, 0, 1))(jnp.asarray(X[0]))
    for run in (
        lambda x: fixed_step(falling, x, grids.uniform(50), method=sampling.rk4()).x,
        lambda x: adaptive(falling, x, per_sample=False, rtol=1e-8, atol=1e-8).x,
    ):
        got = jax.jacrev(lambda x, run=run: run(x[None])[0])(jnp.asarray(X[0]))
        np.testing.assert_allclose(got, expected, atol=1e-6)


def test_failure_is_told_a_sample():
    """NaN, and a solver that runs to its limit; the others are not touched."""

    def breaks(t, x):
        return jnp.where(x > 10, jnp.nan, 1.0) * jnp.ones_like(x)

    def stiff(t, x):
        return jnp.where(x > 10, -1e7, -1.0) * (x - 5 * jnp.cos(9 * t[:, None]))

    x = jnp.array([[1.0], [20.0]])
    assert fixed_step(breaks, x, grids.uniform(2)).success.tolist() == [True, False]
    nan = adaptive(breaks, x)
    assert nan.success.tolist() == [True, False]
    assert nan.x[0, 0] == pytest.approx(2.0)
    given_up = adaptive(lambda t, x: jnp.where(x[:, :1] > 10, 1e6, 1.0) * jnp.sin(1e5 * x), x)
    assert given_up.success.tolist()[1] is False
    assert given_up.nfe[1] == 6 * 4096 + 1


@pytest.mark.parametrize("name", CURVES)
def test_flow_of_a_gaussian(name, x64):
    """The flow is affine and known: every path, through both kinds of solver."""
    curve = CURVES[name]
    velocity = gaussian_mixture(
        curve.path, weights=np.ones(1), means=MEANS[:1], covariances=COVARIANCES[:1]
    )
    low, high = curve.path.schedule.interval
    x0 = points(3)
    end = adaptive(velocity, jnp.asarray(x0), (low, high), rtol=1e-10, atol=1e-10)
    expected = GAUSSIAN.carry(curve, x0, low, high)
    np.testing.assert_allclose(end.x, expected, atol=1e-7)
    middle = fixed_step(
        velocity, jnp.asarray(x0), grids.uniform(40, 0.1, 0.9), method=sampling.rk4()
    )
    np.testing.assert_allclose(middle.x, GAUSSIAN.carry(curve, x0, 0.1, 0.9), atol=1e-4)


@pytest.mark.parametrize("name", CURVES)
def test_no_nan_from_end_to_end(name):
    """Every path, prediction and method from 0 to 1, in value and gradient."""
    path = CURVES[name].path
    x0 = jnp.ones((2, 2))

    def ends(w, x0):
        found = {}
        for kind in KINDS:
            velocity = from_network(
                lambda w, t, x, key=None: jnp.tanh(w * x + t[:, None]),
                w,
                path=path,
                prediction=kind,
            )
            for method in METHODS if kind == "data" else ("heun", "ab2"):
                solution = fixed_step(velocity, x0, GRID, method=getattr(methods, method)())
                found[kind, method] = solution.x
        return sum(jnp.sum(x) for x in found.values()), found

    gradient, found = jax.jit(jax.grad(ends, argnums=(0, 1), has_aux=True))(jnp.ones(()), x0)
    for leaf in jax.tree.leaves((gradient, found)):
        assert jnp.all(jnp.isfinite(leaf))


GRID = np.array([0.0, 0.3, 0.8, 1.0])


@pytest.mark.parametrize(
    ("name", "kind"),
    [*(("linear", kind) for kind in KINDS), ("vp", "noise"), ("linear_vp", "velocity")],
)
def test_adaptive_passes_the_ends(name, kind):
    """From 0 to 1 with few calls, though the prediction or the path is singular there."""
    curve = CURVES[name]
    mixture = gaussian_mixture(curve.path, weights=np.ones(1), means=MEANS[:1], covariances=np.ones(1))
    read = {
        "velocity": mixture,
        "data": mixture.posterior_mean,
        "noise": mixture.noise,
        "score": mixture.score,
    }
    velocity = from_network(
        lambda p, t, x, key=None: read[kind](t, x), None, path=curve.path, prediction=kind
    )
    x0 = jnp.asarray(points(3), jnp.float32)
    solution = adaptive(velocity, x0, (0.0, 0.5, 1.0))
    assert bool(solution.success.all())
    assert np.all(solution.nfe < 400)
    sigma = 1.0 if name == "linear" else np.sqrt(curve.alpha(0) ** 2 + curve.sigma(0) ** 2)
    expected = MEANS[0] + (x0 - curve.alpha(0) * MEANS[0]) / sigma
    np.testing.assert_allclose(solution.x, expected, atol=6e-3)
    back = adaptive(velocity, solution.x, (1.0, 0.0))
    np.testing.assert_allclose(back.x, x0, atol=2e-2)


def test_last_step_is_the_posterior_mean():
    """One call, instead of a step, where the grid goes on past the velocity's interval."""
    velocity = from_network(
        lambda p, t, x, key=None: jnp.full_like(x, 3.0), None, path=paths.linear(), prediction="data"
    )
    x0 = jnp.zeros((2, 2))
    solution = fixed_step(velocity, x0, grids.uniform(4), save=True)
    np.testing.assert_allclose(solution.x, 3.0, rtol=1e-6)
    assert solution.nfe.tolist() == [2 * 3 + 1] * 2
    assert solution.xs.shape == (5, 2, 2)
    np.testing.assert_allclose(solution.xs[-1], solution.x)
    assert fixed_step(velocity, x0, grids.uniform(1)).nfe.tolist() == [1, 1]
    stop = fixed_step(velocity, x0, grids.uniform(4, 0.0, 0.9))
    np.testing.assert_allclose(stop.x, 2.7, rtol=1e-3)
    assert stop.nfe.tolist() == [8, 8]


def network(params, t, x, *, key=None):
    h = jnp.tanh(jnp.concatenate([x, t[:, None]], -1) @ params["a"])
    return h @ params["b"] * 3


PARAMS = {
    "a": np.random.default_rng(0).normal(size=(5, 32)),
    "b": np.random.default_rng(1).normal(size=(32, 4)) / 4,
}


@jax.jit
def sample(velocity, x):
    return adaptive(velocity, x)


def test_samples_do_not_depend_on_their_batch():
    """Bitwise at one shape; in float32 at another, within the solver's tolerance."""
    velocity = from_network(network, jax.tree.map(jnp.float32, PARAMS))
    x = jnp.asarray(points(16, 4), jnp.float32)
    mates = x.at[1:].set(30 * x[1:] + 1)
    a, b, alone = sample(velocity, x), sample(velocity, mates), sample(velocity, x[:1])
    np.testing.assert_array_equal(a.x[0], b.x[0])
    assert a.nfe[0] == b.nfe[0]
    assert len(set(a.nfe.tolist())) > 1
    np.testing.assert_allclose(alone.x[0], a.x[0], rtol=1e-4, atol=1e-4)


def test_samples_do_not_depend_on_the_devices(x64):
    """In float64: other batch sizes and eight devices, to 1e-10 with equal cost."""
    velocity = from_network(network, jax.tree.map(jnp.asarray, PARAMS))
    x = jnp.asarray(points(16, 4))
    whole = sample(velocity, x)
    spec = PartitionSpec("data")
    over_devices = jax.jit(
        jax.shard_map(
            adaptive,
            mesh=data_mesh(),
            in_specs=(PartitionSpec(), spec),
            out_specs=spec,
            check_vma=False,
        )
    )
    pieces = [over_devices(velocity, x), sample(velocity, x[:5]), sample(velocity, x[:1])]
    assert len(pieces[0].x.sharding.device_set) == 8
    for piece in pieces:
        n = len(piece.x)
        np.testing.assert_allclose(piece.x, whole.x[:n], atol=1e-10)
        np.testing.assert_array_equal(piece.nfe, whole.nfe[:n])


def test_new_parameters_do_not_retrace():
    traces = []

    def counted(params, t, x, *, key=None, shift):
        traces.append(None)
        return params * x + shift[:, None]

    @jax.jit
    def run(velocity, x, cond):
        return fixed_step(velocity, x, grids.uniform(3), cond=cond)

    for w in (1.0, 2.0):
        run(from_network(counted, jnp.float32(w)), jnp.ones((2, 2)), {"shift": jnp.ones(2)})
        first = len(traces) if w == 1.0 else first
    assert len(traces) == first


GRIDS = {
    "uniform": {},
    "shifted": {"shift": 3.0},
    "cosine": {},
    "karras": {},
}


@pytest.mark.parametrize("name", GRIDS)
def test_grids(name):
    """From 0 to 1 in `n` growing steps, and a sampler takes them."""
    make = getattr(grids, name)
    for n in (3, 10):
        grid = make(n, **GRIDS[name])
        assert grid.shape == (n + 1,)
        assert grid.dtype == np.float64
        assert grid[0] == 0
        assert grid[-1] == 1
        assert np.all(np.diff(grid) > 0)
    if name != "karras":
        part = make(5, **GRIDS[name], start=0.2, stop=0.7)
        np.testing.assert_allclose(part, 0.2 + 0.5 * make(5, **GRIDS[name]))
        back = make(5, **GRIDS[name], start=1.0, stop=0.0)
        np.testing.assert_allclose(back, 1 - make(5, **GRIDS[name]), atol=1e-15)
    velocity = gaussian_mixture(
        paths.linear(), weights=np.ones(1), means=MEANS[:1], covariances=COVARIANCES[:1]
    )
    solution = fixed_step(velocity, jnp.asarray(points(2), jnp.float32), make(10, **GRIDS[name]))
    assert bool(solution.success.all())


def test_grids_are_those_of_the_papers(x64):
    """The shift acts on the noise time; Karras' steps are equal in the root of the ratio."""
    u = 1 - np.linspace(0, 1, 6)
    np.testing.assert_allclose(1 - grids.shifted(5, 3.0), 3 * u / (1 + 2 * u), atol=1e-15)
    for path in (paths.linear(), paths.cosine(), paths.vp()):
        inner = jnp.asarray(grids.karras(8, rho=7.0, path=path)[1:-1])
        ratio = path.schedule.sigma(inner) / path.schedule.alpha(inner)
        np.testing.assert_allclose(np.diff(ratio ** (1 / 7), 2), 0.0, atol=1e-6)
        np.testing.assert_allclose(ratio[jnp.array([0, -1])], [80.0, 0.002], rtol=1e-3)


DATA = from_network(lambda p, t, x, key=None: x, None, path=paths.linear(), prediction="data")
HIGH = gaussian_mixture(paths.linear_vp(), weights=np.ones(1), means=MEANS[:1], covariances=np.ones(1))


@pytest.mark.parametrize("sampler", [fixed_step, adaptive])
@pytest.mark.parametrize(
    ("velocity", "grid", "cond", "received"),
    [
        (falling, (0.0, 0.0), {}, r"\(0.0, 0.0\)"),
        (falling, (0.0, 0.6, 0.5), {}, "0.6"),
        (falling, (0.0,), {}, "two times"),
        (falling, (-0.1, 1.0), {}, "-0.1"),
        (falling, (1.2, 0.0), {}, "1.2"),
        (falling, (0.0, np.nan), {}, "nan"),
        (DATA, (0.0, 0.99995, 1.0), {}, "0.99995"),
        (falling, (0.0, 1.0), {"label": jnp.ones(3)}, "'label'"),
    ],
)
def test_errors_name_what_they_got(sampler, velocity, grid, cond, received):
    with pytest.raises(ValueError, match=received):
        sampler(velocity, jnp.ones((2, 2)), grid, cond=cond)


def test_other_errors():
    with pytest.raises(ValueError, match="Kvaerno5"):
        adaptive(falling, jnp.ones((2, 2)), solver=diffrax.Kvaerno5())
    with pytest.raises(ValueError, match="numpy"):
        jax.jit(lambda grid: fixed_step(DATA, jnp.ones((2, 2)), grid))(jnp.linspace(0, 1, 3))
    mixed = np.array([[0.0, 0.0], [0.5, 0.5], [1.0, 0.9]])
    with pytest.raises(ValueError, match="0.9"):
        fixed_step(DATA, jnp.ones((2, 2)), mixed)
    for call, received in [
        (lambda: grids.uniform(0), "n=0"),
        (lambda: grids.shifted(3, 0.0), "0.0"),
        (lambda: grids.karras(2), "2"),
        (lambda: grids.karras(5, sigma_min=3.0, sigma_max=2.0), "3.0, 2.0"),
    ]:
        with pytest.raises(ValueError, match=received):
            call()

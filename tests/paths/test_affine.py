"""Affine paths: their points, velocities and scores, and what happens at their ends."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import paths
from jaxflow.paths import schedules
from tests.problems import CURVES, points


def _half(t):
    return t / 2


def _one(t):
    return jnp.ones_like(t)


TABLE = {
    "linear": [{}, {"sigma_min": 0.1}],
    "cosine": [{}],
    "polynomial": [{"n": 1}, {"n": 1.0}, {"n": 1.5}, {"n": 3}],
    "vp": [{}, {"beta_min": 0.2, "beta_max": 10.0}],
    "linear_vp": [{}],
    "inverse_cosine": [{}],
    "ve": [{}, {"sigma_min": 0.1, "sigma_max": 20.0}],
    "edm": [{}, {"sigma_min": 0.0, "rho": 1.0}, {"sigma_min": 0.0, "sigma_max": 10.0, "rho": 2.5}],
    "shifted": [
        {"path": paths.linear(), "shift": 3.0},
        {"path": paths.linear_vp(), "shift": 0.25},
        {"path": paths.discrete([0.25, 0.5, 0.75]), "shift": 3.0},
    ],
    "discrete": [{"betas": [0.25, 0.5, 0.75]}],
    "monotone": [{"log_snr": [-9.0, -1.0, 0.5, 8.0]}],
    "fitted": [
        {"path": paths.linear(), "x1": points(5, 3)},
        {"path": paths.vp(), "x1": points(3, 8), "knots": 8},
        {"path": paths.shifted(paths.linear_vp(), 3.0), "x1": points(5, 1), "floor": 0.01},
    ],
    "affine": [{"schedule": schedules.Custom(_half, _one)}],
    "product": [],  # of paths: tests/paths/test_product.py
    "interpolant": [],  # not affine: tests/paths/test_interpolant.py
    "bridge": [],
    "mixture": [],  # of tokens: tests/losses/test_tokens.py, tests/sampling/test_jumps.py
    "metric": [],
    "gidd": [],
    "edits": [],  # tests/paths/test_edits.py
    "duo": [],  # tests/paths/test_duo.py
    "dirichlet": [],  # tests/paths/test_dirichlet.py
    "fisher": [],  # tests/paths/test_fisher.py
}
OF_A_PATH = {"drift", "levels", "log_snr", "squared_diffusion", "start", "time_of_log_snr"}
ALL = [
    pytest.param(getattr(paths, name)(**kwargs), id=f"{name}-{i}")
    for name, cases in TABLE.items()
    for i, kwargs in enumerate(cases)
]


def test_every_factory_is_in_the_table():
    public = {n for n in paths.__all__ if inspect.isfunction(getattr(paths, n))}
    assert public == set(TABLE) | OF_A_PATH


@jax.jit
def _sample(path, t, x0, x1):
    return path(t, x0, x1, path.latent(jax.random.key(0), x0))


@pytest.mark.parametrize("path", ALL)
def test_contract(path):
    """Shapes, dtypes, vmap and the pytree: a path without arrays is one static, hashable value."""
    x0, x1 = np.ones((3, 4, 2), np.float32), np.zeros((3, 4, 2), np.float32)
    t = np.linspace(0, 1, 3, dtype=np.float32)
    s = _sample(path, t, x0, x1)
    for value in (s.x, s.u, s.score, s.x0, s.x1):
        assert value.shape == (3, 4, 2)
        assert value.dtype == jnp.float32
    half = jax.eval_shape(path, t, x0.astype(jnp.bfloat16), x1.astype(jnp.bfloat16))
    assert half.x.dtype == half.u.dtype == half.score.dtype == jnp.bfloat16
    assert half.t.dtype == jnp.float32
    one = jax.vmap(lambda t, a, b: path(t[None], a[None], b[None]).x[0])
    np.testing.assert_allclose(jax.jit(one)(t, x0, x1), s.x, atol=1e-6)
    leaves, tree = jax.tree.flatten(path)
    assert jax.tree.unflatten(tree, leaves) == path
    if not leaves:
        assert hash(path) == hash(jax.tree.unflatten(tree, leaves))
    assert type(getattr(path.schedule, "schedule", path.schedule)).__name__ in repr(path)


@pytest.mark.parametrize("name", CURVES)
def test_point_velocity_and_score(name, x64):
    """The point is the blend, the velocity its derivative, the score that of the conditional."""
    curve = CURVES[name]
    t = np.array([0.05, 0.3, 0.5, 0.8, 0.95])
    x0, x1 = points(5, 3, seed=1), points(5, 3, seed=2)
    s = _sample(curve.path, t, x0, x1)
    alpha, sigma, alpha_dot, sigma_dot = (np.array([f(s) for s in t])[:, None] for f in curve[1:])
    np.testing.assert_allclose(s.x, alpha * x1 + sigma * x0, atol=1e-12)
    np.testing.assert_allclose(s.u, alpha_dot * x1 + sigma_dot * x0, atol=1e-10)
    np.testing.assert_allclose(s.score, -(s.x - alpha * x1) / sigma**2, rtol=1e-8)
    assert s.u.dtype == jnp.float64
    moved = jax.jit(lambda t: jax.jvp(lambda t: curve.path(t, x0, x1).x, (t,), (jnp.ones(5),))[1])
    np.testing.assert_allclose(s.u, moved(t), atol=1e-12)


@pytest.mark.parametrize("name", CURVES)
def test_ends_are_exact(name, x64):
    """At t = 0 and 1 the point is what the schedule says, though its slope may be infinite."""
    curve = CURVES[name]
    x0, x1 = points(2, seed=1), points(2, seed=2)
    x = _sample(curve.path, np.array([0.0, 1.0]), x0, x1).x
    for i, t in enumerate((0.0, 1.0)):
        expected = curve.alpha(t) * x1[i] + curve.sigma(t) * x0[i]
        np.testing.assert_allclose(x[i], expected, atol=1e-15)


@jax.jit
def _values_and_slopes(path, t, x0, x1):
    def total(t, x0, x1):
        s = path(t, x0, x1)
        values = {"x": s.x, "u": s.u, "score": s.score}
        return jax.tree.map(jnp.sum, values), values

    return jax.jacrev(total, argnums=(0, 1, 2), has_aux=True)(t, x0, x1)


@pytest.mark.parametrize("path", ALL)
@pytest.mark.parametrize("dtype", [jnp.float32, pytest.param(jnp.float64, marks=pytest.mark.slow)])
def test_no_nan_at_the_ends(path, dtype):
    """In values and in their slopes; a second derivative may be infinite, never NaN."""
    with jax.enable_x64(dtype == jnp.float64):
        x0, x1 = np.ones((2, 2), dtype), np.full((2, 2), 2.0, dtype)
        slopes, values = _values_and_slopes(path, np.array([0.0, 1.0], dtype), x0, x1)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(values))
    assert not any(np.any(np.isnan(leaf)) for leaf in jax.tree.leaves(slopes))


@pytest.mark.parametrize("path", ALL)
def test_interval_is_where_slopes_are_finite(path, x64):
    low, high = path.schedule.interval
    assert 0 <= low < high <= 1
    slopes, alpha, sigma = jax.tree.map(np.asarray, _coefficients(path, np.array([low, high])))
    assert all(np.all(np.isfinite(c)) for c in slopes)
    assert np.all((alpha >= 0) & (sigma >= 0))
    assert np.all(np.diff(alpha / (alpha + sigma)) > 0)


@jax.jit
def _coefficients(path, t):
    schedule = path.schedule
    return schedules.coefficients(schedule, t), schedule.alpha(t), schedule.sigma(t)


def test_one_time_a_token():
    """A time of shape [batch, length] moves every token by its own time."""
    t = np.array([[0.0, 0.5, 1.0], [0.25, 0.5, 0.75]], np.float32)
    s = _sample(paths.linear(), t, jnp.zeros((2, 3, 4)), jnp.ones((2, 3, 4)))
    np.testing.assert_allclose(s.x, np.repeat(t[..., None], 4, -1))


def test_one_trace_for_equal_paths():
    traces = []

    @jax.jit
    def point(path, t, x0, x1):
        traces.append(path)
        return path(t, x0, x1).x

    x = jnp.ones((2, 2))
    for _ in range(2):
        point(paths.vp(), jnp.ones(2), x, x)
    point(paths.vp(0.2), jnp.ones(2), x, x)
    assert len(traces) == 2


@pytest.mark.parametrize("name", CURVES)
def test_signal_is_inverted(name, x64):
    """`time_of_signal` undoes `signal`, with its derivative, and saturates outside its range."""
    schedule, t = CURVES[name].path.schedule, np.linspace(0.05, 0.95, 7)
    again, slope, outside = _inverted(schedule, t)
    np.testing.assert_allclose(again, t, atol=1e-12)
    np.testing.assert_allclose(slope, 1.0, atol=1e-8)
    np.testing.assert_allclose(outside, schedule.interval, atol=1e-9)


@jax.jit
def _inverted(schedule, t):
    """The times of their own signals with the slope of that, and those of signals outside."""

    def time_of(r):
        return schedules.time_of_signal(schedule, r)

    r, _, r_dot, _ = schedules.signal(schedule, t)
    return *jax.jvp(time_of, (r,), (r_dot,)), time_of(jnp.array([-1.0, 2.0]))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "received"),
    [
        (lambda: paths.linear(1.0), r"^linear needs 0 <= sigma_min < 1; got 1\.0$"),
        (lambda: paths.linear(-0.1), r"^linear needs 0 <= sigma_min < 1; got -0\.1$"),
        (lambda: paths.polynomial(0.5), r"^polynomial needs n >= 1 .*; got 0\.5$"),
        (lambda: paths.ve(2.0, 1.0), r"^ve needs 0 < sigma_min < sigma_max; got 2\.0, 1\.0$"),
        (lambda: paths.edm(rho=-1.0), r"^edm needs 0 <= sigma_min < .*; got 0\.002, 80\.0, rho=-1"),
        (
            lambda: paths.edm(0.0, rho=0.5),
            r"or rho >= 1 where sigma_min is 0; got 0\.0, 80\.0, rho=0",
        ),
        (lambda: paths.shifted(paths.vp(), 0.0), r"^shifted needs shift > 0; got 0\.0$"),
        (lambda: paths.shifted(len, 2.0), "^an affine path is needed, with a schedule"),
        (lambda: paths.discrete([0.5]), r"^discrete needs betas .*; got shape \(1,\)$"),
        (lambda: paths.discrete([0.5, 1.0]), r"inside \(0, 1\); that of step 1 is 1\.0$"),
        (lambda: paths.monotone([1.0, 0.0]), r"strictly increase; got \[1\.0, 0\.0\]$"),
        (lambda: paths.vp(0.0, 1.0), r"^vp needs 0 < beta_min <= beta_max; got 0\.0, 1\.0$"),
        (lambda: paths.vp(2.0, 1.0), r"^vp needs 0 < beta_min <= beta_max; got 2\.0, 1\.0$"),
        (
            lambda: paths.linear()(jnp.ones(2), jnp.ones((2, 3)), jnp.ones((2, 2))),
            r"^x0 has shape \(2, 3\) but x1 \(2, 2\): a path joins equals$",
        ),
        (
            lambda: paths.linear()(jnp.array(0.5), jnp.ones((2, 3)), jnp.ones((2, 3))),
            r"^t has shape \(\) and x \(2, 3\): t needs one time an example",
        ),
        (
            lambda: paths.linear()(jnp.ones(3), jnp.ones((2, 3)), jnp.ones((2, 3))),
            r"^t has shape \(3,\) and x \(2, 3\): t needs one time an example",
        ),
        (
            lambda: paths.linear()(jnp.ones(2), jnp.ones((2, 3)), jnp.ones((2, 3), jnp.uint8)),
            "^x0 is float32 and x1 uint8, but an affine path blends real numbers: ",
        ),
    ],
)
def test_errors_name_what_they_got(call, received):
    with pytest.raises(ValueError, match=received):
        call()


@pytest.mark.parametrize("interval", [(0.7, 0.9), (0.1, 0.6), (1 / 3, 0.99999), (0.0, 1.0)])
def test_an_interval_is_rounded_inwards(interval):
    """In float32 too no time beyond it is met, and next to none inside is lost."""
    found = paths.affine(schedules.Custom(_half, _one, interval)).schedule.interval
    for (given, kept), sign in zip(zip(interval, found, strict=True), (1, -1), strict=True):
        assert 0 <= sign * (float(np.float32(kept)) - given) < 1e-7


def test_schedule_that_lacks_a_part():
    with pytest.raises(
        TypeError,
        match=r"^affine needs a schedule with alpha, sigma and interval; .* lacks alpha, sigma, in",
    ):
        paths.affine(object())

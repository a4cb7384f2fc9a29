"""Paths fitted to second moments: their speed, energy and length against closed forms."""

from math import sqrt

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

from jaxflow import paths, sampling
from jaxflow.paths import schedules
from jaxflow.velocities import change_path, gaussian_mixture
from tests.problems import CURVES, GAUSSIAN, points, some_fast

INSIDE = np.linspace(0.003, 0.997, 399)
BASES = ["linear", "polynomial(2)", "cosine", "vp", "linear_vp", "inverse_cosine"]
VARIANCES, MEAN = np.array([4.0, 0.9, 0.3, 0.01]), np.array([0.5, 0.0, -0.2, 0.1])


def rows(mean, variances):
    """Data with these moments exactly: two points along each axis."""
    offsets = np.diag(np.sqrt(len(variances) * np.asarray(variances)))
    return np.concatenate([mean + offsets, mean - offsets])


def energy_rate(curve, s, mean, variances):
    """`E |v|^2` a coordinate, by the slopes of the table of problems."""
    a, b, a_dot, b_dot = (f(s) for f in curve[1:])
    rho = np.sqrt(a**2 * variances + b**2)
    return np.mean(((a * a_dot * variances + b * b_dot) / rho) ** 2 + (a_dot * mean) ** 2)


def speeds(path, mean, variance, t):
    """The root of `E |v|^2` of a Gaussian's exact flow, by its values, since it is linear in x."""
    flow = gaussian_mixture(
        path, weights=np.ones(1), means=np.array([[mean]]), covariances=np.array([variance])
    )

    @jax.jit
    def both(flow, t):
        alpha, sigma = flow.path.schedule.alpha(t), flow.path.schedule.sigma(t)
        centre, spread = alpha * mean, jnp.sqrt(alpha**2 * variance + sigma**2)
        return flow(t, centre[:, None]), flow(t, (centre + spread)[:, None])

    middle, off = both(flow, jnp.asarray(t))
    return np.sqrt(middle**2 + (off - middle) ** 2)[:, 0]


@jax.jit
def shares(schedule, t):
    return schedules.coefficients(schedule, t)


@jax.jit
def values(schedule, t):
    return schedule.alpha(t), schedule.sigma(t)


@pytest.mark.parametrize(
    ("mean", "deviation"), [(0.7, 0.5), pytest.param(-1.0, 2.0, marks=pytest.mark.slow)]
)
def test_the_speed_of_a_gaussian_is_constant(mean, deviation, x64):
    """And is the length of its curve; what is left falls as the cube of the knots' distance.

    A floor of 1e-4 takes less than 1e-7 of speeds as large as these.
    """
    x1 = np.array([[mean - deviation], [mean + deviation]])
    length, _ = quad(
        lambda s: sqrt(energy_rate(CURVES["linear"], s, mean, deviation**2)), 0, 1, epsabs=1e-12
    )
    worst = []
    for knots in (16, 32, 64):
        path = paths.fitted(paths.linear(), x1, floor=1e-4, knots=knots)
        worst.append(np.abs(speeds(path, mean, deviation**2, INSIDE) / length - 1).max())
    before = speeds(paths.linear(), mean, deviation**2, INSIDE) / length
    assert worst[0] < 0.1 * np.abs(before - 1).max()
    assert worst[0] > 6 * worst[1] > 36 * worst[2]
    assert worst[2] < 1e-4


@pytest.mark.parametrize("variance", [0.25, 9.0])
def test_a_curve_that_turns(variance, x64):
    """A deviation that falls to `sqrt(v / (1 + v))` and rises: the length is its variation.

    The floor moves a time by at most `floor / length`, since it adds as much to the speed at most;
    and `speed^2 + (floor s')^2` is constant, s being the data's share of a linear path, up to what
    falls as the square of the knots' distance at least (the turn at 9 is sharp).
    """
    floor, least = 1e-3, sqrt(variance / (1 + variance))
    length = (1 - least) + (sqrt(variance) - least)
    path = paths.fitted(
        paths.linear(), np.array([[-1.0], [1.0]]) * sqrt(variance), floor=floor, knots=1024
    )
    alpha, sigma, slope, _ = shares(path.schedule, jnp.asarray(INSIDE))
    rho = np.sqrt(variance * alpha**2 + sigma**2)
    walked = np.where(alpha < 1 / (1 + variance), 1 - rho, 1 + rho - 2 * least)
    assert np.abs(walked / length - INSIDE).max() < floor / length
    assert np.max(slope) < (length + floor) / floor
    x1, worst = np.array([[-1.0], [1.0]]) * sqrt(variance), []
    for knots in (64, 256):
        path = paths.fitted(paths.linear(), x1, floor=0.2, knots=knots)
        slope = shares(path.schedule, jnp.asarray(INSIDE))[2]
        total = np.sqrt(speeds(path, 0.0, variance, INSIDE) ** 2 + (0.2 * slope) ** 2)
        worst.append(np.abs(total / total.mean() - 1).max())
        assert length < total.mean() < length + 0.2
    assert worst[0] < 0.05
    assert worst[1] < worst[0] / 16


@pytest.mark.parametrize("name", some_fast(BASES[:-1]))  # that of the last is infinite
def test_energy(name, x64):
    """Never above that of the path as it was; at least the squared length, and near it."""
    curve = CURVES[name]

    def integral(f):
        return quad(f, *curve.path.schedule.interval, points=[0.05, 0.95], limit=200)[0]

    before = integral(lambda s: energy_rate(curve, s, MEAN, VARIANCES))
    length = integral(lambda s: sqrt(energy_rate(curve, s, MEAN, VARIANCES)))
    edges = np.linspace(0, 1, 4001)
    found = []
    for floor in (1.0, 0.1, 0.01):
        schedule = paths.fitted(curve.path, rows(MEAN, VARIANCES), floor=floor, knots=512).schedule
        alpha, sigma = values(schedule, jnp.asarray(edges))
        rho = np.sqrt(np.asarray(alpha)[:, None] ** 2 * VARIANCES + np.asarray(sigma)[:, None] ** 2)
        moved = np.diff(rho, axis=0) ** 2 + np.diff(alpha)[:, None] ** 2 * MEAN**2
        found.append(moved.mean(axis=1).sum() * 4000)
        assert found[-1] <= length * integral(
            lambda s, f=floor: sqrt(energy_rate(curve, s, MEAN, VARIANCES) + f**2)
        ) * (1 + 1e-3)
    assert before > found[0] > found[1] > found[2] > length**2 * (1 - 1e-3)
    assert found[2] < 1.01 * length**2


def test_a_gaussian_moves_least(x64):
    """The flow of data with the same moments and another shape has no less energy at any time."""
    t = np.array([0.1, 0.4, 0.6, 0.9])
    flow = gaussian_mixture(
        paths.linear(), weights=np.full(2, 0.5), means=np.array([[-0.9], [0.9]]),
        covariances=np.full(2, 0.19),
    )  # fmt: skip
    x = jnp.linspace(-8, 8, 4001)[:, None]

    @jax.jit
    def rate_at(time):
        at = jnp.full(4001, time)
        return jnp.sum(jnp.exp(flow.log_prob(at, x)) * flow(at, x)[:, 0] ** 2) * 16 / 4000

    for time in t:
        assert rate_at(time) > energy_rate(CURVES["linear"], time, 0.0, 1.0)


def test_nothing_changes_where_the_flow_is_even(x64):
    """Data that are a point at 0 on the linear path, unit variances on great circles, and twice."""
    t = INSIDE
    even = paths.fitted(paths.linear(), np.zeros((3, 2)))
    np.testing.assert_allclose(values(even.schedule, t)[0], t, atol=1e-12)
    still = paths.fitted(paths.cosine(), rows(np.zeros(2), np.ones(2)))
    np.testing.assert_allclose(values(still.schedule, t)[0], np.sin(np.pi / 2 * t), atol=1e-12)
    once = paths.fitted(paths.linear(), rows(MEAN, VARIANCES), floor=1e-3)
    twice = paths.fitted(once, rows(MEAN, VARIANCES), floor=1e-3)
    alphas = [values(path.schedule, t)[0] for path in (twice, once)]
    np.testing.assert_allclose(*alphas, atol=1e-5)


def test_moments_of_any_shape(x64):
    """Of events of any rank, more numbers than rows or fewer, turned, and from a device."""
    x1 = points(6, 24)
    expected = jax.tree.leaves(paths.fitted(paths.cosine(), x1))
    turn = np.linalg.qr(points(24, 24, seed=3))[0]
    for same in (
        x1.reshape(6, 4, 3, 2),
        np.concatenate([x1] * 5),
        x1 @ turn,
        jnp.asarray(x1),
    ):
        for a, b in zip(jax.tree.leaves(paths.fitted(paths.cosine(), same)), expected, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-9)
    numbers = paths.fitted(paths.linear(), np.array([0, 2, 5]))
    assert numbers == paths.fitted(paths.linear(), np.array([[0.0], [2.0], [5.0]]))


@pytest.mark.parametrize("name", some_fast(BASES))
def test_slopes_are_derivatives(name, x64):
    """Of the values, by differences, at a knot from either side; the curve is the path's own."""
    curve = CURVES[name]
    path = paths.fitted(curve.path, rows(MEAN, VARIANCES), knots=6)
    schedule, own = path.schedule, path.schedule.schedule
    t = np.concatenate([np.linspace(0.02, 0.98, 41), np.asarray(own.t)[1:-1]])
    alpha, sigma, *slopes = map(np.asarray, shares(schedule, t))
    at = {h: np.asarray(values(schedule, t + h)) for h in (0.0, 1e-6, -1e-6)}
    for i, slope in enumerate(slopes):
        for h in (1e-6, -1e-6):
            np.testing.assert_allclose((at[h] - at[0.0])[i] / h, slope, atol=2e-3, rtol=2e-3)
        inside = slice(0, 41)
        centred = (at[1e-6] - at[-1e-6])[i, inside] / 2e-6
        np.testing.assert_allclose(centred, slope[inside], atol=1e-7, rtol=1e-7)
    s = jax.jit(lambda t: paths.time_of_log_snr(curve.path, paths.log_snr(path, t)))(t)
    for found, expected in ((alpha, curve.alpha), (sigma, curve.sigma)):
        np.testing.assert_allclose(found, [expected(float(a)) for a in s], rtol=1e-6)
    ends = np.array([0.0, 1.0])
    both = values(schedule, ends), values(curve.path.schedule, ends)
    np.testing.assert_array_equal(*both)


def gaussian(path):
    return gaussian_mixture(
        path,
        weights=np.ones(1),
        means=GAUSSIAN.mean[None],
        covariances=GAUSSIAN.covariance[None],
    )


@pytest.mark.parametrize("name", ["linear", pytest.param("vp", marks=pytest.mark.slow)])
def test_a_flow_on_a_fitted_path(name, x64):
    """Carried there or back it is the exact one."""
    own = CURVES[name].path
    path = paths.fitted(own, 0.7 * points(9))
    x, t = jnp.asarray(points(7)), jnp.linspace(0.05, 0.95, 7)
    flows = [
        change_path(gaussian(own), own, path), gaussian(path),
        change_path(gaussian(path), path, own), gaussian(own),
    ]  # fmt: skip
    there, expected, back, before = jax.jit(lambda flows: [flow(t, x) for flow in flows])(flows)
    np.testing.assert_allclose(there, expected, rtol=1e-8)
    np.testing.assert_allclose(back, before, rtol=1e-8)


def test_samples_are_those_of_the_path_as_it_was(x64):
    """At a method's order, of a flow that was learned on another path than the fitted one."""
    path, x0 = paths.fitted(paths.cosine(), GAUSSIAN.mean + 0.7 * points(9)), points(7)
    flow = change_path(gaussian(paths.linear()), paths.linear(), path)
    expected, errors = GAUSSIAN.carry(CURVES["linear"], x0, 0.0, 1.0), []
    for steps in (32, 64):
        end = sampling.fixed_step(
            flow, jnp.asarray(x0), np.linspace(0, 1, steps + 1), method=sampling.heun()
        ).x
        errors.append(np.abs(end - expected).max())
    assert errors[1] < 1e-3
    assert errors[0] > 3 * errors[1]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda x: paths.fitted(len, x), "^an affine path is needed, with a schedule"),
        (lambda x: paths.fitted(paths.bridge(1.0), x), "^an affine path is needed, with a sched"),
        (lambda x: paths.fitted(paths.linear(), x[:1]), r"two or more rows .*; got \(1, 2\)$"),
        (lambda x: paths.fitted(paths.linear(), x[0, 0]), r"two or more rows .*; got \(\)$"),
        (lambda x: paths.fitted(paths.linear(), x[:, :0]), r"two or more rows .*; got \(4, 0\)$"),
        (
            lambda x: paths.fitted(paths.linear(), np.where(np.eye(4, 2), np.nan, x)[::-1]),
            "^row 2 of the data is not finite",
        ),
        (lambda x: paths.fitted(paths.linear(), x, floor=0.0), "needs floor > 0, .*; got 0.0$"),
        (lambda x: paths.fitted(paths.linear(), x, floor=np.nan), "needs floor > 0, .*; got nan$"),
        (lambda x: paths.fitted(paths.linear(), x, knots=1), "two or more knots; got 1$"),
        (
            lambda x: jax.jit(lambda x: paths.fitted(paths.linear(), x))(x),
            "build the path outside of jit",
        ),
        (lambda x: paths.fitted(paths.ve(0.01, 1e9), x), "^with floor=0.5 the times of some knots"),
    ],
)
def test_errors_name_what_they_got(call, told):
    with pytest.raises(ValueError, match=told):
        call(points(4))

"""The diffusion of a path: its rates solve the equations of the forward process."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

from jaxflow import losses, paths, sources
from jaxflow.paths import schedules
from jaxflow.paths.ends import nonzero_interval, schedule_of
from jaxflow.paths.start import start_log_prob
from jaxflow.velocities import gaussian_mixture
from tests.problems import COVARIANCES, CURVES, MEANS, WEIGHTS, points

T = np.array([0.05, 0.3, 0.5, 0.8, 0.95])
ARRAYS = {
    "discrete": paths.discrete(np.linspace(0.01, 0.4, 20)),
    "monotone": paths.monotone([-9.0, -1.0, 0.5, 8.0]),
    "shifted discrete": paths.shifted(paths.discrete(np.linspace(0.01, 0.4, 20)), 2.0),
    "custom": paths.affine(lambda t: (t**2, 1 - t)),
    "fitted": paths.fitted(paths.linear(), points(5), knots=4),
}
ALL = {name: curve.path for name, curve in CURVES.items()} | ARRAYS


log_snr = jax.jit(paths.log_snr)


@jax.jit
def rates(path, t):
    return paths.drift(path, t), paths.squared_diffusion(path, t), paths.log_snr(path, t)


@pytest.mark.parametrize("name", CURVES)
def test_rates_by_hand(name, x64):
    """`f = d log alpha / dt`, `g^2 = 2 f sigma^2 - d sigma^2 / dt`, from the table's own slopes."""
    curve = CURVES[name]
    a, s, a_dot, s_dot = (np.array([f(t) for t in T]) for f in curve[1:])
    f, g2, snr = rates(curve.path, jnp.asarray(T))
    np.testing.assert_allclose(f, a_dot / a, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(g2, 2 * a_dot / a * s**2 - 2 * s * s_dot, rtol=1e-9)
    np.testing.assert_allclose(snr, np.log(a**2 / s**2), atol=1e-11)
    assert np.all(g2 > 0)


KNOWN = {
    "linear": (lambda t: 1 / t, lambda t: 2 * (1 - t) / t),
    "vp": (lambda t: (20 - 19.9 * t) / 2, lambda t: 20 - 19.9 * t),
    "ve": (lambda t: 0 * t, lambda t: 2 * np.log(400) * (20 * 400**-t) ** 2),
}


@pytest.mark.parametrize("name", KNOWN)
def test_rates_of_the_papers(name, x64):
    """Song et al.: for vp `beta / 2` and `beta` at the mirrored time, for ve `d sigma^2`."""
    f, g2, _ = rates(ALL[name], jnp.asarray(T))
    for got, expected in zip((f, g2), KNOWN[name], strict=True):
        np.testing.assert_allclose(got, expected(T), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_the_forward_process_makes_the_path(name, x64):
    """Mean and variance of (1), integrated from data to noise by Runge-Kutta, are the schedule's.

    From inside a piece of those that have pieces, whose rates or their slopes jump between.
    """
    path = ALL[name]
    pieces = {
        "discrete": (0.801, 0.849),
        "shifted discrete": (0.834, 0.849),
        "fitted": (0.501, 0.727),
    }
    first, last = pieces.get(name, (0.36, 0.63))

    @jax.jit
    def solve(path):
        def slope(t, y):
            f, g2 = paths.drift(path, t), paths.squared_diffusion(path, t)
            return jnp.stack([f * y[0], 2 * f * y[1] - g2])

        def step(y, t):
            h = (first - last) / 200
            a = slope(t, y)
            b = slope(t + h / 2, y + h / 2 * a)
            c = slope(t + h / 2, y + h / 2 * b)
            d = slope(t + h, y + h * c)
            return y + h / 6 * (a + 2 * b + 2 * c + d), None

        ends = jnp.array([last, first])
        alpha, sigma = path.schedule.alpha(ends), path.schedule.sigma(ends)
        grid = last + (first - last) / 200 * jnp.arange(200)
        return jax.lax.scan(step, jnp.stack([alpha[0], sigma[0] ** 2]), grid)[0], alpha, sigma

    (mean, variance), alpha, sigma = map(np.asarray, solve(path))
    np.testing.assert_allclose(mean, alpha[1], rtol=1e-9)
    np.testing.assert_allclose(variance, sigma[1] ** 2, rtol=1e-9)


@pytest.mark.parametrize("name", ["linear", "vp", "ve"])
def test_the_probability_flow(name, x64):
    """`v = f x + g^2 score / 2` is the exact velocity of a mixture."""
    path, x = ALL[name], points(5)
    exact = gaussian_mixture(path, weights=WEIGHTS, means=MEANS, covariances=COVARIANCES)
    f, g2, _ = map(np.asarray, rates(path, jnp.asarray(T)))
    velocity, score = jax.jit(lambda e, t, x: (e(t, x), e.score(t, x)))(exact, T, x)
    flow = f[:, None] * x + g2[:, None] / 2 * score
    np.testing.assert_allclose(flow, velocity, rtol=1e-9, atol=1e-9)


@jax.jit
def there_and_back(path, t):
    value = paths.log_snr(path, t)
    slope = jax.jvp(lambda v: paths.time_of_log_snr(path, v), (value,), (jnp.ones_like(t),))[1]
    rate = jax.jvp(lambda t: paths.log_snr(path, t), (t,), (jnp.ones_like(t),))[1]
    never = paths.time_of_log_snr(path, jnp.array([-1e3, 1e3]))
    return paths.time_of_log_snr(path, value), slope, rate, never


@pytest.mark.parametrize("name", ALL)
def test_log_snr_is_inverted(name, x64):
    """With its derivative; what is never reached is the nearer end."""
    path, t = ALL[name], T - 0.001
    back, slope, rate, ends = map(np.asarray, there_and_back(path, t))
    np.testing.assert_allclose(back, t, atol=1e-11)
    np.testing.assert_allclose(slope * rate, 1.0, rtol=1e-7)
    lows, highs = zip(
        *(nonzero_interval(schedule_of(path), d) for d in ("alpha", "sigma")), strict=True
    )
    np.testing.assert_allclose(ends, [max(lows), min(highs)], atol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_no_nan_at_the_ends(name):
    """Nor in the slopes, in float32."""
    path, t = ALL[name], np.array([0.0, 1.0], np.float32)

    def total(t):
        found = [*rates(path, t), paths.time_of_log_snr(path, jnp.array([-90.0, 90.0]) * (1 + t))]
        return sum(jnp.sum(a) for a in found), found

    slope, found = jax.jit(jax.grad(total, has_aux=True))(t)
    for leaf in (slope, *found):
        assert leaf.dtype == jnp.float32
        assert np.all(np.isfinite(leaf))


def test_shifts_move_the_log_snr_of_the_linear_path(x64):
    """By `-2 log k` at every time, and uniform times become the grid's shifted ones."""
    t, k = jnp.asarray(T), 3.0
    shifted, plain = (log_snr(p, t) for p in (paths.shifted(paths.linear(), k), paths.linear()))
    np.testing.assert_allclose(shifted, np.asarray(plain) - 2 * np.log(k), rtol=1e-12)
    there_again = paths.shifted(paths.shifted(paths.vp(), k), 1 / k)
    assert there_again.schedule.interval == pytest.approx((0.0, 0.99999))
    np.testing.assert_allclose(log_snr(there_again, t), log_snr(paths.vp(), t))


def test_the_inverse_cosine_is_the_inverse(x64):
    """Of the square of the cosine's share."""
    t = jnp.asarray(T)
    square = paths.inverse_cosine().schedule.alpha(t) ** 2
    np.testing.assert_allclose(paths.cosine().schedule.alpha(square) ** 2, t, rtol=1e-12)


BETAS = np.linspace(1e-4, 0.02, 1000)


def test_discrete_is_exact_at_its_steps(x64):
    """`alpha^2 = prod(1 - beta)` at `t = 1 - (k + 1) / N`, and clean data at 1."""
    schedule = paths.discrete(BETAS).schedule
    t = jnp.asarray(1 - (np.arange(1000) + 1) / 1000)
    alpha_bar = np.cumprod(1 - BETAS)
    squares = jax.jit(lambda t: (schedule.alpha(t) ** 2, schedule.sigma(t) ** 2))(t)
    np.testing.assert_allclose(squares[0], alpha_bar, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(squares[1], 1 - alpha_bar, rtol=1e-11, atol=1e-12)
    assert schedule.alpha(jnp.ones(1)) == 1.0
    assert schedule.sigma(jnp.ones(1)) == 0.0
    middle = np.log(alpha_bar / (1 - alpha_bar))
    between = log_snr(paths.discrete(BETAS), np.asarray(t)[1:] + 0.0005)
    np.testing.assert_allclose(between, (middle[1:] + middle[:-1]) / 2, atol=1e-10)


def test_slopes_where_lines_meet(x64):
    """At a knot that of the line before it or after it, and at the ends that of the last line."""
    for path, n in ((paths.discrete(BETAS), 1000), (ARRAYS["monotone"], 3)):
        last = n - 1 if n == 1000 else n
        slope = slopes_of_log_snr(path, np.arange(last + 1) / n)
        lines = np.diff(path.schedule.schedule.log_snr) * n
        near = np.stack([np.r_[lines[0], lines], np.r_[lines, lines[-1]]])
        inside = slice(None) if n == 3 else slice(0, -1)  # there the noise goes on to vanish
        distance = np.abs(near / np.asarray(slope) - 1).min(axis=0)
        np.testing.assert_allclose(distance[inside], 0.0, atol=1e-9)
    vp = slopes_of_log_snr(paths.vp(), np.zeros(1))
    np.testing.assert_allclose(vp, 20 / -np.expm1(-10.05), rtol=1e-10)


@jax.jit
def slopes_of_log_snr(path, t):
    return jax.jvp(lambda t: paths.log_snr(path, t), (t,), (jnp.ones_like(t),))[1]


def test_discrete_betas_of_a_rate_are_the_vp_path(x64):
    """Fine steps of `beta = rate / N` come to the continuous path, at order 1 / N."""
    t, errors = jnp.asarray(T), []
    for n in (500, 1000):
        rate = 0.1 + 19.9 * np.arange(1, n + 1) / n
        snr = log_snr(paths.discrete(rate / n), t)
        errors.append(np.abs(np.asarray(snr) - np.asarray(log_snr(paths.vp(), t))).max())
    assert errors[1] < 0.1
    assert abs(np.log2(errors[0] / errors[1]) - 1) < 0.2


def test_the_step_of_every_time_fits_float32():
    """The first step's time lies inside the interval, so a grid of all steps is a grid."""
    for n in (3, 1000):
        high = paths.discrete(np.full(n, 0.01)).schedule.interval[1]
        assert np.float32(1 - 1 / n) <= high < 1 - 1 / n + 1e-6


@pytest.mark.parametrize("name", ["discrete", "monotone", "fitted"])
def test_knots_are_leaves_with_right_gradients(name, x64):
    """Of a number of a sample of the path, against differences."""
    path, t = ARRAYS[name], jnp.asarray(T)
    x0, x1 = (jnp.asarray(points(5, seed=i)) for i in (1, 2))

    @jax.jit
    @jax.value_and_grad
    def number(path):
        s = path(t, x0, x1)
        return jnp.sum(jnp.sin(s.x) + 0.1 * jnp.cos(s.u)) + jnp.sum(paths.log_snr(path, t) ** 2)

    leaves, tree = jax.tree.flatten(path)
    leaves = [np.asarray(leaf, np.float64) for leaf in leaves]
    gradient = number(tree.unflatten(leaves))[1]
    for key in range(3):
        keys = jax.random.split(jax.random.key(key), len(leaves))
        direction = [
            np.asarray(jax.random.normal(k, a.shape)) for k, a in zip(keys, leaves, strict=True)
        ]

        def moved(h, direction=direction):
            return tree.unflatten([a + h * d for a, d in zip(leaves, direction, strict=True)])

        difference = (number(moved(1e-5))[0] - number(moved(-1e-5))[0]) / 2e-5
        along = sum(
            np.vdot(g, d) for g, d in zip(jax.tree.leaves(gradient), direction, strict=True)
        )
        np.testing.assert_allclose(along, difference, rtol=1e-6)


@pytest.mark.parametrize(
    ("path", "size"),
    [
        (paths.linear(), 1.0),
        (paths.vp(), CURVES["vp"].sigma(0.0)),
        (paths.ve(0.1, 20.0), 20.0),
        (paths.edm(), 80.0),
        (paths.inverse_cosine(), CURVES["inverse_cosine"].sigma(1e-5)),
        (None, 1.0),
    ],
    ids=str,
)
def test_start_is_noise_of_the_path(path, size, x64):
    """The path's own point without data, and the density of that."""
    x0, source = jnp.asarray(points(4, 3)), sources.normal()
    x, log_prob, of_source = started(path, source, x0)
    np.testing.assert_allclose(x, size * x0, rtol=1e-9)
    np.testing.assert_allclose(log_prob, of_source - 3 * np.log(size), rtol=1e-9)
    if path is not None:
        t = np.full(4, path.schedule.interval[0])
        point = jax.jit(lambda x0: path(t, x0, 0 * x0).x)
        np.testing.assert_allclose(point(x0), x, rtol=1e-12)
    half = paths.start(path, x0.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16


@jax.jit
def started(path, source, x0):
    """The start, its log-density, and that of the source's own sample."""
    x = paths.start(path, x0)
    return x, start_log_prob(path, source, x), source.log_prob(x0)


def test_start_of_parts(x64):
    """Each in its own size; whole numbers, and parts whose paths have no schedule, as they are."""
    path = paths.product({"image": paths.ve(0.1, 20.0), "text": paths.linear(), "ids": paths.vp()})
    x0 = {
        "text": jnp.ones((2, 3)),
        "image": jnp.full((2, 2, 2), 0.5),
        "ids": jnp.ones((2, 3), jnp.int32),
    }
    box = sources.product(
        {"image": sources.normal(), "text": sources.uniform(0.0, 2.0), "ids": sources.mask(1)}
    )
    x, log_prob, of_source = started(path, box, x0)
    np.testing.assert_allclose(x["image"], 10.0)
    np.testing.assert_array_equal(x["text"], x0["text"])
    np.testing.assert_array_equal(x["ids"], x0["ids"])
    np.testing.assert_allclose(log_prob, of_source - 4 * np.log(20.0))


def test_a_schedule_is_learned_through_the_parameters_of_a_loss(x64):
    """Of no velocity at all the loss is the kinetic energy, least at an even speed of the angle.

    Which pieces come as near to as they can: their energy is minimised by SciPy here, by hand.
    """
    signs = np.asarray([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    t = np.repeat((np.arange(200) + 0.5) / 200, 4)
    pairs = np.tile(signs, (200, 1))
    batch = {"t": t, "x0": pairs[:, :1], "x1": pairs[:, 1:]}
    ends, start = np.array([-4.0, 4.0]), paths.monotone([-4.0, -3.0, 1.0, 2.0, 4.0])

    def still(params, t, x, *, key=None):
        return jnp.zeros_like(x)

    @jax.jit
    def loss(path):
        energy, _ = losses.flow_matching(still, path)(None, None, batch)
        return energy + 10 * jnp.sum(
            (path.schedule.schedule.log_snr[jnp.array([0, -1])] - ends) ** 2
        )

    optimizer = optax.adam(0.05)

    @jax.jit
    def train(path):
        def step(carry, _):
            path, state = carry
            updates, state = optimizer.update(jax.grad(loss)(path), state)
            return (optax.apply_updates(path, updates), state), None

        return jax.lax.scan(step, (path, optimizer.init(path)), None, 600)[0][0]

    learned = train(start).schedule.schedule.log_snr

    def by_hand(knots):
        """The angle `arctan e^(lambda / 2)` turns at `lambda' / (4 cosh(lambda / 2))`."""
        place = 4 * (np.arange(200) + 0.5) / 200
        between = np.interp(place, np.arange(5), knots)
        rate = 4 * np.diff(knots)[place.astype(int)]
        energy = np.mean((rate / (4 * np.cosh(between / 2))) ** 2)
        return energy + 10 * np.sum((knots[[0, -1]] - ends) ** 2)

    best = scipy.optimize.minimize(by_hand, np.linspace(-4, 4, 5), tol=1e-10).x
    np.testing.assert_allclose(loss(paths.monotone(best)), by_hand(best), rtol=1e-9)
    np.testing.assert_allclose(learned, best, atol=2e-3)
    even = 2 * np.log(np.tan(np.linspace(*np.arctan(np.exp(np.array([-2.0, 2.0]))), 5)))
    assert np.abs(best - even).max() < 0.5


def test_a_learned_schedule_keeps_rising():
    """Whatever its numbers become."""
    path = paths.monotone([-1.0, 0.0, 3.0])
    leaves, tree = jax.tree.flatten(path)
    wild = tree.unflatten([10 * jax.random.normal(jax.random.key(1), a.shape) for a in leaves])
    assert np.all(np.diff(wild.schedule.schedule.log_snr) > 0)
    np.testing.assert_allclose(path.schedule.schedule.log_snr, [-1.0, 0.0, 3.0], rtol=1e-6)
    assert isinstance(schedules.Linear().time_of_log_snr(jnp.zeros(1)), jax.Array)

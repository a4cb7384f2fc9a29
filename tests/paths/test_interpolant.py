"""Paths with noise of their own: points, velocities and scores against Gaussians, and their ends.

A pair that is jointly Gaussian, dependent too, has marginals, velocities and scores in closed form.
The path is linear in `(x0, x1, z)`, so its values on basis vectors are its matrices, and moments
are exact: nothing here is drawn but by the stochastic sampler.
"""

import dataclasses
import inspect
import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from scipy.stats import multivariate_normal, norm

from jaxflow import couplings, draws, losses, paths, sampling, velocities
from jaxflow.paths import gammas
from jaxflow.paths.ends import interval_of
from jaxflow.records import record
from jaxflow.types import Dependent, Method
from tests.problems import CURVES, Curve, points

D = 2
TIMES = np.array([0.02, 0.2, 0.5, 0.7, 0.97])


class Width(NamedTuple):
    """A gamma, what it must be, and its slope."""

    gamma: Callable
    value: Callable[[float], float]
    slope: Callable[[float], float]


def _semicircle(t):
    return jnp.sin(jnp.pi * t)


@record
class Learned:
    """A gamma that holds an array."""

    scale: jax.Array

    interval = (0.0, 1.0)

    def __call__(self, t):
        return self.scale * t * (1 - t)


WIDTHS = {
    "brownian": Width(
        gammas.brownian(0.7),
        lambda t: 0.7 * math.sqrt(t * (1 - t)),
        lambda t: 0.7 * (1 - 2 * t) / (2 * math.sqrt(t * (1 - t))),
    ),
    "quadratic": Width(gammas.quadratic(1.5), lambda t: 1.5 * t * (1 - t), lambda t: 1.5 - 3 * t),
    "sine_squared": Width(
        gammas.sine_squared(0.8),
        lambda t: 0.8 * math.sin(math.pi * t) ** 2,
        lambda t: 0.8 * math.pi * math.sin(2 * math.pi * t),
    ),
    "constant": Width(gammas.constant(0.5), lambda t: 0.5, lambda t: 0.0),
    "custom": Width(
        gammas.custom(_semicircle),
        lambda t: math.sin(math.pi * t),
        lambda t: math.pi * math.cos(math.pi * t),
    ),
}
CASES = [("linear", width) for width in WIDTHS] + [("vp", "brownian"), ("cosine", "quadratic")]


def of(share: str, width: str) -> paths.Interpolant:
    return paths.interpolant(CURVES[share].path.schedule, gamma=WIDTHS[width].gamma)


ALL = [pytest.param(of(*case), id="-".join(case)) for case in CASES]
ALL += [pytest.param(paths.bridge(0.3), id="bridge")]


def test_every_factory_is_in_the_table():
    public = {n for n in gammas.__all__ if inspect.isfunction(getattr(gammas, n))}
    assert public == set(WIDTHS)


@jax.jit
def _sample(path, t, x0, x1, z):
    return path(t, x0, x1, z)


@pytest.mark.parametrize("path", ALL)
def test_contract(path, key):
    """Shapes, dtypes, vmap and the pytree: one path is one static, hashable value."""
    x0, x1 = jnp.ones((3, 4, 2)), jnp.zeros((3, 4, 2))
    z, t = path.latent(key, x0), np.linspace(0, 1, 3, dtype=np.float32)
    s = _sample(path, t, x0, x1, z)
    for value in (s.x, s.u, s.score, s.x0, s.x1, z):
        assert value.shape == (3, 4, 2)
        assert value.dtype == jnp.float32
    half = jax.eval_shape(path, t, *(a.astype(jnp.bfloat16) for a in (x0, x1, z)))
    assert half.x.dtype == half.u.dtype == half.score.dtype == jnp.bfloat16
    assert half.t.dtype == jnp.float32
    assert path.latent(key, x0.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    one = jax.vmap(lambda *row: path(*(a[None] for a in row)).x[0])
    np.testing.assert_allclose(jax.jit(one)(t, x0, x1, z), s.x, atol=1e-6)
    leaves, tree = jax.tree.flatten(path)
    assert leaves == []
    assert jax.tree.unflatten(tree, leaves) == path
    assert hash(path) == hash(jax.tree.unflatten(tree, leaves))
    assert type(path.gamma).__name__ in repr(path)
    assert not hasattr(path, "schedule")


def test_latents_are_normal_and_one_key_a_sample(key):
    path = paths.bridge()
    z = np.asarray(path.latent(key, jnp.zeros((4000, 2))))
    n = z.size
    assert abs(z.mean() * np.sqrt(n)) < 4
    assert abs((np.mean(z**2) - 1) / np.sqrt(2 / n)) < 4
    assert abs(np.mean(z[:, 0] * z[:, 1]) * np.sqrt(4000)) < 4
    with jax.enable_x64(True):
        assert path.latent(key, jnp.zeros((2, 2))).dtype == jnp.float64


@pytest.mark.parametrize(("share", "width"), CASES)
def test_point_velocity_and_score(share, width, x64):
    """The point is the blend, the velocity its derivative, the score that of the conditional."""
    curve, shape, path = CURVES[share], WIDTHS[width], of(share, width)
    x0, x1, z = (points(5, 3, seed=i) for i in range(3))
    s = _sample(path, TIMES, x0, x1, z)
    alpha, sigma, alpha_dot, sigma_dot, gamma, gamma_dot = (
        np.array([f(t) for t in TIMES])[:, None] for f in (*curve[1:], shape.value, shape.slope)
    )
    mean = alpha * x1 + sigma * x0
    np.testing.assert_allclose(s.x, mean + gamma * z, atol=1e-12)
    np.testing.assert_allclose(s.u, alpha_dot * x1 + sigma_dot * x0 + gamma_dot * z, atol=1e-10)
    np.testing.assert_allclose(s.score, (mean - s.x) / gamma**2, rtol=1e-8)
    assert s.u.dtype == jnp.float64
    rows = [np.tile(a[:1], (333, 1)) for a in (x0, x1, z)]
    u, moved = _velocity_and_slope(path, np.linspace(0.001, 0.999, 333), *rows)
    np.testing.assert_allclose(u, moved, rtol=1e-10, atol=1e-10)
    assert path.widest == pytest.approx(max(shape.value(t) for t in np.linspace(0, 1, 1001)))


@jax.jit
def _velocity_and_slope(path, t, *rows):
    """The velocity, and the derivative of the point."""
    return path(t, *rows).u, jax.jvp(lambda t: path(t, *rows).x, (t,), (jnp.ones_like(t),))[1]


def test_the_bridge_is_that_of_brownian_motion(x64):
    """Equation (6), as the papers write it: from `x`, without its noise."""
    sigma, path = 0.4, paths.bridge(0.4)
    x0, x1, z = (points(5, 3, seed=i) for i in range(3))
    s = _sample(path, TIMES, x0, x1, z)
    t = TIMES[:, None]
    mean, x = t * x1 + (1 - t) * x0, np.asarray(s.x)
    np.testing.assert_allclose(x - mean, sigma * np.sqrt(t * (1 - t)) * z, atol=1e-12)
    expected = (1 - 2 * t) / (2 * t * (1 - t)) * (x - mean) + x1 - x0
    np.testing.assert_allclose(s.u, expected, rtol=1e-10)
    np.testing.assert_allclose(s.score, (mean - x) / (sigma**2 * t * (1 - t)), rtol=1e-9)
    assert path == paths.interpolant(gamma=gammas.brownian(0.4))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("path", ALL)
def test_ends_are_exact_and_without_nan(path, dtype):
    """No noise is left at t = 0 and 1, though gamma's slope may be infinite there, or all of it."""
    with jax.enable_x64(dtype == jnp.float64):
        t = np.array([0.0, 1.0], dtype)
        x0, x1 = np.array([[3.0, 0.0]] * 2, dtype), np.array([[0.0, -2.0]] * 2, dtype)
        z = np.full((2, 2), 5.0, dtype)
        slopes, values = _values_and_slopes(path, t, x0, x1, z)
        alpha, sigma = (np.asarray(a)[:, None] for a in _shares(path, t))
        left = 1e-6 if isinstance(path.gamma, gammas.Custom) else 0.0  # float32's sin(pi)
        noise = 0.5 * z if isinstance(path.gamma, gammas.Constant) else 0.0
        expected = alpha * x1 + sigma * x0 + noise
        np.testing.assert_allclose(values["x"], expected, rtol=0, atol=left)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((values, slopes)))


@jax.jit
def _shares(path, t):
    return path.shares.alpha(t), path.shares.sigma(t)


@jax.jit
def _values_and_slopes(path, t, x0, x1, z):
    def total(t, x0, x1, z):
        s = path(t, x0, x1, z)
        values = {"x": s.x, "u": s.u, "score": s.score}
        return jax.tree.map(jnp.sum, values), values

    return jax.jacrev(total, argnums=(0, 1, 2, 3), has_aux=True)(t, x0, x1, z)


@pytest.mark.parametrize(
    "path",
    [
        paths.bridge(2.0),
        paths.interpolant(
            CURVES["cosine"].path.schedule,
            gamma=gammas.custom(gammas.brownian(), interval=(0.3, 0.4)),
        ),
    ],
)
def test_beyond_the_interval_slopes_are_those_of_its_ends(path):
    x = jnp.ones((2, 1))
    ends = _sample(path, np.array(path.interval, np.float32), x, -x, x)
    beyond = _sample(path, np.array([0.0, 1.0], np.float32), x, -x, x)
    np.testing.assert_array_equal(beyond.u, ends.u)
    np.testing.assert_array_equal(beyond.score, ends.score)


@jax.jit
def _drawn(draw, key, batch):
    return draw(key, batch)


def test_times_keep_to_the_interval(key):
    """Of the slopes of gamma and of the shares, in a product too."""
    low, high = interval_of(paths.bridge())
    assert (low, high) == (1e-5, 1 - 1e-5)
    assert interval_of(of("vp", "quadratic")) == (0.0, 0.99999)
    assert interval_of(of("vp", "brownian")) == (1e-5, 0.99999)
    two = paths.product({"a": paths.linear(), "b": paths.bridge()})
    assert interval_of(two) == (low, high)
    late = paths.interpolant(gamma=gammas.custom(gammas.brownian(), interval=(0.3, 0.4)))
    t = _drawn(draws.standard(late), key, {"x1": jnp.zeros((500, 2))})["t"]
    assert 0.3 <= t.min() < 0.31
    assert 0.39 < t.max() <= 0.4
    x0 = {"a": jnp.zeros((3, 2)), "b": jnp.ones((3, 1))}
    batch = _drawn(draws.standard(two), key, {"x0": x0, "x1": x0})
    assert batch["z"]["a"] == Dependent()
    sample = _sample(two, batch["t"], batch["x0"], batch["x1"], batch["z"])
    assert sample.score["a"] is None
    assert sample.score["b"].shape == (3, 1)


MEAN = np.array([0.5, -1.0, 1.5, 0.3])
ROOT = np.random.default_rng(0).normal(size=(4, 4)) / 2
COVARIANCE = ROOT @ ROOT.T + 0.1 * np.eye(4)  # of (x0, x1): dependent
JOINT = np.block([[COVARIANCE, np.zeros((4, D))], [np.zeros((D, 4)), np.eye(D)]])


class Law(NamedTuple):
    """A Gaussian marginal, and the matrices of its velocity and score about its mean."""

    mean: np.ndarray
    covariance: np.ndarray
    drift: np.ndarray
    velocity: np.ndarray
    score: np.ndarray


def law(curve: Curve, width: Width, t: float) -> Law:
    """In numpy, from the equations alone."""
    c00, c01, c11 = COVARIANCE[:D, :D], COVARIANCE[:D, D:], COVARIANCE[D:, D:]
    (a, s, a_, s_), g, g_ = (f(t) for f in curve[1:]), width.value(t), width.slope(t)
    covariance = a**2 * c11 + s**2 * c00 + a * s * (c01 + c01.T) + g**2 * np.eye(D)
    crossed = a_ * a * c11 + a_ * s * c01.T + s_ * a * c01 + s_ * s * c00 + g_ * g * np.eye(D)
    inverse = np.linalg.inv(covariance)
    drift = a_ * MEAN[D:] + s_ * MEAN[:D]
    return Law(a * MEAN[D:] + s * MEAN[:D], covariance, drift, crossed @ inverse, -inverse)


def matrices(path, t):
    """`x`, `u` and `score` of the path at one time as matrices on `(x0, x1, z)`."""
    basis = jnp.eye(3 * D)
    s = path(jnp.full(3 * D, t), basis[:, :D], basis[:, D : 2 * D], basis[:, 2 * D :])
    return s.x.T, s.u.T, s.score.T


def regressed(path, t):
    """Mean and covariance of `x`, and the regressions on it, by the path's own exact moments."""
    x, u, score = matrices(path, t)
    mean = jnp.asarray([*MEAN, *np.zeros(D)], x.dtype)
    crossed = jnp.asarray(JOINT, x.dtype) @ x.T
    covariance = x @ crossed
    on = [a @ crossed @ jnp.linalg.inv(covariance) for a in (u, score)]
    return Law(x @ mean, covariance, u @ mean, *on)


@pytest.mark.parametrize(("share", "width"), CASES)
def test_marginals_of_dependent_gaussians(share, width, x64):
    """Law, velocity and score; the velocity keeps `A C + C A' = dC/dt`, the continuity equation."""
    path, run = of(share, width), jax.jit(regressed)
    for t in TIMES:
        found, exact = run(path, t), law(CURVES[share], WIDTHS[width], t)
        for value, expected in zip(found, exact, strict=True):
            np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-9)
        h = 1e-5
        ahead, behind = (law(CURVES[share], WIDTHS[width], t + d).covariance for d in (h, -h))
        moved = found.velocity @ found.covariance
        np.testing.assert_allclose(
            moved + moved.T, (ahead - behind) / (2 * h), rtol=1e-5, atol=1e-6
        )
        density = multivariate_normal(exact.mean, exact.covariance).logpdf
        x, h = np.array([0.4, -0.2]), 1e-6 * np.eye(D)
        slope = (density(x + h) - density(x - h)) / 2e-6
        np.testing.assert_allclose(found.score @ (x - exact.mean), slope, rtol=1e-6)


@record
class Exact:
    """The exact marginal velocity of the Gaussian pair on a path."""

    path: paths.Interpolant

    evaluations = 1

    @property
    def interval(self):
        return interval_of(self.path)

    def _at(self, t):
        return regressed(self.path, jnp.clip(t[0], *self.interval))

    def __call__(self, t, x):
        at = self._at(t)
        return (at.drift + (x - at.mean) @ at.velocity.T).astype(x.dtype)

    def score(self, t, x):
        at = self._at(t)
        return ((x - at.mean) @ at.score.T).astype(x.dtype)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_probability_flow_carries_one_end_to_the_other(width, x64):
    """The flow is affine: its matrix, read off basis vectors, takes the first law to the last."""
    velocity = Exact(of("linear", width))
    ends = velocity.interval
    first, last = (law(CURVES["linear"], WIDTHS[width], t) for t in np.clip(ends, 1e-12, 1 - 1e-12))
    wide = 0.5**2 * np.eye(D) if width == "constant" else 0.0
    np.testing.assert_allclose(first.covariance, COVARIANCE[:D, :D] + wide, atol=1e-4)
    np.testing.assert_allclose(last.covariance, COVARIANCE[D:, D:] + wide, atol=1e-4)
    x0 = first.mean + np.concatenate([np.zeros((1, D)), np.eye(D)])
    grid, method = np.linspace(*ends, 201), sampling.rk4()
    x = np.asarray(jax.jit(lambda x: sampling.fixed_step(velocity, x, grid, method=method).x)(x0))
    matrix = (x[1:] - x[0]).T
    np.testing.assert_allclose(x[0], last.mean, atol=1e-8)
    np.testing.assert_allclose(matrix @ first.covariance @ matrix.T, last.covariance, atol=1e-8)


def test_constant_noise_is_that_of_independent_flow_matching(x64):
    """I-CFM: `u = x1 - x0` and `-z / sigma`, the ends too; flow and density between widened ends.

    Of independent `N(0, 1)` and `N(0, s^2)` the variance is `q = (1 - t)^2 + s^2 t^2 + sigma^2`:
    the flow multiplies by `sqrt(q(1) / q(0))`. Begun at the source as it is, it ends with the
    variance `(s^2 + sigma^2) / (1 + sigma^2)`, and that is the density which `log_prob` tells.
    """
    sigma, s = 0.5, 3.0
    path = paths.interpolant(gamma=gammas.constant(sigma))
    x0, x1, z = (points(5, 3, seed=i) for i in range(3))
    t = np.array([0.0, 0.2, 0.5, 0.9, 1.0])
    sample = _sample(path, t, x0, x1, z)
    mean = t[:, None] * x1 + (1 - t[:, None]) * x0
    np.testing.assert_allclose(sample.x, mean + sigma * z, atol=1e-12)
    np.testing.assert_allclose(sample.u, x1 - x0, atol=1e-12)
    np.testing.assert_allclose(sample.score, -z / sigma, atol=1e-12)
    assert (path.interval, path.noisy, path.widest) == ((0.0, 1.0), (0.0, 1.0), sigma)
    assert interval_of(path) == (0.0, 1.0)
    assert paths.start(path, x0) is x0

    def slope(p, t, x, key=None):
        q = (1 - t) ** 2 + (s * t) ** 2 + sigma**2
        return ((s**2 * t - (1 - t)) / q)[:, None] * x

    velocity = velocities.from_network(slope, None, path=path)

    @jax.jit
    def ends(x0, x1):
        grid, method = sampling.grids.uniform(200), sampling.rk4()
        end = sampling.fixed_step(velocity, x0, grid, method=method)
        return end, sampling.log_prob(velocity, x1, rtol=1e-9, atol=1e-9).value

    end, found = ends(x0, x1)
    ratio = np.sqrt((s**2 + sigma**2) / (1 + sigma**2))
    np.testing.assert_allclose(end.x, ratio * x0, rtol=1e-8)
    assert end.nfe.tolist() == [800] * 5  # no last step to a posterior mean
    np.testing.assert_allclose(found, norm.logpdf(x1, scale=ratio).sum(1), rtol=1e-6)


def test_samplers_end_at_the_interval(x64):
    """A grid from 0 to 1 needs no posterior mean, which these paths do not tell."""
    path, x0 = paths.bridge(0.7), jnp.asarray(points(3))
    velocity = velocities.from_network(lambda p, t, x, key=None: p * x, 1.0, path=path)
    assert velocity.interval == path.interval
    exact = np.exp(path.interval[1] - path.interval[0]) * x0

    @jax.jit
    def ends(x0):
        grid, method = sampling.grids.uniform(50), sampling.rk4()
        fixed = sampling.fixed_step(velocity, x0, grid, method=method)
        return fixed, sampling.adaptive(velocity, x0, rtol=1e-9, atol=1e-9)

    fixed, end = ends(x0)
    np.testing.assert_allclose(fixed.x, exact, rtol=1e-8)
    assert fixed.nfe.tolist() == [200] * 3
    np.testing.assert_allclose(end.x, exact, rtol=1e-7)
    assert np.all(end.success)
    with pytest.raises(ValueError, match="only the last time of a grid may lie beyond it"):
        sampling.fixed_step(velocity, x0, [0.0, 0.999995, 1.0])


def euler_maruyama(score, diffusion):
    """`x + h (v + g^2 / 2 s) + g sqrt(h) z`."""

    def step(score, v, t, s, x, memory, keys):
        h = (s - t)[:, None]
        z = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:]))(keys)
        drift = v(t, x) + 0.5 * diffusion**2 * score(t, x)
        return x + h * drift + diffusion * jnp.sqrt(h) * z, memory

    return Method(Partial(lambda v, t, x: ()), Partial(step, score), calls=1, order=1)


def test_the_stochastic_flow_keeps_the_marginals():
    """Samples against the exact moments of Euler's steps, and those against the marginals.

    A step of a linear equation takes the covariance C to `(I + h B) C (I + h B)' + g^2 h I`.
    """
    n, g, width = 4000, 0.9, WIDTHS["brownian"]
    exact = Exact(of("linear", "brownian"))

    def moments(steps):
        start = law(CURVES["linear"], width, 1e-5)
        mean, covariance = start.mean, start.covariance
        grid = np.clip(np.linspace(0, 1, steps + 1), *exact.interval)
        kept = []
        for t, s in itertools.pairwise(grid):
            at, h = law(CURVES["linear"], width, t), s - t
            pull = at.velocity + g**2 / 2 * at.score
            mean = mean + h * (at.drift + pull @ (mean - at.mean))
            turn = np.eye(D) + h * pull
            covariance = turn @ covariance @ turn.T + g**2 * h * np.eye(D)
            kept.append((mean, covariance))
        return kept

    errors = []
    for steps in (50, 100, 200):
        end, aim = moments(steps)[steps // 2 - 1][1], law(CURVES["linear"], width, 0.5).covariance
        errors.append(np.abs(end - aim).max())
    ratios = np.array(errors[:-1]) / errors[1:]
    np.testing.assert_allclose(ratios, 2.0, rtol=0.15)  # order 1
    assert errors[-1] < 0.02

    first, second = jax.random.split(jax.random.key(0))
    root = np.linalg.cholesky(COVARIANCE[:D, :D])
    x0 = jnp.asarray(MEAN[:D] + np.asarray(jax.random.normal(first, (n, D))) @ root.T, jnp.float32)
    method = euler_maruyama(Exact.score.__get__(exact), g)
    keys = jax.random.split(second, n)
    grid = sampling.grids.uniform(50)

    @jax.jit
    def ways(x0, keys):
        noisy = sampling.fixed_step(exact, x0, grid, method=method, keys=keys, save=True)
        return noisy.xs, sampling.fixed_step(exact, x0, grid, method=sampling.euler()).x

    xs, flow = map(np.asarray, ways(x0, keys))
    known = moments(50)
    for i in (10, 25, 40, 50):
        mean, covariance = known[i - 1]
        white = np.linalg.solve(np.linalg.cholesky(covariance), (xs[i] - mean).T)
        scores = [*(white.mean(1) * np.sqrt(n)), *((np.mean(white**2, 1) - 1) / np.sqrt(2 / n))]
        scores.append(np.mean(white[0] * white[1]) * np.sqrt(n))
        assert np.max(np.abs(scores)) < 4, i
    assert np.std(xs[-1] - flow) > 0.2  # the same law by other ways


def test_a_score_is_known_for_every_coupling(key):
    """Transport, a source that is data, and a function: the noise takes the place of the mark."""
    path, batch = paths.bridge(0.5), {"x1": points(8).astype(np.float32)}
    for draw, given in (
        (draws.standard(path, coupling=couplings.optimal_transport(on_host=True)), batch),
        (draws.standard(path), {**batch, "x0": batch["x1"] + 1}),
        (draws.standard(path, coupling=lambda key, x0, x1, cond: (x0[::-1], x1, cond)), batch),
    ):
        drawn = draw(key, given)
        assert drawn["z"].shape == (8, 2)
        score, gamma, value = map(np.asarray, _score_and_loss(path, drawn))
        np.testing.assert_allclose(score, -drawn["z"] / gamma[:, None], rtol=1e-6)
        assert np.isfinite(value)


@jax.jit
def _score_and_loss(path, drawn):
    loss = losses.flow_matching(
        lambda p, t, x, key=None: -x, path, prediction="score", weight=jnp.square
    )
    sample = path(drawn["t"], drawn["x0"], drawn["x1"], drawn["z"])
    return sample.score, path.gamma(drawn["t"]), loss(None, None, drawn)[0]


def test_one_time_a_token():
    """A time of shape [batch, length] moves every token by its own time."""
    t = np.array([[0.0, 0.5, 1.0], [0.25, 0.5, 0.75]], np.float32)
    zero = jnp.zeros((2, 3, 4))
    s = _sample(paths.bridge(2.0), t, zero, zero, jnp.ones((2, 3, 4)))
    expected = 2 * np.sqrt(t * (1 - t))[..., None]
    np.testing.assert_allclose(s.x, np.repeat(expected, 4, -1), rtol=1e-6)


def test_arrays_of_gamma_are_leaves_that_can_be_learned(x64):
    path = paths.interpolant(gamma=Learned(jnp.float64(2.0)))
    assert jax.tree.leaves(path) == [2.0]
    x = jnp.ones((1, 1))

    def point(path):
        return path(jnp.array([0.5]), 0 * x, 0 * x, 3 * x).x[0, 0]

    assert jax.jit(jax.grad(point))(path).gamma.scale == pytest.approx(0.75)
    traces = []

    @jax.jit
    def run(path):
        traces.append(None)
        return point(path)

    for scale in (2.0, 4.0):
        replaced = dataclasses.replace(path, gamma=Learned(jnp.float64(scale)))
        assert run(replaced) == pytest.approx(0.75 * scale)
    assert len(traces) == 1


def _one(t):
    return jnp.ones_like(t)


def _root(t):
    return jnp.sqrt(t * (1 - t))


def _wave(t):
    return jnp.sin(2 * jnp.pi * t)


X, T = jnp.ones((2, 3)), jnp.full(2, 0.5)
BRIDGE = paths.bridge()
NOT_AFFINE = r"^an affine path is needed, with a schedule; Interpolant\(.*\) has none$"
FLOW = velocities.from_network(lambda p, t, x, key=None: x, None, path=BRIDGE)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "error", "told"),
    [
        (lambda: paths.bridge(0.0), ValueError, r"^brownian needs a positive, finite sigma; got 0"),
        (lambda: gammas.quadratic(-1.0), ValueError, r"^quadratic needs .* scale; got -1\.0$"),
        (lambda: gammas.sine_squared(math.inf), ValueError, "^sine_squared needs .*; got inf$"),
        (lambda: gammas.constant(0.0), ValueError, r"^constant needs a positive, .*; got 0\.0$"),
        (
            lambda: paths.interpolant(gamma=gammas.custom(gammas.constant(0.2))),
            ValueError,
            r"^gamma is 0\.2 at t = 0 and 0\.2 at t = 1, .* is paths\.gammas\.constant\(sigma\)$",
        ),
        (lambda: paths.interpolant(gamma=0.5), TypeError, r"^gamma is a function .*; got 0\.5$"),
        (
            lambda: paths.interpolant(gamma=gammas.brownian),
            TypeError,
            r"^gamma is paths\.gammas\.brownian itself, and not what it makes: ",
        ),
        (
            lambda: paths.interpolant(gamma=_one),
            ValueError,
            r"^gamma is 1 at t = 0 and 1 at t = 1, but vanishes at both ends of an interpolant; ",
        ),
        (lambda: paths.interpolant(gamma=_wave), ValueError, "^gamma must be positive and finite"),
        (lambda: paths.interpolant(gamma=jnp.zeros_like), ValueError, "^gamma must be positive"),
        (
            lambda: paths.interpolant(gamma=_root),
            ValueError,
            "^the slope of gamma is not finite on",
        ),
        (
            lambda: jax.jit(lambda c: paths.interpolant(gamma=Learned(c)).gamma.scale)(1.0),
            ValueError,
            "^the ends of gamma cannot be found while its arrays are traced: ",
        ),
        (lambda: BRIDGE(T, X, X), ValueError, r"^an interpolant has noise of its own: give z="),
        (lambda: BRIDGE(T, X, X, Dependent()), ValueError, "^an interpolant has noise of its own"),
        (lambda: BRIDGE(T, X, X, X[:1]), ValueError, r"^z has shape \(1, 3\) but x0 \(2, 3\): "),
        (lambda: BRIDGE(T, X, X[:, :1], X), ValueError, r"^x0 has shape \(2, 3\) but x1 \(2, 1\)"),
        (lambda: losses.weights.sigma(BRIDGE), ValueError, NOT_AFFINE),
        (
            lambda: losses.flow_matching(lambda *a, **k: X, BRIDGE, prediction="score"),
            ValueError,
            NOT_AFFINE,
        ),
        (
            lambda: losses.flow_matching(
                lambda *a, **k: X, BRIDGE, prediction="data", regress="velocity"
            ),
            ValueError,
            NOT_AFFINE,
        ),
        (
            lambda: velocities.convert(X, T, X, path=BRIDGE, source="velocity", target="data"),
            ValueError,
            NOT_AFFINE,
        ),
        (lambda: velocities.score(FLOW, BRIDGE)(T, X), ValueError, NOT_AFFINE),
        (lambda: velocities.posterior_mean(FLOW, T, X), ValueError, NOT_AFFINE),
        (lambda: velocities.change_path(FLOW, BRIDGE, paths.linear()), ValueError, NOT_AFFINE),
        (lambda: velocities.change_path(FLOW, paths.linear(), BRIDGE), ValueError, NOT_AFFINE),
        (
            lambda: velocities.gaussian_mixture(
                BRIDGE, weights=np.ones(1), means=np.zeros((1, 2)), covariances=np.ones(1)
            )(T, X[:, :2]),
            ValueError,
            NOT_AFFINE,
        ),
    ],
)
def test_refusals(call, error, told):
    with pytest.raises(error, match=told):
        call()

"""Stochastic methods: exact moments on a Gaussian, the papers' steps, keys and ends."""

import math
import sys
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxflow import paths, sampling
from jaxflow.sampling import diffusions, fixed_step, grids
from jaxflow.types import Method
from jaxflow.velocities import gaussian_mixture, posterior_mean
from tests.problems import COVARIANCES, CURVES, GAUSSIAN, MEANS, WEIGHTS, marginal, points
from tests.sampling.tables import METHODS

LINEAR = paths.linear()
NAMES = [name for name, row in METHODS.items() if row.keys]
DIFFUSIONS = {
    "number": lambda path: 0.7,
    "function": lambda path: lambda t: 1.0 - 0.5 * t,
    "sigma": lambda path: diffusions.sigma(path, 1.5),
    "sine": lambda path: diffusions.sine(0.5),
    "noising": diffusions.noising,
}


def gaussian(path):
    return gaussian_mixture(path, weights=np.ones(1), means=MEANS[:1], covariances=COVARIANCES[:1])


def mixture(path):
    return gaussian_mixture(path, weights=WEIGHTS, means=MEANS, covariances=COVARIANCES)


def moments_at(curve, t):
    """Mean and covariance of the exact marginal."""
    a, s = curve.alpha(t), curve.sigma(t)
    return a * GAUSSIAN.mean, a**2 * GAUSSIAN.covariance + s**2 * np.eye(2)


MODULES = [
    sys.modules[f"jaxflow.sampling.methods.{name}"]
    for name in ("churn", "corrected", "exponential", "stochastic")
]


@jax.jit
def init(method, velocity, t, x):
    return method.init(lambda t, x: velocity(t, x), t, x)


@jax.jit
def step(method, velocity, t, s, x, memory, *draws):
    """A step, with numbers of our choice in the place of its draws."""
    left = iter(draws)
    with pytest.MonkeyPatch.context() as patch:
        for module in MODULES:
            patch.setattr(module, "normal", lambda *_: next(left))
        return method.step(lambda t, x: velocity(t, x), t, s, x, memory, None)


MOST = 64  # steps


class Moments:
    """Mean and covariance of what a method makes of a Gaussian, without a random number.

    The end is affine in the start and in every number drawn, so one sample for each of them tells
    its slope.
    """

    def __init__(self, method, curve):
        self.method, self.curve, self.velocity = method, curve, gaussian(curve.path)

    def __call__(self, start, stop, n):
        mean, covariance = moments_at(self.curve, start)
        size = 3 + 2 * MOST
        x = np.tile(mean, (size, 1))
        x[1:3] += np.linalg.cholesky(covariance).T
        z = np.zeros((MOST, size, 2))
        for i in range(MOST):
            z[i, 3 + 2 * i], z[i, 4 + 2 * i] = np.eye(2)
        times = [np.full(size, t) for t in grids.uniform(n, start, stop)]
        kind = self.method, self.velocity
        memory = init(*kind, times[0], x)
        for i, (t, s) in enumerate(pairwise(times)):
            x, memory = step(*kind, t, s, x, memory, z[i])
        x = np.asarray(x)
        slopes = x[1:] - x[0]
        return x[0], slopes.T @ slopes

    def error(self, start, stop, n):
        found, exact = self(start, stop, n), moments_at(self.curve, stop)
        return max(np.abs(a - b).max() for a, b in zip(found, exact, strict=True))


@pytest.mark.parametrize("name", ["euler_maruyama", "stochastic_heun"])
@pytest.mark.parametrize("diffusion", DIFFUSIONS)
def test_every_diffusion_keeps_the_marginals(name, diffusion, x64):
    """Mean and covariance, at the weak order of the method, to data and back to noise."""
    curve = CURVES["vp" if diffusion == "noising" else "linear"]
    g = DIFFUSIONS[diffusion](curve.path)
    method = getattr(sampling, name)(g, path=curve.path)
    moments = Moments(method, curve)
    for start, stop in ((0.1, 0.9), (0.9, 0.1)):
        errors = [moments.error(start, stop, n) for n in (32, 64)]
        assert errors[1] < (0.1 if method.order == 1 else 0.01)
        assert abs(np.log2(errors[0] / errors[1]) - METHODS[name].order) < 0.25


@pytest.mark.parametrize("curve", ["linear", "vp", "cosine"])
@pytest.mark.parametrize("name", ["ddim.half", "ddim.one", "sde_dpm_solver", "churn"])
def test_other_methods_keep_the_marginals(name, curve, x64):
    """Of churn the step back shrinks with the steps, as in the paper."""
    curve = CURVES[curve]
    errors = []
    for n in (32, 64):
        method = (
            sampling.churn(curve.path, 2 / n) if name == "churn" else METHODS[name].make(curve.path)
        )
        errors.append(Moments(method, curve).error(0.1, 0.9, n))
    assert errors[1] < (0.1 if method.order == 1 else 0.01)
    assert abs(np.log2(errors[0] / errors[1]) - METHODS[name].order) < 0.3


@pytest.mark.parametrize("method", ["sde_dpm_solver", "ddim.one"])
def test_noising_is_exact_in_any_number_of_steps(method, x64):
    """The SDE of `sde_dpm_solver`, backwards, is the path's own noising."""
    for name in ("linear", "vp"):
        curve = CURVES[name]
        moments = Moments(METHODS[method].make(curve.path), curve)
        for n in (1, 3):
            assert moments.error(0.9, 0.0, n) < 1e-12


@pytest.mark.parametrize("name", ["linear", "vp", "linear(.1)"])
@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_one_step_of_ddim_in_closed_form(eta, name, x64):
    """Mean and covariance of a Gaussian, to data and back, from pure noise and to no noise.

    The posterior means are affine in the state, with covariances of the axes of the data's.
    """
    curve = CURVES[name]
    values, axes = np.linalg.eigh(GAUSSIAN.covariance)
    for t, s in ((0.2, 0.7), (0.7, 0.2), (0.0, 0.6), (0.3, curve.path.schedule.interval[1])):
        (a, b), (a_next, b_next) = ((curve.alpha(u), curve.sigma(u)) for u in (t, s))
        shrinks = min(a * b_next, a_next * b) / max(a * b_next, a_next * b)
        drawn = eta**2 * b_next**2 * (1 - shrinks**2)
        total = a**2 * values + b**2
        carried = a_next * a * values + math.sqrt(b_next**2 - drawn) * b
        expected = (axes * (carried**2 / total + drawn)) @ axes.T
        mean, found = Moments(sampling.ddim(curve.path, eta), curve)(t, s, 1)
        np.testing.assert_allclose(mean, a_next * GAUSSIAN.mean, atol=1e-12)
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_ddim_without_new_noise_is_the_old_method(x64, key):
    """To the bit, with keys and without; and the limit of little noise."""
    path, grid, x = paths.vp(), grids.uniform(5, 0.1, 0.9), jnp.asarray(points(3))
    keys, velocity = jax.random.split(key, 3), mixture(path)

    def end(method, keys=None):
        return fixed_step(velocity, x, grid, method=method, keys=keys).x

    expected = end(sampling.ddim(path))
    np.testing.assert_array_equal(end(sampling.ddim(path, eta=0.0), keys), expected)
    np.testing.assert_allclose(end(sampling.ddim(path, eta=1e-9), keys), expected, atol=1e-7)


def test_a_new_share_of_noise_does_not_retrace(key):
    velocity, traces = mixture(LINEAR), []

    @jax.jit
    def run(method, velocity, x, keys):
        traces.append(None)
        return fixed_step(velocity, x, grids.uniform(2), method=method, keys=keys).x

    for eta in (0.2, 0.9):
        run(sampling.ddim(LINEAR, eta), velocity, jnp.ones((2, 2)), jax.random.split(key, 2))
    assert len(traces) == 1


def stay(v, t, s, x, memory, keys=None):
    """A predictor that leaves all to what follows."""
    return x, memory


STILL = Method(Partial(lambda v, t, x: ()), Partial(stay), calls=0, order=1)


@pytest.mark.parametrize("name", ["linear", "vp"])
@pytest.mark.parametrize("snr", [0.16, 0.7])
def test_langevin_steps_on_an_exact_score_in_closed_form(snr, name, x64):
    """They keep the mean and the biased variance of ULA, and bring any other nearer to it."""
    curve, t, steps = CURVES[name], 0.6, 3
    velocity = gaussian(curve.path)
    method = sampling.corrected(STILL, curve.path, steps=steps, snr=snr)
    mean, covariance = moments_at(curve, t)
    values, axes = np.linalg.eigh(covariance)
    added = (2 * snr * curve.sigma(t)) ** 2
    shrinks = 1 - added / (2 * values)
    biased = values / (1 - snr**2 * curve.sigma(t) ** 2 / values)
    for variance in (biased, values, 3 * values):
        x = np.tile(mean, (3 + 2 * steps, 1))
        x[1:3] += np.sqrt(variance)[:, None] * axes.T
        z = np.zeros((steps, *x.shape))
        for i in range(steps):
            z[i, 3 + 2 * i : 5 + 2 * i] = np.eye(2)
        times = (np.full(len(x), u) for u in (0.3, t))
        end = np.asarray(step(method, velocity, *times, x, (), *z)[0])
        slopes, expected = end[1:] - end[0], variance
        for _ in range(steps):
            expected = shrinks**2 * expected + added
        np.testing.assert_allclose(end[0], mean, atol=1e-12)
        np.testing.assert_allclose(slopes.T @ slopes, (axes * expected) @ axes.T, atol=1e-12)
        if variance is biased:
            np.testing.assert_allclose(expected, biased, rtol=1e-12)


def test_a_corrected_method_keeps_the_marginals_but_for_its_bias(x64):
    """On the way to data and back: variances too large by a share of `snr^2 / (1 - snr^2)` at most.

    The bias of the variance is within that share at every time, and the flow carries shares along.
    """
    curve, snr = CURVES["linear"], 0.16
    method = sampling.corrected(sampling.heun(), curve.path, snr=snr)
    moments = Moments(method, curve)
    for start, stop in ((0.1, 0.9), (0.9, 0.1)):
        (mean, covariance), exact = moments(start, stop, 64), moments_at(curve, stop)
        white = np.linalg.inv(np.linalg.cholesky(exact[1]))
        shares = np.linalg.eigvalsh(white @ covariance @ white.T)
        assert np.all(shares > 1 - 1e-3)
        assert 1 + 1e-3 < shares.max() < 1 / (1 - snr**2) + 1e-3
        np.testing.assert_allclose(mean, exact[0], atol=1e-3)


@jax.jit
def drawn_apart(keys, i):
    """The numbers of step `i` of a method that splits its keys in three."""

    def each(key):
        return [jax.random.normal(k, (2,)) for k in jax.random.split(jax.random.fold_in(key, i), 3)]

    return jnp.stack(jax.vmap(each)(keys), axis=1)


def test_corrected_is_langevin_dynamics_on_the_score(x64, key):
    """In NumPy, on a mixture, with keys of their own for the method and for each Langevin step."""
    curve, keys, snr = CURVES["vp"], jax.random.split(key, 3), 0.3
    x, grid = points(3), np.array([0.2, 0.5, 0.7])
    for i, (t, s) in enumerate(pairwise(grid)):
        z = np.asarray(drawn_apart(keys, i))
        shrinks = curve.sigma(s) * curve.alpha(t) / (curve.sigma(t) * curve.alpha(s))
        at = marginal(curve, t, x)
        x = curve.alpha(s) * at.data + curve.sigma(s) * shrinks * at.noise
        x = x + curve.sigma(s) * math.sqrt(1 - shrinks**2) * z[:, 0]
        length = 2 * snr**2 * curve.sigma(s) ** 2
        for j in (1, 2):
            x = x + length * marginal(curve, s, x).score + math.sqrt(2 * length) * z[:, j]
    method = sampling.corrected(sampling.ddim(curve.path, 1.0), curve.path, steps=2, snr=snr)
    assert method.calls == 3
    start = jnp.asarray(points(3))
    found = fixed_step(mixture(curve.path), start, grid, method=method, keys=keys).x
    np.testing.assert_allclose(found, x, atol=1e-9)


def test_a_correction_mends_what_a_coarse_step_did(x64):
    """Euler's few steps leave the variance of a Gaussian wrong; Langevin steps bring it nearer."""
    curve = CURVES["linear"]
    errors = []
    for steps in (0, 1):
        method = sampling.euler()
        if steps:
            method = sampling.corrected(method, curve.path, snr=0.2)
        errors.append(Moments(method, curve).error(0.1, 0.6, 16))
    assert errors[1] < 0.7 * errors[0]


def test_corrected_of_parts_goes_by_the_noise_of_each(x64):
    """A product of paths: each part as it would go alone."""
    parts = {"a": LINEAR, "b": paths.vp()}
    flows, path = {k: mixture(p) for k, p in parts.items()}, paths.product(parts)
    x = {"a": points(3), "b": points(3, seed=1)}
    z = {"a": points(3, seed=2), "b": points(3, seed=3)}
    times = np.full(3, 0.2), np.full(3, 0.5)

    def end(v, path, x, z):
        method = sampling.corrected(sampling.ddim(path), path)
        return step(method, v, *times, x, (), z)[0]

    both = end(Partial(lambda flows, t, x: {k: flows[k](t, x[k]) for k in x}, flows), path, x, z)
    for k, p in parts.items():
        np.testing.assert_allclose(both[k], end(flows[k], p, x[k], z[k]), atol=1e-13)


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_method_is_not_corrected():
    with pytest.raises(TypeError, match=r"^method is sampling.heun itself.*heun\(\.\.\.\)$"):
        sampling.corrected(sampling.heun, LINEAR)
    with pytest.raises(TypeError, match=r"^corrected needs a method to correct, .* got 'heun'$"):
        sampling.corrected("heun", LINEAR)


@pytest.mark.parametrize("name", NAMES)
def test_from_noise_to_data(name, key):
    """A joint chi-square of mean and covariance of what keys draw, |z| < 4."""
    n, path = 2000, paths.linear()
    keys = jax.random.split(key, n)
    x0 = jax.random.normal(jax.random.fold_in(key, 1), (n, 2))
    steps = 128 if METHODS[name].order == 1 else 64
    end = fixed_step(
        gaussian(path), x0, grids.uniform(steps), method=METHODS[name].make(path), keys=keys
    )
    offset = np.asarray(end.x, np.float64) - GAUSSIAN.mean
    white = offset @ np.linalg.inv(np.linalg.cholesky(GAUSSIAN.covariance)).T
    spread = white.T @ white / n - np.eye(2)
    square = n * np.sum(white.mean(0) ** 2) + n / 2 * np.sum(spread**2)
    assert abs(square - 5) / math.sqrt(10) < 4
    assert bool(end.success.all())


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_has_noise_of_its_own(name, x64, key):
    """It does not depend on its batch-mates, and another key draws another."""
    path, x = paths.linear(), points(4)
    keys, velocity, method = jax.random.split(key, 4), mixture(path), METHODS[name].make(path)

    def run(x, keys):
        grid = grids.uniform(5, 0.0, 0.9)
        return np.asarray(fixed_step(velocity, x, grid, method=method, keys=keys).x)

    whole = run(x, keys)
    np.testing.assert_allclose(run(x[2:3], keys[2:3]), whole[2:3], atol=1e-12)
    other = run(x, keys.at[0].set(keys[1]))
    np.testing.assert_allclose(other[1:], whole[1:], atol=1e-12)
    if name == "churn.0":  # which goes back by nothing, to the bit
        np.testing.assert_array_equal(other[0], whole[0])
    else:
        assert np.all(other[0] != whole[0])


def test_churn_by_nothing_draws_nothing(key):
    """In float32 too, where a time is found again but for its last bit."""
    path, x = paths.vp(), np.float32(points(64))
    velocity, method = mixture(path), sampling.churn(path, 0.0)
    grid = np.sort(np.random.default_rng(0).uniform(0.0, 0.95, 24))
    ends = [
        fixed_step(velocity, x, grid, method=method, keys=jax.random.split(k, 64)).x
        for k in jax.random.split(key, 2)
    ]
    np.testing.assert_array_equal(*ends)


@jax.jit
def drawn(keys, i):
    """The numbers of step `i`."""
    return jax.vmap(lambda k: jax.random.normal(jax.random.fold_in(k, i), (2,)))(keys)


def algorithm_2(curve, keys, x, grid, gamma, low, high, scale):
    """Karras et al., in their coordinates: `x / alpha`, and the ratio in the place of time."""

    def denoised(x, sigma):
        t = 2 / np.pi * np.arctan(1 / sigma)  # of the cosine path
        return marginal(curve, t, curve.alpha(t) * x).data

    levels = [curve.sigma(t) / curve.alpha(t) for t in grid]
    x = x / curve.alpha(grid[0])
    for i, (sigma, after) in enumerate(pairwise(levels)):
        hat = sigma * (1 + gamma) if low <= sigma <= high else sigma
        x = x + math.sqrt(hat**2 - sigma**2) * scale * np.asarray(drawn(keys, i))
        d = (x - denoised(x, hat)) / hat
        y = x + (after - hat) * d
        if after > 1e-12:
            y = x + (after - hat) * (d + (y - denoised(y, after)) / after) / 2
        x = y
    return x * curve.alpha(grid[-1])


def test_churn_is_algorithm_2(x64, key):
    curve, keys, x = CURVES["cosine"], jax.random.split(key, 3), points(3)
    grid = np.concatenate([grids.uniform(6, 0.05, 0.95), [1.0]])
    method = sampling.churn(curve.path, 0.3, ratio_min=0.1, ratio_max=5.0, scale=1.1)
    found = fixed_step(mixture(curve.path), jnp.asarray(x), grid, method=method, keys=keys).x
    expected = algorithm_2(curve, keys, x, grid, 0.3, 0.1, 5.0, 1.1)
    np.testing.assert_allclose(found, expected, atol=1e-7)


def test_sde_dpm_solver_is_that_of_the_paper(x64, key):
    """At 5, 10 and 20 steps on a VP path."""
    curve, keys = CURVES["vp"], jax.random.split(key, 3)
    velocity, method = mixture(curve.path), sampling.sde_dpm_solver(curve.path)

    def place(t):
        return math.log(curve.alpha(t) / curve.sigma(t))

    for n in (5, 10, 20):
        grid, x, before = grids.shifted(n, 0.5, 0.0, 0.99), points(3), None
        for i, (t, s) in enumerate(pairwise(grid)):
            data, h = marginal(curve, t, x).data, place(s) - place(t)
            d = data
            if i:
                d = data + h / (place(t) - place(grid[i - 1])) * (data - before) / 2
            x = (
                curve.sigma(s) / curve.sigma(t) * math.exp(-h) * x
                + curve.alpha(s) * -math.expm1(-2 * h) * d
                + curve.sigma(s) * math.sqrt(-math.expm1(-2 * h)) * np.asarray(drawn(keys, i))
            )
            before = data
        found = fixed_step(velocity, points(3), grid, method=method, keys=keys).x
        np.testing.assert_allclose(found, x, atol=1e-10)


mean_at = jax.jit(posterior_mean)


@pytest.mark.parametrize(
    "name",
    ["ddim.one", "corrected", "euler_maruyama", "stochastic_heun", "sde_dpm_solver", "churn"],
)
def test_the_last_step_adds_no_noise(name, x64, key):
    """Where the path ends without noise it goes to the posterior mean from the time before."""
    path, keys, x = paths.linear(), jax.random.split(key, 3), jnp.asarray(points(3))
    method = METHODS["churn.0" if name == "churn" else name].make(path)
    velocity = mixture(path)
    run = fixed_step(velocity, x, grids.uniform(6), method=method, keys=keys, save=True)
    mean = mean_at(velocity, np.full(3, 5 / 6), np.asarray(run.xs)[-2])
    np.testing.assert_allclose(run.x, mean, atol=1e-12)


def test_a_score_stands_for_a_path(x64, key):
    path, keys, x = paths.linear(), jax.random.split(key, 3), jnp.asarray(points(3))
    velocity, grid = mixture(path), grids.uniform(5, 0.1, 0.8)
    for name in ("euler_maruyama", "stochastic_heun"):
        make = getattr(sampling, name)
        ends = [
            fixed_step(velocity, x, grid, method=make(0.5, **known), keys=keys).x
            for known in ({"path": path}, {"score": velocity.score})
        ]
        np.testing.assert_allclose(*ends, atol=1e-11)


def test_diffusions(x64):
    """What their formulas say; the noising of a variance-preserving path is its rate."""
    t, cosine = np.linspace(0.0, 0.999, 7), paths.cosine()

    @jax.jit
    def squares(t):
        made = diffusions.noising(paths.vp()), diffusions.sigma(cosine, 2.0), diffusions.sine(3.0)
        return *(g(t) ** 2 for g in made), cosine.schedule.sigma(t)

    noising, by_sigma, sine, sigma = map(np.asarray, squares(t))
    np.testing.assert_allclose(noising, 0.1 + 19.9 * (1 - t), rtol=1e-9)
    np.testing.assert_allclose(by_sigma, 2 * sigma, rtol=1e-12)
    np.testing.assert_allclose(sine, 3 * np.sin(np.pi * t) ** 2, atol=1e-15)


def run(method):
    x = jnp.ones((2, 2))
    return fixed_step(lambda t, x: -x, x, grids.uniform(2), method=method)


REFUSALS = {
    "no path": (lambda: sampling.euler_maruyama(1.0), "^euler_maruyama needs the score"),
    "path and score": (
        lambda: sampling.stochastic_heun(1.0, path=LINEAR, score=lambda t, x: x),
        "^stochastic_heun needs the score",
    ),
    "no schedule": (lambda: sampling.churn(lambda *a: None, 0.1), "an affine path is needed"),
    "more noise than there is": (
        lambda: sampling.ddim(LINEAR, 1.5),
        r"^ddim needs a share of new noise 0 <= eta <= 1; got eta=1\.5$",
    ),
    "ddim with noise and without keys": (
        lambda: run(sampling.ddim(LINEAR, 0.1)),
        r"^ddim draws noise at every step: pass keys=jax.random.split\(.*, 2\)",
    ),
    "a correction too strong": (
        lambda: sampling.corrected(sampling.heun(), LINEAR, snr=1.0),
        r"^corrected needs a ratio of signal to noise 0 < snr < 1, as 0\.16; got snr=1\.0$",
    ),
    "no correction": (
        lambda: sampling.corrected(sampling.heun(), LINEAR, steps=0),
        "^corrected needs a whole number of steps, 1 or more; got steps=0$",
    ),
    "a correction without schedule": (
        lambda: sampling.corrected(sampling.heun(), lambda *a: None),
        "an affine path is needed",
    ),
    "churn too strong": (lambda: sampling.churn(LINEAR, 0.5), r"got 0\.5$"),
    "churn out of order": (
        lambda: sampling.churn(LINEAR, 0.1, ratio_min=2.0, ratio_max=1.0),
        r"^churn needs 0 <= ratio_min <= ratio_max .* got ratio_min=2\.0",
    ),
    "negative": (
        lambda: sampling.euler_maruyama(-1.0, path=LINEAR),
        "^diffusion must not be negat",
    ),
    "scale": (lambda: diffusions.sine(0.0), "^sine needs a positive and finite scale; got 0"),
    "noising of noise": (lambda: diffusions.noising(LINEAR), "^the noising of .* infinitely fast"),
    **{
        f"{name} without keys": (
            lambda name=name: run(METHODS[name].make(LINEAR)),
            rf"^{name} draws noise at every step: pass keys=jax.random.split\(.*, 2\)",
        )
        for name in NAMES
        if "." not in name
    },
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(name):
    call, sentence = REFUSALS[name]
    with pytest.raises(ValueError, match=sentence):
        call()


def test_every_diffusion_is_in_the_table():
    assert set(diffusions.__all__) - {"as_diffusion"} == set(DIFFUSIONS) - {"number", "function"}

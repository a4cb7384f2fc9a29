"""Diffusion models as flows and back, and DDIM as Euler's method."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxflow import draws, losses, paths, sampling, training, velocities
from jaxflow.velocities import from_diffusion, to_diffusion
from tests.problems import COVARIANCES, CURVES, GAUSSIAN, MEANS, WEIGHTS, points

BETAS = np.linspace(1e-3, 0.2, 40)
ALPHA_BAR = np.cumprod(1 - BETAS)
STEPS = np.array([0, 3, 17, 39])
RNG = np.random.default_rng(0)
WIDE, BACK = RNG.normal(size=(3, 16)), RNG.normal(size=(16, 2)) / 4


def network(params, k, x, *, key=None, scale=None):
    """A random network of a step, as diffusion models are: it knows `k` and not our time."""
    told = jnp.concatenate([x, k[:, None] / 10.0], axis=1).astype(x.dtype)
    out = params * jnp.tanh(told @ jnp.asarray(WIDE, x.dtype)) @ jnp.asarray(BACK, x.dtype)
    return out if scale is None else scale[:, None] * out


def in_numpy(k, x):
    told = np.concatenate([x, np.full((len(x), 1), k) / 10.0], axis=1)
    return np.tanh(told @ WIDE) @ BACK


def time(k):
    return 1 - (np.asarray(k) + 1) / len(BETAS)


def mixture(path):
    return velocities.gaussian_mixture(path, weights=WEIGHTS, means=MEANS, covariances=COVARIANCES)


def ddim(predict, x, ks):
    """Song et al., 2021, eq. 12 without noise, through the steps `ks`, then to clean data."""
    for k, k_next in zip(ks, [*ks[1:], None], strict=True):
        a, b = ALPHA_BAR[k], 1.0 if k_next is None else ALPHA_BAR[k_next]
        noise = predict(k, x)
        x = np.sqrt(b) * (x - np.sqrt(1 - a) * noise) / np.sqrt(a) + np.sqrt(1 - b) * noise
    return x


@pytest.mark.parametrize("ks", [range(39, -1, -1), [39, 29, 19, 9], [37, 20, 4, 0]], ids=str)
def test_ddim_is_eulers_step(ks, x64):
    """Of the flow on the path `x1 + rho x0` with `rho = sigma / alpha` falling evenly.

    There `dy / d rho` is the noise, so Euler's step from `rho` to `rho'` adds `(rho' - rho) eps`,
    which is DDIM's for `y = x / alpha`; the last step is the posterior mean, as DDIM's is to clean
    data.
    """
    ks, x0 = list(ks), points(5)
    ratio = np.sqrt((1 - ALPHA_BAR) / ALPHA_BAR)
    flow = from_diffusion(network, jnp.float64(1.0), betas=BETAS)
    line = paths.edm(sigma_min=0.0, sigma_max=ratio[-1], rho=1.0)
    changed = velocities.change_path(flow, flow.path, line)
    start = jnp.asarray(x0) / np.sqrt(ALPHA_BAR[ks[0]])
    grid = np.array([*(1 - ratio[ks] / ratio[-1]), 1.0])
    solution = sampling.fixed_step(changed, start, grid, method=sampling.euler())
    np.testing.assert_allclose(solution.x, ddim(in_numpy, x0, ks), rtol=1e-9, atol=1e-9)
    assert solution.nfe.tolist() == [len(ks)] * 5


def test_ddim_in_float32():
    """By its own rounding."""
    ks, x0 = [39, 29, 19, 9], points(5)
    ratio = np.sqrt((1 - ALPHA_BAR) / ALPHA_BAR)
    flow = from_diffusion(network, jnp.float32(1.0), betas=BETAS)
    line = paths.edm(sigma_min=0.0, sigma_max=float(ratio[-1]), rho=1.0)
    changed = velocities.change_path(flow, flow.path, line)
    start = jnp.asarray(x0 / np.sqrt(ALPHA_BAR[-1]), jnp.float32)
    grid = np.array([*(1 - ratio[ks] / ratio[-1]), 1.0])
    solution = sampling.fixed_step(changed, start, grid, method=sampling.euler())
    np.testing.assert_allclose(solution.x, ddim(in_numpy, x0, ks), atol=1e-4)


@pytest.mark.parametrize("kind", velocities.KINDS)
def test_there_and_back(kind, x64):
    """What the network says at a step is what the flow is asked for again."""
    flow = from_diffusion(network, jnp.float64(0.7), betas=BETAS, prediction=kind)
    x = jnp.asarray(points(4))
    asked = to_diffusion(flow, BETAS, prediction=kind)
    assert asked.path == flow.path
    assert asked.velocity is flow
    found = jax.jit(lambda asked, k, x: asked(k, x))(asked, jnp.asarray(STEPS), x)
    np.testing.assert_allclose(found, network(0.7, jnp.asarray(STEPS), x), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", ["linear", "vp", "edm"])
def test_a_flow_is_a_diffusion_model(name, x64):
    """A flow of any path, asked at discrete steps, says what the discrete path's mixture says."""
    old, new = CURVES[name].path, paths.discrete(BETAS)
    x, k = jnp.asarray(points(4)), jnp.asarray(STEPS)
    exact, flow, t = mixture(new), mixture(old), jnp.asarray(time(STEPS))
    asked = [to_diffusion(flow, BETAS, prediction=kind) for kind in ("noise", "data")]
    asked += [to_diffusion(flow, new, path=old)]

    @jax.jit
    def read(asked, exact):
        return [model(k, x) for model in asked], exact.noise(t, x), exact.posterior_mean(t, x)

    (by_noise, by_data, whole), noise, data = read(asked, exact)
    for found, expected in ((by_noise, noise), (by_data, data), (whole, noise)):
        np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-8)


def exact_noise(flow, k, x, *, key=None):
    return flow.noise(1 - (k + 1) / len(BETAS), x)


def test_the_flow_of_exact_noise_is_the_exact_flow(x64):
    """A network that is exact at every step, and between them, carries noise to the data."""
    path = paths.discrete(BETAS)
    gaussian = velocities.gaussian_mixture(
        path, weights=np.ones(1), means=MEANS[:1], covariances=COVARIANCES[:1]
    )
    flow = from_diffusion(exact_noise, gaussian, path=path)
    x, t = jnp.asarray(points(6)), jnp.linspace(0.01, 0.95, 6)
    found, expected = jax.jit(lambda *a: [v(t, x) for v in a])(flow, gaussian)
    np.testing.assert_allclose(found, expected, rtol=1e-8)
    alpha, sigma = jax.jit(path.schedule.alpha), jax.jit(path.schedule.sigma)
    curve = CURVES["linear"]._replace(
        alpha=lambda t: float(alpha(np.array([t]))[0]),
        sigma=lambda t: float(sigma(np.array([t]))[0]),
    )
    pieces = [np.linspace(i / 40 + 1e-10, (i + 1) / 40 - 1e-10, 11) for i in range(39)]
    grid = np.concatenate(pieces)  # since slopes jump at the steps
    end = sampling.fixed_step(flow, x, grid, method=sampling.rk4()).x
    np.testing.assert_allclose(end, GAUSSIAN.carry(curve, points(6), 0.0, 39 / 40), atol=1e-7)


def told(params, k, x, *, key=None):
    """The timestep itself."""
    return jnp.broadcast_to(k[:, None], x.shape).astype(x.dtype)


def rate(t):
    return 999 * (1 - t)


def test_what_the_network_is_told(x64):
    t = jnp.asarray(time([0, 12, 39]))
    x = jnp.zeros((3, 2))
    for timesteps, path, expected in [
        (None, paths.discrete(BETAS), [0, 12, 39]),
        ("integer", paths.discrete(BETAS), [0, 12, 39]),
        (None, paths.vp(), 1 - t),
        (rate, paths.vp(), 999 * (1 - t)),
    ]:
        flow = from_diffusion(told, None, path=path, timesteps=timesteps)
        np.testing.assert_allclose(flow.network(None, t, x)[:, 0], expected, rtol=1e-9, atol=1e-9)
    rounded = from_diffusion(told, None, betas=BETAS, timesteps="integer")
    between = rounded.network(None, t - 0.4 / 40, x)[:, 0]
    np.testing.assert_array_equal(between, [0, 12, 39])
    step = rounded.network.timestep(jnp.float32(t))
    assert step.dtype == jnp.int32
    assert step.tolist() == [0, 12, 39]


def test_it_trains_on_as_a_flow(key):
    """Times inside its interval, conditions, and steps of an optimiser from its own parameters."""
    flow = from_diffusion(network, jnp.float32(0.2), betas=BETAS)
    path = flow.path
    loss = losses.flow_matching(flow.network, path, prediction="noise")
    draw = draws.standard(path)
    x1 = 0.1 * jax.random.normal(key, (64, 2))
    batch = draw(key, {"x1": x1, "cond": {"scale": jnp.ones(64)}})
    assert float(batch["t"].max()) <= path.schedule.interval[1]
    trainer = training.trainer(loss, optax.adam(0.05), draw=draw)
    state = trainer.init(flow.params, key)
    step, found = jax.jit(trainer.step), []
    for _ in range(30):
        state, metrics = step(state, batch)
        found.append(float(metrics["loss"]))
    assert found[-1] < found[0]
    assert np.isfinite(found).all()


def test_ends_are_finite():
    """Of every kind, in value and gradient, at and beyond the interval."""
    t, x = jnp.array([0.0, 1.0]), jnp.ones((2, 2))
    for kind in velocities.KINDS:

        def total(params, t, x, kind=kind):
            flow = from_diffusion(network, params, betas=BETAS, prediction=kind)
            return jnp.sum(flow(t, x))

        for leaf in jax.tree.leaves(jax.grad(total, argnums=(0, 1, 2))(jnp.float32(1.0), t, x)):
            assert np.all(np.isfinite(leaf))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: from_diffusion(network, None), "^from_diffusion needs the path"),
        (
            lambda: from_diffusion(network, None, betas=BETAS, path=paths.vp()),
            "^from_diffusion needs the path",
        ),
        (
            lambda: from_diffusion(network, None, path=paths.vp(), timesteps="integer"),
            "^timesteps is 'integer', but must be None, a function of t, or on a path of discrete",
        ),
        (
            lambda: from_diffusion(network, None, betas=BETAS, timesteps="whole"),
            "^timesteps is 'whole'",
        ),
        (
            lambda: from_diffusion(network, None, betas=BETAS, prediction="epsilon"),
            "^prediction is 'epsilon'",
        ),
        (lambda: to_diffusion(lambda t, x: x, BETAS), "^to_diffusion needs the path"),
        (lambda: to_diffusion(mixture(paths.vp()), BETAS, prediction="v"), "^prediction is 'v'"),
    ],
)
def test_errors(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()

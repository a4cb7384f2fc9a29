"""What a user would write, without touching the package: each in under 25 lines."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.tree_util import Partial

from jaxflow import draws, losses, paths, sampling, sources, times, training, velocities
from jaxflow.networks import ConcatMLP, linen
from jaxflow.records import record
from jaxflow.types import Method

LINES = 25
GRID = sampling.grids.uniform(64)


@record
class MeanFlow:
    """`u = sg(v + (r - t) du/dt)`, mirrored: the average velocity from `t` on to `r`."""

    network: Any

    def __call__(self, params, key, batch, held=None):
        t, r = batch["t"], batch["r"]
        sample = paths.linear()(t, batch["x0"], batch["x1"])

        def u(t, x):
            return self.network(params, t, x, r=r)

        tangents = jnp.ones_like(t), sample.u
        average, slope = jax.jvp(u, (t, sample.x), tangents)
        target = jax.lax.stop_gradient(sample.u + (r - t)[:, None] * slope)
        per_example = jnp.mean((average - target) ** 2, axis=1)
        return jnp.mean(per_example), {"per_example": per_example}


def second_time(key, batch):
    return {**batch, "r": jax.random.uniform(key, (len(batch["x1"]),), minval=batch["t"])}


def mean_flow():
    """On data of one point the average velocity is known: no loss, and one step is exact."""
    network, x1 = linen(ConcatMLP(width=32, depth=2)), jnp.full((128, 2), 0.5)
    draw = draws.chain(draws.standard(paths.linear()), second_time)
    batch = draw(jax.random.key(0), {"x1": x1})

    def exact(params, t, x, *, r, key=None):
        return (0.5 - x) / (1 - t)[:, None]

    assert float(MeanFlow(Partial(exact))(None, None, batch)[0]) < 1e-6
    x0 = jax.random.normal(jax.random.key(2), (64, 2))
    solution = sampling.flow_map(velocities.flow_map(exact, None), x0, (0.0, 1.0))
    np.testing.assert_allclose(solution.x, 0.5, atol=1e-6)
    assert solution.nfe.tolist() == [1] * 64
    params = network.init(jax.random.key(0), batch["t"], x1, r=batch["r"])
    run = training.program(training.trainer(MeanFlow(network), optax.adam(3e-3), draw=draw))
    _, metrics = run.steps(run.init(params, jax.random.key(1)), lambda step: {"x1": x1}, 200)
    assert metrics["loss"][-20:].mean() < 0.2 * metrics["loss"][:5].mean()


def jumps() -> Method:
    """Euler's method for a mask that gives way to tokens at rate `1 / (1 - t)`."""

    def step(logits, t, s, x, memory, keys):
        def one(key, logits, x, share):
            jump, token = jax.random.split(key)
            drawn = jax.random.categorical(token, logits)
            moves = (x == 3) & (jax.random.uniform(jump, x.shape) < share)
            return jnp.where(moves, drawn.astype(x.dtype), x)

        share = (s - t) / (1 - t)
        return jax.vmap(one)(keys, logits(t, x), x, share), memory

    return Method(lambda v, t, x: (), step, calls=1, order=1)


def jump_sampler():
    """Independent tokens of law (.7, .2, .1) from all masked, exact for any number of steps."""
    law, n = np.array([0.7, 0.2, 0.1]), 4000

    def logits(t, x):
        return jnp.broadcast_to(jnp.log(jnp.asarray(law)), (*x.shape, 3))

    keys = jax.random.split(jax.random.key(0), n)
    x0 = sources.mask(3).sample(keys, (2,))
    x = sampling.fixed_step(logits, x0, sampling.grids.uniform(5), method=jumps(), keys=keys).x
    assert x.dtype == x0.dtype
    counts = np.bincount(np.asarray(x).ravel(), minlength=4)
    expected = 2 * n * law
    assert counts[3] == 0
    assert np.sum((counts[:3] - expected) ** 2 / expected) < 2 + 4 * np.sqrt(4)


def euler_maruyama(diffusion: float) -> Method:
    """`x + h (v + g^2 / 2 score) + g sqrt(h) z` where the score is that of `N(0, 1)`, `-x`."""

    def step(v, t, s, x, memory, keys):
        h = (s - t)[:, None]
        z = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:]))(keys)
        drift = v(t, x) - 0.5 * diffusion**2 * x
        return x + h * drift + diffusion * jnp.sqrt(h) * z, memory

    return Method(lambda v, t, x: (), step, calls=1, order=1)


def stochastic():
    """Langevin keeps `N(0, 1)`; a sample depends on its own key alone."""
    n = 4000
    keys = jax.random.split(jax.random.key(0), n)
    x0 = sources.normal().sample(keys, (1,))
    run = {"method": euler_maruyama(1.0), "keys": keys}
    x = sampling.fixed_step(lambda t, x: jnp.zeros_like(x), x0, GRID, **run).x
    # Euler's step keeps a variance of 1 / (1 - h / 4), 4e-3 above one here.
    assert abs(float(jnp.mean(x))) * np.sqrt(n) < 4
    assert abs(float(jnp.var(x)) - 1 / (1 - 1 / 256)) / np.sqrt(2 / n) < 4
    assert abs(float(jnp.corrcoef(x[:, 0], x0[:, 0])[0, 1])) < 0.7
    few = sampling.fixed_step(
        lambda t, x: jnp.zeros_like(x), x0[7:9], GRID, method=run["method"], keys=keys[7:9]
    )
    np.testing.assert_allclose(few.x, x[7:9], atol=1e-5)


def latents():
    """A frozen encoder, 2 -> 1, whose latent is learned; it is an argument of the step."""
    encoder = jnp.array([[2.0], [0.0]])

    def encode(key, batch, held):
        return {**batch, "x1": batch["x1"] @ held.frozen}

    draw = draws.chain(encode, draws.standard(paths.linear()))
    loss = losses.flow_matching(lambda p, t, x, key=None: jnp.zeros_like(x) + p, paths.linear())
    run = training.program(training.trainer(loss, optax.sgd(0.5), draw=draw))
    state = run.init(jnp.zeros(1), jax.random.key(0), frozen=encoder)
    ones = {"x1": jnp.tile(jnp.array([[1.0, 9.0]]), (256, 1))}
    state, _ = run.steps(state, lambda step: ones, 300)
    assert abs(float(state.ema[0]) - 2.0) < 0.2
    np.testing.assert_array_equal(state.frozen, encoder)


def video():
    """A time a frame in training; sampling frame after frame, each frame on its own grid."""
    data = jnp.full((64, 3, 4, 4), 1.5)
    frames = draws.times(times.uniform(), lead=1)
    draw = draws.chain(draws.source(sources.normal()), frames)

    def network(params, t, x, *, key=None):
        assert t.shape == x.shape[:2]
        return (params - x) / (1 - t + 1e-3)[..., None, None]

    loss = losses.flow_matching(network, paths.linear())
    batch = draw(jax.random.key(0), {"x1": data})
    assert batch["t"].shape == (64, 3)
    assert float(loss(1.5, None, batch)[0]) < float(loss(0.0, None, batch)[0])
    one = np.linspace(0, 1, 9)
    rows = [np.concatenate([np.zeros(8 * k), one, np.ones(8 * (2 - k))]) for k in range(3)]
    grid = np.stack(rows, axis=1)[:, None]  # [times, 1, frames]
    velocity = velocities.from_network(network, 1.5)
    x = sampling.fixed_step(velocity, batch["x0"], grid, method=sampling.euler()).x
    np.testing.assert_allclose(x, 1.5, atol=0.1)


def two_parts():
    """An image and its embedding on paths of their own, by one network, one loss, one density."""
    path = paths.product({"image": paths.linear(), "text": paths.cosine()})
    shift = {"image": jnp.full(4, 2.0), "text": jnp.full(2, -1.0)}

    def velocity(t, x):
        return {k: jnp.broadcast_to(shift[k], a.shape) for k, a in x.items()}

    keys = jax.random.split(jax.random.key(0), 32)
    source = sources.product({"image": sources.normal(), "text": sources.normal()})
    x0 = source.sample(keys, {"image": (4,), "text": (2,)})
    solution = sampling.fixed_step(velocity, x0, GRID)
    np.testing.assert_allclose(solution.x["text"], x0["text"] - 1.0, atol=1e-5)
    density = sampling.log_prob(velocity, solution.x, source=source)
    np.testing.assert_allclose(density.value, source.log_prob(x0), rtol=1e-4)
    batch = draws.standard(path)(jax.random.key(1), {"x1": solution.x})
    loss = losses.flow_matching(lambda p, t, x, key=None: velocity(t, x), path)
    _, aux = loss(None, None, batch)
    sample = path(batch["t"], batch["x0"], batch["x1"])
    parts = [((velocity(0, sample.x)[k] - sample.u[k]) ** 2).mean(1) for k in ("image", "text")]
    np.testing.assert_allclose(aux["per_example"], sum(parts), rtol=1e-5)


USES = {
    "mean_flow": (MeanFlow, mean_flow),
    "jumps": (jumps, jump_sampler),
    "euler_maruyama": (euler_maruyama, stochastic),
    "latents": (latents,),
    "video": (video,),
    "two_parts": (two_parts,),
}


@pytest.mark.parametrize("name", USES)
def test_use(name):
    """It runs, and each of its pieces is short."""
    for piece in USES[name]:
        assert len(inspect.getsource(piece).splitlines()) < LINES, piece
    USES[name][-1]()

"""ott-jax: its flow matching step on NNX, its solver, and its Sinkhorn couplings."""

import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from ott.geometry.pointcloud import PointCloud
from ott.neural.data.ot_dataloader import LinearOTDataloader
from ott.neural.methods import flow_matching
from ott.neural.networks.velocity_field.ema import EMA
from ott.solvers import linear

from benchmarks import moons
from benchmarks.ours.transport import exact_cost, points
from benchmarks.rivals import training as driver
from benchmarks.rivals.perceptron import Perceptron
from benchmarks.rivals.sampling import sampled
from benchmarks.task import Task


class Network(nnx.Module):
    """The perceptron, as a velocity field that ott calls."""

    def __init__(self, perceptron: Perceptron):
        self.perceptron = perceptron

    def __call__(self, t, x, cond=None, *, rngs=None):
        return self.perceptron(t[:, None], x)


def training(loop: str, data: str) -> Task:
    """Training steps by `flow_matching_step` under `nnx.jit` ("nnx"), or with it "cached"."""
    model = Network(Perceptron(moons.layers()))
    optimizer = nnx.Optimizer(model, optax.adam(moons.LEARNING_RATE), wrt=nnx.Param)
    ema = EMA(model, decay=moons.EMA_DECAY)
    key = jax.random.key(0)

    @nnx.jit
    def step(model: Network, optimizer: nnx.Optimizer, ema: EMA, i: jax.Array, x1: jax.Array):
        key_source, key_time = jax.random.split(jax.random.fold_in(key, i))
        x0 = jax.random.normal(key_source, x1.shape)
        batch = flow_matching.interpolate_samples(key_time, x0, x1)
        flow_matching.flow_matching_step(model, optimizer, batch, model_callback_fn=ema)
        return i + 1

    @nnx.jit
    def on_probe(model: Network) -> jax.Array:
        probe = moons.probe()
        t = probe["t"][:, None]
        x = (1 - t) * probe["x0"] + t * probe["x1"]
        v = model(probe["t"], x)
        return optax.squared_error(v, probe["x1"] - probe["x0"]).mean()

    facts = {"parameters": driver.parameters(nnx.state(model)), "loss": float(on_probe(model))}
    stream, i = moons.batches(data), jnp.zeros((), jnp.int32)
    cached = nnx.cached_partial(step, model, optimizer, ema) if loop == "cached" else None

    def run(k: int) -> None:
        nonlocal i
        for x1 in itertools.islice(stream, k):
            i = cached(i, x1) if cached else step(model, optimizer, ema, i, x1)
        jax.block_until_ready(nnx.state(model))

    def later() -> dict[str, float]:
        run(driver.TRAINED)
        return {"trained loss": float(on_probe(model))}

    return Task(run, facts, later=later)


def sample(solver: str, weights: str, n: int = 10_000) -> Task:
    """Samples by "euler" in 50 steps or "dopri5" at its tolerances of 1e-5, under `vmap`."""
    graph, state = nnx.split(Network(Perceptron(moons.layers(weights))))
    options = {"num_steps": 50} if solver == "euler" else {}

    def alone(state: Any, x0: jax.Array) -> tuple[jax.Array, jax.Array]:
        model = nnx.merge(graph, state)
        solution = flow_matching.evaluate_velocity_field(model, x0, **options)
        steps = solution.stats["num_steps"]
        return solution.ys[-1], steps if solver == "euler" else 6 * steps + 1

    compiled = jax.jit(jax.vmap(alone, in_axes=(None, 0)))
    return sampled(compiled, state, weights, n, driver.parameters(state))


def couple(n: int, by: str) -> Task:
    """Pairs of a batch of `n`: the plan of Sinkhorn's defaults, or its loader with its draw."""
    x0, x1 = points(n)

    @jax.jit
    def plan(x0: jax.Array, x1: jax.Array) -> jax.Array:
        return linear.solve(PointCloud(x0, x1)).matrix

    def forever() -> Iterator[tuple[jax.Array, jax.Array]]:
        while True:
            yield x0, x1

    loader = iter(LinearOTDataloader(jax.random.key(0), forever()))
    squared = jnp.sum((x0[:, None] - x1[None]) ** 2, axis=-1)

    def run(k: int) -> None:
        for _ in range(k):
            jax.block_until_ready(plan(x0, x1) if by == "plan" else next(loader))

    if by == "plan":
        found = plan(x0, x1)
        cost = jnp.sum(found * squared) / jnp.sum(found)
    else:
        pairs = [next(loader) for _ in range(20)]
        cost = jnp.mean(jnp.stack([jnp.sum((a - b) ** 2, axis=1) for a, b in pairs]))
    return Task(run, {"n": n, "cost over exact": float(cost) / exact_cost(x0, x1)})

"""The tutorial of torchcfm: eight Gaussians to two moons, by a perceptron of width 64."""

import itertools

import jax
import jax.numpy as jnp
import optax

from benchmarks.task import Task
from jaxflow import couplings, data, draws, losses, networks, paths
from jaxflow.records import record
from jaxflow.training import ahead, draw_key, program, trainer
from jaxflow.types import Batch, Params

COUPLINGS = {
    "independent": couplings.independent(),
    "on_host": couplings.optimal_transport(on_host=True),
    "compiled": couplings.optimal_transport(),
    "sinkhorn": couplings.sinkhorn(0.05),
}


@record
class Pairs:
    """Batches of both distributions, drawn where the step runs."""

    start: data.Fresh
    end: data.Fresh

    def batch(self, step: jax.Array) -> Batch:
        return {**self.end.batch(step), "x0": self.start.batch(step)["x1"]}


def pairs(batch: int) -> Pairs:
    """The distributions of the tutorial."""
    start = data.toy.eight_gaussians(5.0, 0.1**0.25)
    end = data.toy.moons(0.0577, scale=3.0, center=(0.233, 0.233))
    return Pairs(
        data.stream(start, batch_size=batch, seed=0), data.stream(end, batch_size=batch, seed=1)
    )


def perceptron() -> tuple[networks.adapters.Linen, Params]:
    """The network of the tutorial, and its parameters."""
    network = networks.linen(networks.ConcatMLP(width=64, depth=3))
    return network, network.init(jax.random.key(0), jnp.zeros(1), jnp.zeros((1, 2)))


def training(coupling: str, batch: int = 256, steps: int = 200) -> Task:
    """Training steps, data included; `steps` of them a call, where all of it compiles."""
    network, params = perceptron()
    path = paths.linear()
    draw = draws.standard(path, coupling=COUPLINGS[coupling])
    run = program(
        trainer(losses.flow_matching(network, path), optax.adam(1e-3), draw=draw, ema_decay=0.0)
    )
    key, stream = jax.random.key(1), pairs(batch)
    state = run.init(params, key)
    facts = {"parameters": sum(leaf.size for leaf in jax.tree.leaves(params)), "batch": batch}

    def compiled(k: int) -> None:
        nonlocal state
        for _ in range(k):
            state, _ = run.steps(state, stream, steps)
        jax.block_until_ready(state)

    def pipelined(k: int) -> None:
        nonlocal state
        for batch in itertools.islice(completed, k):
            state, _ = run.step(state, batch)
        jax.block_until_ready(state)

    if not run.on_host:
        return Task(compiled, facts, steps)
    batches = map(jax.jit(stream.batch), itertools.count())
    completed = ahead(draw, lambda step: draw_key(key, step), batches)
    return Task(pipelined, facts)

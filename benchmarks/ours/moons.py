"""Noise to two moons on the perceptron of the tutorial, beside other JAX libraries."""

import itertools

import jax
import optax

from benchmarks import moons
from benchmarks.ours.sampling import as_linen
from benchmarks.ours.two_dimensional import perceptron
from benchmarks.task import Task
from jaxflow import data as data_
from jaxflow import draws, losses, paths
from jaxflow.records import record
from jaxflow.training import program, trainer
from jaxflow.types import Array, Batch

TRAINED = 2000


@record
class Fixed:
    """Batches that lie on the device, `[n, batch, 2]`, one after another in a cycle."""

    x1: Array

    def batch(self, step: Array) -> Batch:
        return {"x1": self.x1[step % len(self.x1)], "cond": {}}


def training(loop: str, data: str, steps: int = 200) -> Task:
    """Training steps: `program.steps`, or a loop over `program.step`.

    Args:
        loop: "steps" or "step".
        data: "fixed", or "drawn" by `jaxflow.data.toy` in the scan and by the function of the
            other side in the loop.
        steps: of a call of `program.steps`.
    """
    network, _ = perceptron()
    params = as_linen(moons.layers())
    path = paths.linear()
    loss = losses.flow_matching(network, path)
    run = program(
        trainer(
            loss,
            optax.adam(moons.LEARNING_RATE),
            draw=draws.standard(path),
            ema_decay=moons.EMA_DECAY,
        )
    )
    state = run.init(params, jax.random.key(0))
    toy = data_.stream(data_.toy.moons(), batch_size=moons.BATCH, seed=1)
    stream = Fixed(moons.fixed()) if data == "fixed" else toy
    ahead = ({"x1": x1, "cond": {}} for x1 in moons.batches(data))

    def scanned(k: int) -> None:
        nonlocal state
        for _ in range(k):
            state, _ = run.steps(state, stream, steps)
        jax.block_until_ready(state)

    def stepped(k: int) -> None:
        nonlocal state
        for batch in itertools.islice(ahead, k):
            state, _ = run.step(state, batch)
        jax.block_until_ready(state)

    @jax.jit
    def on_probe(params):
        return loss(params, None, {**moons.probe(), "z": None, "cond": {}})[0]

    unit, size = (scanned, steps) if loop == "steps" else (stepped, 1)

    def later() -> dict[str, float]:
        unit(TRAINED // size)
        return {"trained loss": float(on_probe(state.params))}

    facts = {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "loss": float(on_probe(params)),
    }
    return Task(unit, facts, size, later)

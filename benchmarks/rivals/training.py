"""A library's step in a bare jit, one call a step or many in one scan."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks import moons
from benchmarks.task import Task

Loss = Callable[[Any, jax.Array, jax.Array], jax.Array]

TRAINED = 2000


def bare(
    params: Any,
    loss: Loss,
    on_probe: Callable[[Any], jax.Array],
    loop: str,
    data: str,
    *,
    guarded: bool = False,
    steps: int = 200,
) -> Task:
    """Adam and an average around `loss(params, key, x1)`, as a user would write.

    Args:
        params: the first ones.
        loss: of a batch, the library's own, which draws its noise and times.
        on_probe: the loss of parameters on `moons.probe()`.
        loop: "jit", a compiled step in a loop, or "scan", `steps` of them in one call.
        data: "fixed" or "drawn".
        guarded: whether a step tells its loss and the norm of its gradient, and changes nothing
            where that is not finite, as every step of `training.program` does.
        steps: of a scan.
    """
    optimizer = optax.adam(moons.LEARNING_RATE)
    if guarded:
        optimizer = optax.apply_if_finite(optimizer, max_consecutive_errors=steps)
    key = jax.random.key(0)

    def step(state: Any, x1: jax.Array) -> tuple[Any, Any]:
        i, params, average, opt_state = state
        value, grads = jax.value_and_grad(loss)(params, jax.random.fold_in(key, i), x1)
        told = (value, optax.tree.norm(grads)) if guarded else None
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        decay = moons.EMA_DECAY
        average = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, average, params)
        return (i + 1, params, average, opt_state), told

    batches = moons.fixed()

    def batch(i: jax.Array, batches: jax.Array) -> jax.Array:
        if data == "fixed":
            return batches[i % len(batches)]
        return moons.draw(jax.random.fold_in(jax.random.key(3), i))

    def scan(state: Any, batches: jax.Array) -> tuple[Any, Any]:
        return jax.lax.scan(lambda s, _: step(s, batch(s[0], batches)), state, length=steps)

    one, many = jax.jit(step, donate_argnums=0), jax.jit(scan, donate_argnums=0)
    params = jax.tree.map(jnp.copy, params)
    average = jax.tree.map(jnp.copy, params)
    state = (jnp.zeros((), jnp.int32), params, average, jax.jit(optimizer.init)(params))
    facts = {"parameters": parameters(params), "loss": float(on_probe(params))}
    stream = moons.batches(data)

    def run_one(k: int) -> None:
        nonlocal state
        for x1 in itertools.islice(stream, k):
            state, _ = one(state, x1)
        jax.block_until_ready(state)

    def run_many(k: int) -> None:
        nonlocal state
        for _ in range(k):
            state, _ = many(state, batches)
        jax.block_until_ready(state)

    size = 1 if loop == "jit" else steps
    run = run_one if loop == "jit" else run_many

    def later() -> dict[str, float]:
        run(TRAINED // size)
        return {"trained loss": float(on_probe(state[1]))}

    return Task(run, facts, size, later)


def parameters(params: Any) -> int:
    """How many numbers the parameters hold."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))

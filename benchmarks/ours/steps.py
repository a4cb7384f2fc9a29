"""Training steps of image networks: loss, gradient and Adam, on a batch that lies on the device.

Imports nothing beyond jax, flax, optax, diffrax and numpy, so that it runs on a bare machine.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.task import Task
from jaxflow import losses, networks, paths
from jaxflow.training.cost import flops
from jaxflow.types import Batch

LEARNING_RATE = 1e-4


def dit(fields: Mapping[str, Any], dtype: str = "float32", **options: Any) -> Task:
    """A diffusion transformer; `options` are those of `train` or, with `forward`, of that."""
    return _task(networks.DiT(**fields, dtype=jnp.dtype(dtype)), **options)


def unet(fields: Mapping[str, Any], dtype: str = "float32", **options: Any) -> Task:
    """A U-Net; `options` as in `dit`."""
    return _task(networks.UNet(**fields, dtype=jnp.dtype(dtype)), **options)


def _task(
    module: nn.Module, shape: Sequence[int], forward: bool = False, count: bool = False
) -> Task:
    """Training steps on images `shape`, `[batch, height, width, channels]`, or the forward pass.

    `count` adds the operations of a step to the facts.
    """
    network = networks.linen(module)
    batch = images(shape)
    params = network.init(jax.random.key(0), batch["t"], batch["x1"])
    loss = losses.flow_matching(network, paths.linear())
    optimizer = optax.adam(LEARNING_RATE)
    gradient = jax.value_and_grad(loss, has_aux=True)

    def update(state: Any, batch: Batch) -> Any:
        params, opt_state = state
        _, grads = gradient(params, None, batch)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    facts: dict[str, Any] = {"parameters": sum(leaf.size for leaf in jax.tree.leaves(params))}
    facts["device"] = jax.devices()[0].device_kind
    if count:
        inputs = (network, params, batch["t"], batch["x1"])
        facts["flops"] = flops(*inputs) if forward else flops(gradient, params, None, batch)
    evaluate = jax.jit(network)
    step = jax.jit(update, donate_argnums=0)
    state = None if forward else (params, jax.jit(optimizer.init)(params))

    def infer(k: int) -> None:
        for _ in range(k):
            jax.block_until_ready(evaluate(params, batch["t"], batch["x1"]))

    def train(k: int) -> None:
        nonlocal state
        for _ in range(k):
            state = step(state, batch)
        jax.block_until_ready(state)

    return Task(infer if forward else train, facts)


def images(shape: Sequence[int]) -> Batch:
    """A completed batch of noise for data and source."""
    rng = np.random.default_rng(0)
    arrays = {"t": rng.uniform(size=shape[0])}
    arrays |= {name: rng.standard_normal(shape) for name in ("x0", "x1")}
    return {name: jnp.asarray(array, jnp.float32) for name, array in arrays.items()}

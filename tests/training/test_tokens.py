"""A transformer of tokens however it is trained: the gradients of one device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxflow import draws, losses, networks, paths, sources, times
from jaxflow.training import MODES, layout, program, trainer
from tests.problems import some_fast

VOCABULARY, LENGTH, BATCH = 11, 8, 16
MODULE = networks.Transformer(VOCABULARY, width=32, depth=2, heads=4, num_classes=3)
NETWORK = networks.linen(MODULE)
RNG = np.random.default_rng(0)
TOKENS, LABEL = RNG.integers(0, VOCABULARY, (BATCH, LENGTH)), np.arange(BATCH) % 3
MASK = RNG.random((BATCH, LENGTH)) < 0.8
PATHS = {
    "mask": lambda: paths.mixture(source=sources.mask(VOCABULARY)),
    "uniform": lambda: paths.mixture(source=sources.uniform_tokens(VOCABULARY)),
}
GRADIENT = optax.trace(0.0)


@functools.cache
def parameters():
    shapes = jax.eval_shape(
        lambda: NETWORK.init(jax.random.key(0), jnp.zeros(2), TOKENS[:2], label=LABEL[:2])
    )
    return jax.tree.map(lambda a: RNG.normal(size=a.shape) / 4, shapes)


def gradient_of(name, loss, over, mode="jit", microbatches=1):
    path = PATHS[name]()
    run = trainer(
        getattr(losses, loss)(NETWORK, path),
        optax.chain(GRADIENT, optax.scale(-1e-3)),
        draw=draws.standard(
            path, times=times.stratified(times.uniform()), drop=draws.drop(0.2, {"label": 3})
        ),
        microbatches=microbatches,
        axis_name=None if mode == "jit" else "data",
    )
    compiled = program(run, mode=mode, layout=over)
    state = compiled.init(parameters(), jax.random.key(5))
    batch = {"x1": jnp.asarray(TOKENS), "cond": {"label": jnp.asarray(LABEL)}, "mask": MASK}
    state, metrics = compiled.step(state, compiled.place(batch))
    return jax.device_get((state.opt_state[0].trace, metrics["loss"]))


@functools.cache
def of_one_device(name, loss):
    return gradient_of(name, loss, layout(devices=jax.devices()[:1]))


def over_eight(kind, **axes):
    return layout(kind, devices=jax.devices()[:8], tensor_axes=MODULE.tensor_axes, **axes)


CASES = {
    "fsdp": ("mask", "generalised_kl", "fsdp", {}, "jit", 1),
    "hybrid": ("uniform", "generalised_kl", "hybrid", {"fsdp": 4}, "jit", 2),
    "tensor": ("uniform", "cross_entropy", "tensor", {"tensor": 2}, "jit", 1),
    "tensor by fsdp": ("mask", "generalised_kl", "tensor", {"tensor": 2, "fsdp": 2}, "jit", 1),
    **{mode: ("mask", "generalised_kl", "data", {}, mode, 2) for mode in MODES},
}


@pytest.mark.parametrize("name", some_fast(CASES, ("fsdp", "tensor by fsdp", "shard_map")))
def test_gradients_are_those_of_one_device(name, x64):
    source, loss, kind, axes, mode, microbatches = CASES[name]
    expected, told = of_one_device(source, loss)
    got, told_ = gradient_of(source, loss, over_eight(kind, **axes), mode, microbatches)
    scale = optax.tree.norm(expected)
    assert scale > 1e-6
    assert optax.tree.norm(jax.tree.map(jnp.subtract, got, expected)) < 1e-11 * scale
    assert told_ == pytest.approx(told, rel=1e-11)

"""Transformers of tokens, and of parts, however they are trained: the gradients of one device."""

import functools
from typing import Any, NamedTuple

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
IMAGES = RNG.normal(size=(BATCH, 4, 4, 2))
GRADIENT = optax.trace(0.0)
SOURCES = {
    "mask": sources.mask(VOCABULARY),
    "uniform": sources.uniform_tokens(VOCABULARY),
}
PARTS = networks.MixedTransformer({"text": VOCABULARY}, width=32, depth=2, heads=4)


EDITOR = networks.EditTransformer(VOCABULARY, width=32, depth=2, heads=4, num_classes=3)
OF_BLOCKS = networks.BlockTransformer(VOCABULARY, 4, width=32, depth=2, heads=4, num_classes=3)


class Problem(NamedTuple):
    """A loss with its draw, a batch for it, and where parameters begin."""

    module: Any
    loss: Any
    draw: Any
    batch: dict[str, Any]
    params: Any


def begun(network, x1, **cond):
    small = jax.tree.map(lambda a: a[:2], (x1, cond))
    shapes = jax.eval_shape(
        lambda: network.init(jax.random.key(0), jnp.zeros(2), small[0], **small[1])
    )
    return jax.tree.map(lambda a: RNG.normal(size=a.shape) / 4, shapes)


@functools.cache
def of_tokens(source, loss):
    path = paths.mixture(source=SOURCES[source])
    draw = draws.standard(
        path, times=times.stratified(times.uniform()), drop=draws.drop(0.2, {"label": 3})
    )
    batch = {"x1": TOKENS, "cond": {"label": LABEL}, "mask": MASK}
    params = begun(NETWORK, TOKENS, label=LABEL)
    return Problem(MODULE, getattr(losses, loss)(NETWORK, path), draw, batch, params)


@functools.cache
def of_parts():
    """Images beside text."""
    path = paths.product({"image": paths.linear(), "text": paths.mixture(source=SOURCES["mask"])})
    each = {"image": losses.flow_matching, "text": losses.generalised_kl}
    draw = draws.standard(path, times={"image": times.uniform(), "text": times.uniform()})
    x1, network = {"image": IMAGES, "text": TOKENS}, networks.linen(PARTS)
    batch = {"x1": x1, "mask": {"text": MASK}}
    return Problem(PARTS, losses.mixed(network, path, each), draw, batch, begun(network, x1))


@functools.cache
def of_blocks():
    path, network = paths.mixture(source=SOURCES["mask"]), networks.linen(OF_BLOCKS)
    draw = draws.chain(
        draws.standard(path, drop=draws.drop(0.2, {"label": 3})),
        draws.by_block(path, 4, times=times.stratified(times.uniform())),
    )
    batch = {"x1": TOKENS, "cond": {"label": LABEL}, "mask": MASK}
    params = begun(network, TOKENS, label=LABEL, clean=TOKENS)
    return Problem(OF_BLOCKS, losses.generalised_kl(network, path), draw, batch, params)


@functools.cache
def of_edits():
    path, network = paths.edits(VOCABULARY, source=SOURCES["mask"]), networks.linen(EDITOR)
    words = np.where(np.arange(LENGTH) < RNG.integers(0, LENGTH, (BATCH, 1)), TOKENS, VOCABULARY)
    draw = draws.standard(path, drop=draws.drop(0.2, {"label": 3}))
    params = begun(network, words, label=LABEL)
    batch = {"x1": words, "cond": {"label": LABEL}}
    return Problem(EDITOR, losses.edits(network, path), draw, batch, params)


def gradient_of(problem, over, mode="jit", microbatches=1):
    run = trainer(
        problem.loss,
        optax.chain(GRADIENT, optax.scale(-1e-3)),
        draw=problem.draw,
        microbatches=microbatches,
        axis_name=None if mode == "jit" else "data",
    )
    compiled = program(run, mode=mode, layout=over)
    state = compiled.init(problem.params, jax.random.key(5))
    batch = jax.tree.map(jnp.asarray, problem.batch)
    state, metrics = compiled.step(state, compiled.place(batch))
    return jax.device_get((state.opt_state[0].trace, metrics["loss"]))


@functools.cache
def problem_of(name, *loss):
    whole = {"parts": of_parts, "blocks": of_blocks, "edits": of_edits}
    return whole[name]() if name in whole else of_tokens(name, *loss)


@functools.cache
def of_one_device(*problem):
    return gradient_of(problem_of(*problem), layout(devices=jax.devices()[:1]))


def over_eight(module, kind, **axes):
    return layout(kind, devices=jax.devices()[:8], tensor_axes=module.tensor_axes, **axes)


CASES = {
    "fsdp": (("mask", "generalised_kl"), "fsdp", {}, "jit", 1),
    "hybrid": (("uniform", "generalised_kl"), "hybrid", {"fsdp": 4}, "jit", 2),
    "tensor": (("uniform", "cross_entropy"), "tensor", {"tensor": 2}, "jit", 1),
    "tensor by fsdp": (("mask", "generalised_kl"), "tensor", {"tensor": 2, "fsdp": 2}, "jit", 1),
    "parts, fsdp": (("parts",), "fsdp", {}, "jit", 1),
    "parts, tensor by fsdp": (("parts",), "tensor", {"tensor": 2, "fsdp": 2}, "jit", 2),
    "blocks, tensor by fsdp": (("blocks",), "tensor", {"tensor": 2, "fsdp": 2}, "jit", 2),
    "edits, fsdp": (("edits",), "fsdp", {}, "jit", 2),
    "edits, tensor by fsdp": (("edits",), "tensor", {"tensor": 2, "fsdp": 2}, "jit", 1),
    **{mode: (("mask", "generalised_kl"), "data", {}, mode, 2) for mode in MODES},
}


@pytest.mark.parametrize(
    "name",
    some_fast(
        CASES,
        (
            "tensor by fsdp",
            "blocks, tensor by fsdp",
            "edits, tensor by fsdp",
            "shard_map",
        ),
    ),
)
def test_gradients_are_those_of_one_device(name, x64):
    problem, kind, axes, mode, microbatches = CASES[name]
    made = problem_of(*problem)
    expected, told = of_one_device(*problem)
    got, told_ = gradient_of(made, over_eight(made.module, kind, **axes), mode, microbatches)
    scale = optax.tree.norm(expected)
    assert scale > 1e-6
    assert optax.tree.norm(jax.tree.map(jnp.subtract, got, expected)) < 1e-11 * scale
    assert told_ == pytest.approx(told, rel=1e-11)

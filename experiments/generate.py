"""Samples of a trained run, a batch at a time, on every device."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import PartitionSpec
from ml_collections import ConfigDict

from experiments import build
from experiments.components import component
from experiments.pictures import is_image
from jaxflow import training
from jaxflow.types import Array, Params

__all__ = ["Samples", "conditions", "generator"]


class Samples(NamedTuple):
    """Samples, their conditions by name, and what each cost.

    `nfe` counts calls of the velocity; the network was called `evaluations` times as often.
    """

    x: np.ndarray
    cond: dict[str, np.ndarray]
    nfe: np.ndarray
    success: np.ndarray
    evaluations: int


def conditions(config: ConfigDict, num: int) -> dict[str, np.ndarray]:
    """Labels in turn, all classes alike; any other condition from rows of the evaluation split."""
    found: dict[str, np.ndarray] = {}
    others = [name for name in config.data.cond if name != "label"]
    if "label" in config.data.cond:
        found["label"] = np.arange(num, dtype=np.int32) % config.network.kwargs.num_classes
    if others:
        rows = build.examples(config, config.evaluation.split)
        found |= {name: np.resize(rows[name], (num, *rows[name].shape[1:])) for name in others}
    return found


def generator(config: ConfigDict, num: int) -> Callable[..., Samples]:
    """`(params, seed, on_batch=None) -> Samples`, compiled once for `num` samples.

    Sample `i` has the key `fold_in(key(seed), i)`, whatever `num` is; `on_batch` is told how many
    are done.

    Args:
        config: of the run; `sampler` says how.
        num: how many.

    Raises:
        ValueError: where `num < 1`.
    """
    if num < 1:
        raise ValueError(f"num must be at least 1; it is {num}")
    cond = conditions(config, num)
    run, size = _compiled(config, num)

    def generate(
        params: Params, seed: int, on_batch: Callable[[int], None] | None = None
    ) -> Samples:
        velocity = build.velocity(config, params)
        pieces = []
        for start in range(0, num, size):
            index = np.minimum(np.arange(start, start + size), num - 1)
            part = {name: value[index] for name, value in cond.items()}
            kept = min(size, num - start)
            solved = jax.device_get(run(velocity, jax.random.key(seed), index, part))
            pieces.append([a[:kept] for a in solved])
            if on_batch is not None:
                on_batch(start + kept)
        x, nfe, success = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
        x = np.clip(x, -1, 1) if is_image(x) else x
        return Samples(x, cond, nfe, success, velocity.evaluations)

    return generate


def _compiled(config: ConfigDict, num: int) -> tuple[Callable[..., tuple[Array, ...]], int]:
    """One compiled batch over all devices without a collective, and its size."""
    mesh = training.data_mesh()
    per_device = -(-min(config.sampler.batch_size, num) // mesh.size)
    event_shape = build.example_batch(config)["x1"].shape[1:]
    source, sample = component("source", config.source), build.sampler(config)

    def batch(velocity, key, index, cond):  # type: ignore[no-untyped-def]
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(index)
        x0 = source.sample(keys, event_shape)
        solution = sample(velocity, x0, cond=cond)
        return solution.x, solution.nfe, solution.success

    whole, split = PartitionSpec(), PartitionSpec(mesh.axis_names[0])
    mapped = jax.shard_map(
        batch,
        mesh=mesh,
        in_specs=(whole, whole, split, split),
        out_specs=split,
        check_vma=False,
    )
    return jax.jit(mapped), per_device * mesh.size

"""What a step is on each device, by mode: four bodies with one signature."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
from jax.sharding import PartitionSpec

from jaxflow.training import gradients
from jaxflow.training.layouts import Layout
from jaxflow.types import Array, Batch, Loss, Params, TrainState

__all__ = ["mapped", "partitioned", "pmapped", "reduced_once"]

AXIS = "data"

Stepped = tuple[TrainState, Mapping[str, Array]]


def partitioned(
    tree: Any, layout: Layout, leaves: list[Array], state: TrainState, batch: Batch
) -> Stepped:
    """One program for all devices, whose communication the compiler places."""
    made = tree.unflatten(leaves)
    if not getattr(made.loss, "gathers", False):
        made = dataclasses.replace(made, loss=partial(_of_gathered, made.loss, layout))
    return made.step(state, batch)


def _of_gathered(loss: Loss, layout: Layout, params: Params, *rest: Any) -> Any:
    """A loss whose network does not gather its parameters layer by layer: all of them, at once."""
    return loss(layout.gathered(params), *rest)


def reduced_once(
    tree: Any, layout: Layout, dtype: Any, leaves: list[Array], state: TrainState, batch: Batch
) -> Stepped:
    """A gradient a device, which come together once; the update is the compiler's to lay out."""

    def of_device(leaves: list[Array], state: TrainState, batch: Batch) -> Any:
        axes = ("data", "fsdp")
        return dataclasses.replace(tree.unflatten(leaves), axis_name=axes).gradient(state, batch)

    gradient = gradients.reduced_once(of_device, layout, dtype, state.params)
    return tree.unflatten(leaves).update(state, *gradient(leaves, state, batch))


def mapped(
    tree: Any, layout: Layout, leaves: list[Array], state: TrainState, batch: Batch
) -> Stepped:
    """The body of one device under `shard_map`."""
    whole = PartitionSpec()
    body = jax.shard_map(
        lambda leaves, state, batch: tree.unflatten(leaves).step(state, batch),
        mesh=layout.mesh,
        in_specs=(whole, whole, PartitionSpec(AXIS)),
        out_specs=whole,
        check_vma=False,
    )
    return body(leaves, state, batch)


def pmapped(tree: Any, layout: Layout, complete: Callable[..., Batch], donate: bool) -> Any:
    """The body of one device under `pmap`; the draw is a program of its own before it."""
    devices = list(layout.mesh.devices.ravel())
    body = jax.pmap(
        lambda leaves, state, batch: tree.unflatten(leaves).step(state, batch),
        axis_name=AXIS,
        in_axes=(None, None, 0),
        out_axes=None,
        devices=devices,
        donate_argnums=1 if donate else (),
    )

    def step(
        leaves: list[Array], state: TrainState, batch: Batch
    ) -> tuple[TrainState, Mapping[str, Array]]:
        batch = complete(leaves, state, batch)
        parts = jax.tree.map(lambda a: a.reshape(len(devices), -1, *a.shape[1:]), batch)
        return body(leaves, state, parts)

    return step

"""Training steps compiled for every device: one program, three modes.

`jit` lays the state and the batch over a mesh with explicit shardings and lets the compiler
communicate; `shard_map` and `pmap` run one body a device, which averages gradients itself. What is
random is drawn on the global batch in each, so all give the gradients of one device.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxflow.arrays import batch_size
from jaxflow.draws import on_host
from jaxflow.training.trainer import draw_key
from jaxflow.types import Array, Batch, Trainer, TrainState

__all__ = ["MODES", "Program", "data_mesh", "program"]

MODES = ("jit", "shard_map", "pmap")
AXIS = "data"

Step = Callable[[TrainState, Batch], tuple[TrainState, Mapping[str, Array]]]


class Stream(Protocol):
    """Batches that are a pure function of the step, such as `data.on_device`."""

    def batch(self, step: Array) -> Batch: ...


class Program(NamedTuple):
    """A compiled training run.

    `init(params, key, frozen=None)` lays a state over the mesh. `step(state, batch)` takes one
    step and gives up the state it is given. `steps(state, stream, n)` takes `n` steps in one call
    on batches that the stream makes on the device, with metrics `[n]`. `place(batch)` lays a
    host's batch over the mesh. `mesh` is where all of it lies; `drawn` says that `step` wants
    batches that `draws.ahead` has completed, since a part of the draw runs on the host.
    """

    init: Callable[..., TrainState]
    step: Step
    steps: Callable[[TrainState, Stream, int], tuple[TrainState, Mapping[str, Array]]]
    place: Callable[[Batch], Batch]
    mesh: Mesh
    drawn: bool


def data_mesh(devices: Any = None) -> Mesh:
    """A mesh of one axis, `data`, over the given devices (all of them where None)."""
    devices = jax.devices() if devices is None else devices
    return Mesh(np.asarray(devices), (AXIS,), axis_types=(AxisType.Auto,))


def program(trainer: Trainer, *, mode: str = "jit", mesh: Mesh | None = None) -> Program:
    """Compile a trainer over a mesh.

    Args:
        trainer: built with `axis_name="data"` for the modes that map, and without for jit.
        mode: "jit", "shard_map" or "pmap".
        mesh: from `data_mesh`; over all devices where None.

    Raises:
        ValueError: for an unknown mode, or a trainer whose axis does not fit it.
    """
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}, but must be one of {', '.join(MODES)}")
    wanted = None if mode == "jit" else AXIS
    if trainer.axis_name != wanted:
        raise ValueError(
            f"mode {mode!r} needs a trainer with axis_name={wanted!r}; this one has "
            f"{trainer.axis_name!r}"
        )
    mesh = data_mesh() if mesh is None else mesh
    whole, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(AXIS))
    drawn = on_host(trainer.draw)

    def complete(state: TrainState, batch: Batch) -> Batch:
        if drawn:
            return batch
        batch = trainer.draw(draw_key(state.key, state.step), batch)
        return jax.lax.with_sharding_constraint(batch, split)

    body = trainer.step if mode == "jit" else _mapped(trainer, mesh)

    def one(state: TrainState, batch: Batch) -> tuple[TrainState, Mapping[str, Array]]:
        return body(state, complete(state, batch))

    def many(state: TrainState, stream: Stream, n: int) -> tuple[TrainState, Mapping[str, Array]]:
        return jax.lax.scan(lambda s, _: one(s, stream.batch(s.step)), state, length=n)

    def place(batch: Batch) -> Batch:
        n = batch_size(batch)
        if n % mesh.size:
            raise ValueError(
                f"a batch of {n} does not divide over {mesh.size} devices: choose a multiple"
            )
        return jax.device_put(batch, split)

    init = jax.jit(trainer.init, out_shardings=whole)
    if mode == "pmap":
        return Program(init, _pmapped(trainer, mesh, complete), _no_scan, place, mesh, drawn)
    step = jax.jit(one, in_shardings=(whole, split), out_shardings=whole, donate_argnums=0)
    steps = jax.jit(
        many, static_argnums=2, out_shardings=whole, in_shardings=(whole, whole), donate_argnums=0
    )
    return Program(init, step, steps, place, mesh, drawn)


def _mapped(trainer: Trainer, mesh: Mesh) -> Step:
    """The body of one device under `shard_map`."""
    return jax.shard_map(
        trainer.step,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec(AXIS)),
        out_specs=PartitionSpec(),
        check_vma=False,
    )


def _pmapped(trainer: Trainer, mesh: Mesh, complete: Callable[..., Batch]) -> Step:
    """The body of one device under `pmap`; the draw is a program of its own before it."""
    devices = list(mesh.devices.ravel())
    draw = jax.jit(complete)
    body = jax.pmap(
        trainer.step,
        axis_name=AXIS,
        in_axes=(None, 0),
        out_axes=None,
        devices=devices,
        donate_argnums=0,
    )

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Mapping[str, Array]]:
        batch = draw(state, batch)
        parts = jax.tree.map(lambda a: a.reshape(len(devices), -1, *a.shape[1:]), batch)
        return body(state, parts)

    return step


def _no_scan(state: TrainState, stream: Stream, n: int) -> Any:
    raise ValueError(
        "several steps a call need mode 'jit' or 'shard_map': a pmap cannot be scanned over"
    )

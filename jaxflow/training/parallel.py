"""Training steps compiled for every device: one program, three modes.

`jit` lays the state and the batch over a mesh by a layout and lets the compiler communicate;
`shard_map` and `pmap` run one body a device, which averages gradients itself, and take the layout
`data` alone. What is random is drawn on the global batch in each, so all give the gradients of one
device.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax.sharding import PartitionSpec

from jaxflow.arrays import batch_size
from jaxflow.draws import on_host
from jaxflow.training import processes
from jaxflow.training.layouts import Layout, layout
from jaxflow.training.trainer import draw_key
from jaxflow.types import Array, Batch, Key, Params, Trainer, TrainState

__all__ = ["MODES", "Program", "check_divides", "program"]

MODES = ("jit", "shard_map", "pmap")
AXIS = "data"

Step = Callable[[TrainState, Batch], tuple[TrainState, Mapping[str, Array]]]


class Stream(Protocol):
    """Batches that are a pure function of the step, such as `data.on_device`."""

    def batch(self, step: Array) -> Batch: ...


class Program(NamedTuple):
    """A compiled training run.

    `init(params, key, frozen=None)` lays a state over the mesh; parameters that come as NumPy
    arrays go to each device in its part alone, so that no device ever holds them whole.
    `step(state, batch)` takes one step and gives up the state it is given. `steps(state, stream,
    n)` takes `n` steps in one call on batches that the stream makes on the device, with metrics
    `[n]`. `place(batch)` lays a host's batch over the devices: the rows of this process, where
    there are several. `layout` says where all of it lies; `drawn` that `step` wants batches that
    `draws.ahead` has completed, since a part of the draw runs on the host.
    """

    init: Callable[..., TrainState]
    step: Step
    steps: Callable[[TrainState, Stream, int], tuple[TrainState, Mapping[str, Array]]]
    place: Callable[[Batch], Batch]
    layout: Layout
    drawn: bool


def program(trainer: Trainer, *, mode: str = "jit", over: Layout | None = None) -> Program:
    """Compile a trainer over devices.

    Args:
        trainer: built with `axis_name="data"` for the modes that map, and without for jit.
        mode: "jit", "shard_map" or "pmap".
        over: a layout; `layout("data")`, over all devices, where None.

    Raises:
        ValueError: for an unknown mode, or a trainer whose axis or a layout that does not fit it.
    """
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}, but must be one of {', '.join(MODES)}")
    over = layout() if over is None else over
    wanted = None if mode == "jit" else AXIS
    if trainer.axis_name != wanted:
        raise ValueError(
            f"mode {mode!r} needs a trainer with axis_name={wanted!r}; this one has "
            f"{trainer.axis_name!r}"
        )
    _check_mode(mode, over)
    drawn = on_host(trainer.draw)

    def complete(state: TrainState, batch: Batch) -> Batch:
        check_divides(batch_size(batch), over)
        if not drawn:
            batch = trainer.draw(draw_key(state.key, state.step), batch)
        return jax.lax.with_sharding_constraint(batch, over.batch)

    body = trainer.step if mode == "jit" else _mapped(trainer, over)

    def laid(state: TrainState) -> TrainState:
        return jax.lax.with_sharding_constraint(state, over.shardings(state))

    def one(state: TrainState, batch: Batch) -> tuple[TrainState, Mapping[str, Array]]:
        state, metrics = body(laid(state), complete(state, batch))
        return laid(state), jax.lax.with_sharding_constraint(metrics, over.whole)

    def many(state: TrainState, stream: Stream, n: int) -> tuple[TrainState, Mapping[str, Array]]:
        return jax.lax.scan(lambda s, _: one(s, stream.batch(s.step)), state, length=n)

    begin = jax.jit(lambda params, key, frozen: laid(trainer.init(params, key, frozen)))

    def init(params: Params, key: Key, frozen: Params = None) -> TrainState:
        params, frozen = (processes.lay(tree, over.split(tree)) for tree in (params, frozen))
        return begin(params, key, frozen)

    place = partial(_place, over, drawn)
    if mode == "pmap":
        return Program(init, _pmapped(trainer, over, complete), _no_scan, place, over, drawn)
    step = jax.jit(one, donate_argnums=0)
    steps = jax.jit(many, static_argnums=2, donate_argnums=0)
    return Program(init, step, steps, place, over, drawn)


def check_divides(n: int, over: Layout) -> None:
    """Refuse a batch of `n` that the devices cannot share evenly.

    Raises:
        ValueError: naming both numbers.
    """
    if n % over.batch_parts:
        raise ValueError(
            f"a batch of {n} does not divide over {over.batch_parts} devices: choose a multiple"
        )


def _check_mode(mode: str, over: Layout) -> None:
    if mode == "jit":
        return
    if over.batch_parts != over.mesh.shape["data"] or over.mesh.shape["tensor"] > 1:
        raise ValueError(
            f"mode {mode!r} keeps the whole state on every device; the layout "
            f"{dict(over.mesh.shape)} needs mode 'jit'"
        )
    if mode == "pmap" and jax.process_count() > 1:
        raise ValueError(
            "mode 'pmap' runs in one process; 'shard_map' runs the same body in several"
        )


def _place(over: Layout, drawn: bool, batch: Batch) -> Batch:
    """Rows to the devices that they belong to."""
    _, shares = (0, 1) if drawn else over.share
    check_divides(batch_size(batch) * shares, over)
    if jax.process_count() == 1:
        return jax.device_put(batch, over.batch)
    if drawn:
        return jax.tree.map(
            lambda a: jax.make_array_from_callback(a.shape, over.batch, np.asarray(a).__getitem__),
            batch,
        )
    return jax.tree.map(
        lambda a: jax.make_array_from_process_local_data(over.batch, np.asarray(a)), batch
    )


def _mapped(trainer: Trainer, over: Layout) -> Step:
    """The body of one device under `shard_map`."""
    return jax.shard_map(
        trainer.step,
        mesh=over.mesh,
        in_specs=(PartitionSpec(), PartitionSpec(AXIS)),
        out_specs=PartitionSpec(),
        check_vma=False,
    )


def _pmapped(trainer: Trainer, over: Layout, complete: Callable[..., Batch]) -> Step:
    """The body of one device under `pmap`; the draw is a program of its own before it."""
    devices = list(over.mesh.devices.ravel())
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

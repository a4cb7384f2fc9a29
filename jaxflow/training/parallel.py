"""Training steps compiled for every device: one program, three modes.

`jit` lays the state and the batch over a mesh by a layout and lets the compiler communicate;
`shard_map` and `pmap` run one body a device, which averages gradients itself, and take the layout
`data` alone. What is random is drawn on the global batch in each, so all give the gradients of one
device.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.arrays import batch_size
from jaxflow.draws.chain import on_host as runs_on_host
from jaxflow.sharding import keeping_gathered
from jaxflow.training import bodies, layouts, processes
from jaxflow.training.layouts import Layout
from jaxflow.training.many import Arrays, Many, check_state
from jaxflow.training.trainer import Trainer, draw_key, held_by
from jaxflow.types import Array, Batch, Key, Params, Stream, TrainState

__all__ = ["MODES", "Program", "check_divides", "program"]

MODES = ("jit", "shard_map", "pmap")

Step = Callable[[TrainState, Batch], tuple[TrainState, Mapping[str, Array]]]


class Program(NamedTuple):
    """A compiled training run.

    `init(params, key, frozen=None)` lays a state over the mesh; parameters that come as NumPy
    arrays go to each device in its part alone, so that no device ever holds them whole.
    `step(state, batch)` takes one step and gives up the state it is given (unless the program was
    made with `donate=False`). `steps(state, stream, n)` takes `n` steps in one call on batches that
    the stream makes on the device, with metrics `[n]`; another `n` runs the same program.
    `place(batch)` lays a host's batch over the devices: the rows of this process, where there are
    several. `layout` says where all of it lies; `on_host` that `step` wants batches that
    `training.ahead` has completed, since a part of the draw runs on the host.
    """

    init: Callable[..., TrainState]
    step: Step
    steps: Callable[[TrainState, Stream, int], tuple[TrainState, Mapping[str, Array]]]
    place: Callable[[Batch], Batch]
    layout: Layout
    on_host: bool
    mode: str
    trainer: Trainer


def program(
    trainer: Trainer,
    *,
    mode: str = "jit",
    layout: Layout | None = None,
    donate: bool = True,
    reduce_dtype: Any = None,
    keep_gathered: bool = False,
) -> Program:
    """Compile a trainer over devices.

    Args:
        trainer: built with `axis_name="data"` for the modes that map, and without for jit.
        mode: "jit", "shard_map" or "pmap".
        layout: where the state lies; `training.layout("data")`, over all devices, where None.
        donate: whether a step reuses the memory of the state that it is given, which then is gone,
            its averages too. Without, old states stay, at twice the memory.
        reduce_dtype: what gradients travel in between devices, of mode "jit". With it, or with
            several microbatches (then float32 where None), every device keeps the parameters and a
            gradient of its own whole through the step, so that they travel once, and dropout is
            drawn device by device. Without, each layer's gradient travels as it is computed.
        keep_gathered: whether layers keep the parameters that they gathered along fsdp for the way
            back, at the memory of all of them, where otherwise they free them and gather them
            again. Blocks that are computed again (`remat`) gather again.

    Raises:
        TypeError: for what is no trainer.
        ValueError: for an unknown mode, a trainer whose axis or a layout that does not fit it, or
            gradients that are to travel as what is no float.
    """
    if not isinstance(trainer, Trainer):
        raise TypeError(
            f"a program is compiled from a trainer; got {type(trainer).__name__}: make one by "
            "training.trainer(loss, optimizer, draw=...)"
        )
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}, but must be one of {', '.join(MODES)}")
    layout = layouts.layout() if layout is None else layout
    wanted = None if mode == "jit" else bodies.AXIS
    if trainer.axis_name != wanted:
        raise ValueError(
            f"mode {mode!r} needs a trainer with axis_name={wanted!r}; this one has "
            f"{trainer.axis_name!r}"
        )
    _check_mode(mode, layout)
    reduce_dtype = _check_reduced(mode, reduce_dtype)
    on_host = runs_on_host(trainer.draw)
    # Flat, since hashing a trainer at every call would cost what a small step does.
    leaves, tree = jax.tree.flatten(trainer)
    held = Arrays(leaves, layout.whole)

    def complete(leaves: list[Array], state: TrainState, batch: Batch) -> Batch:
        check_divides(batch_size(batch), layout, trainer.microbatches)
        if not on_host:
            key = draw_key(state.key, state.step)
            batch = tree.unflatten(leaves).draw(key, batch, held_by(state))
        if "groups" in batch:
            n, size = batch_size(batch["x1"]), batch["groups"].size
            check_divides(n, layout, trainer.microbatches, f" groups of {size}")
        return jax.lax.with_sharding_constraint(batch, layout.batch)

    def constrained(state: TrainState) -> TrainState:
        return jax.lax.with_sharding_constraint(state, layout.shardings(state))

    body = partial(bodies.partitioned if mode == "jit" else bodies.mapped, tree, layout)
    if mode == "jit" and layout.batch_parts > 1 and (trainer.microbatches > 1 or reduce_dtype):
        body = partial(bodies.reduced_once, tree, layout, reduce_dtype)

    def one(
        leaves: list[Array], state: TrainState, batch: Batch
    ) -> tuple[TrainState, Mapping[str, Array]]:
        state = constrained(state)
        batch = complete(leaves, state, batch)
        # Layers find the mesh here, to gather their parameters where they use them.
        mesh = jax.sharding.use_abstract_mesh(layout.mesh.abstract_mesh)
        with mesh, keeping_gathered(keep_gathered):
            state, metrics = body(leaves, state, batch)
        return constrained(state), jax.lax.with_sharding_constraint(metrics, layout.whole)

    begin = jax.jit(lambda params, key, frozen: constrained(trainer.init(params, key, frozen)))

    def init(params: Params, key: Key, frozen: Params = None) -> TrainState:
        params, frozen = (processes.distribute(p, layout.split(p)) for p in (params, frozen))
        return layout.settled(begin(params, key, frozen))

    place = partial(_place, layout, on_host)
    if mode == "pmap":
        step = bodies.pmapped(tree, layout, jax.jit(complete), donate)
        checked = _Checked(step, held, layout, on_host)
        return Program(init, checked, _no_scan, place, layout, on_host, mode, trainer)
    step = jax.jit(one, donate_argnums=1 if donate else ())
    many = Many(one, held, layout, donate=donate, on_host=on_host)
    checked = _Checked(step, held, layout, on_host)
    return Program(init, checked, many, place, layout, on_host, mode, trainer)


class _Checked:
    """A compiled step with the arrays of its trainer, that says what cannot be a step."""

    def __init__(
        self,
        step: Callable[..., Any],
        held: Arrays,
        layout: Layout,
        on_host: bool,
    ):
        self._step, self._held, self._layout, self._on_host = step, held, layout, on_host

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Mapping[str, Array]]:
        check_state(state)
        if not isinstance(batch, Mapping):
            raise TypeError(
                f'a batch is a mapping, {{"x1": data, "cond": {{...}}}}; got {type(batch).__name__}'
            )
        if self._on_host and "t" not in batch:
            raise ValueError(
                "a part of this draw runs on the host, so the step takes batches that are drawn "
                "already: for batch in training.ahead(trainer.draw, keys, batches)"
            )
        return self._layout.settled(self._step(self._held.placed, state, batch))

    def lower(self, state: Any, batch: Any) -> Any:
        """The lowered program, for shapes or arrays, as `jax.jit` gives it."""
        return self._step.lower(self._held.shapes, state, batch)


def check_divides(n: int, layout: Layout, microbatches: int = 1, what: str = "") -> None:
    """Refuse a batch of `n` that the devices cannot share evenly, each in so many parts.

    What there are `n` of is said by `what`, where it is not examples.

    Raises:
        ValueError: naming the numbers.
    """
    if n % layout.batch_parts:
        raise ValueError(
            f"a batch of {n}{what} does not divide over {layout.batch_parts} devices: choose a "
            "multiple"
        )
    if n // layout.batch_parts % microbatches:
        parts = "" if layout.batch_parts == 1 else f"over {layout.batch_parts} devices and "
        raise ValueError(
            f"a batch of {n}{what} does not divide {parts}into {microbatches} microbatches: choose "
            f"a multiple of {layout.batch_parts * microbatches}"
        )


def _check_reduced(mode: str, dtype: Any) -> Any:
    if dtype is None:
        return None
    if mode != "jit":
        raise ValueError(
            f"mode {mode!r} reduces gradients in float32; reduce_dtype={dtype!r} needs mode 'jit'"
        )
    try:
        known = jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
    except TypeError:
        known = False
    if not known:
        raise ValueError(f"reduce_dtype is {dtype!r}, but must be a float, as 'float32'")
    return jnp.dtype(dtype)


def _check_mode(mode: str, layout: Layout) -> None:
    if mode == "jit":
        return
    if layout.batch_parts != layout.mesh.shape["data"] or layout.mesh.shape["tensor"] > 1:
        raise ValueError(
            f"mode {mode!r} keeps the whole state on every device; the layout "
            f"{dict(layout.mesh.shape)} needs mode 'jit'"
        )
    if mode == "pmap" and jax.process_count() > 1:
        raise ValueError(
            "mode 'pmap' runs in one process; 'shard_map' runs the same body in several"
        )


def _place(layout: Layout, on_host: bool, batch: Batch) -> Batch:
    """Rows to the devices that they belong to."""
    _, shares = (0, 1) if on_host else layout.share
    check_divides(batch_size(batch) * shares, layout)
    if jax.process_count() == 1:
        return jax.device_put(batch, layout.batch)
    if on_host:
        return jax.tree.map(
            lambda a: jax.make_array_from_callback(
                a.shape, layout.batch, np.asarray(a).__getitem__
            ),
            batch,
        )
    return jax.tree.map(
        lambda a: jax.make_array_from_process_local_data(layout.batch, np.asarray(a)), batch
    )


def _no_scan(state: TrainState, stream: Stream, n: int) -> Any:
    raise ValueError(
        "several steps a call need mode 'jit' or 'shard_map': a pmap cannot be scanned over"
    )

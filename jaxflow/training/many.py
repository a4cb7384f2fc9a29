"""Many steps in one call, however many: one program for every number of them."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.records import traceable
from jaxflow.training import processes
from jaxflow.training.layouts import Layout
from jaxflow.types import Array, Batch, Stream, TrainState

__all__ = ["Arrays", "Many", "check_state"]

CAPACITY = 1024


class Arrays:
    """The arrays that a trainer holds: their shapes, and themselves, laid out when first asked for.

    So that a program for devices that are not here can be lowered.
    """

    def __init__(self, leaves: Sequence[Any], sharding: jax.sharding.Sharding):
        self._leaves, self._sharding = [jnp.asarray(leaf) for leaf in leaves], sharding

    @property
    def shapes(self) -> list[jax.ShapeDtypeStruct]:
        """Their shapes and dtypes, with the sharding."""
        return [
            jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=self._sharding) for a in self._leaves
        ]

    @cached_property
    def placed(self) -> list[Array]:
        """They themselves."""
        return [processes.distribute(a, self._sharding) for a in self._leaves]


class Many:
    """`(state, stream, n)`: `n` steps on the batches of a stream, with metrics `[n]`.

    The number of steps is an argument of the program, and the room for their metrics its only
    size: that of the first call, or 1,024 steps once a call asked for more. Longer calls are taken
    in turns, so that two programs at most are compiled.
    """

    def __init__(
        self,
        one: Callable[..., Any],
        held: Arrays,
        layout: Layout,
        *,
        donate: bool,
        on_host: bool,
    ):
        self._run = jax.jit(
            lambda *arguments, room: _many(one, *arguments, room=room),
            static_argnames="room",
            donate_argnums=1 if donate else (),
        )
        self._held = held
        self._layout = layout
        self._on_host = on_host
        self._count = lru_cache(lambda n: processes.distribute(np.int32(n), layout.whole))
        self._room = 0

    def __call__(
        self, state: TrainState, stream: Stream | Callable[..., Batch], n: int
    ) -> tuple[TrainState, Mapping[str, Array]]:
        check_state(state)
        stream = _as_stream(stream)
        if self._on_host:
            raise ValueError(
                "a part of this draw runs on the host, so steps are taken one by one: "
                "program.step on batches of training.ahead(trainer.draw, keys, batches)"
            )
        if n < 1:
            raise ValueError(f"n must be at least 1; it is {n}")
        if not self._room or (n > self._room and self._room < CAPACITY):
            self._room = n if not self._room else max(n, CAPACITY)
        if n == self._room:
            return self._take(state, stream, n)
        pieces = []
        while n > 0:
            taken = min(n, self._room)
            state, metrics = self._take(state, stream, taken)
            pieces.append({k: np.asarray(a)[:taken] for k, a in metrics.items()})
            n -= taken
        # Put, since `jnp.asarray` compiles a copy for every length.
        joined = {k: np.concatenate([piece[k] for piece in pieces]) for k in pieces[0]}
        return state, jax.device_put(joined)

    def _take(self, state: TrainState, stream: Any, n: int) -> Any:
        found = self._run(self._held.placed, state, stream, self._count(n), room=self._room)
        return self._layout.settled(found)

    def lower(self, state: Any, stream: Any, n: int) -> Any:
        """The lowered program with room for `n` steps, as `jax.jit` gives it."""
        count = jax.ShapeDtypeStruct((), jnp.int32, sharding=self._layout.whole)
        return self._run.lower(self._held.shapes, state, traceable(stream), count, room=n)


def _many(
    one: Callable[..., Any],
    held: list[Array],
    state: TrainState,
    stream: Any,
    n: Array,
    *,
    room: int,
) -> tuple[TrainState, Mapping[str, Array]]:
    def step(state: TrainState) -> tuple[TrainState, Mapping[str, Array]]:
        return one(held, state, getattr(stream, "batch", stream)(state.step))

    def body(i: Array, carry: Any) -> Any:
        state, kept = carry
        state, metrics = step(state)
        return state, jax.tree.map(lambda a, m: a.at[i].set(m), kept, metrics)

    shapes = jax.eval_shape(step, state)[1]
    kept = jax.tree.map(lambda m: jnp.zeros((room, *m.shape), m.dtype), shapes)
    return jax.lax.fori_loop(0, n, body, (state, kept))


def _as_stream(stream: Any) -> Any:
    if hasattr(stream, "batch") or (callable(stream) and not hasattr(stream, "__next__")):
        return traceable(stream)
    raise TypeError(
        "program.steps draws its batches on the device, from an object with batch(step); got "
        f"{type(stream).__name__}: data.on_device({{'x1': array}}, batch_size=..., seed=0) makes "
        "one of arrays, and program.step takes the batches of an iterator one by one"
    )


def check_state(state: Any) -> None:
    """Refuse what is no training state, and one that a step was given before.

    Raises:
        TypeError: for the first.
        ValueError: for the second.
    """
    if not isinstance(state, TrainState):
        raise TypeError(
            f"a step takes a training state; got {type(state).__name__}: program.init(params, key) "
            "makes one"
        )
    if isinstance(state.step, jax.Array) and state.step.is_deleted():
        raise ValueError(
            "this state was given to a step before, which reused its memory: go on with the state "
            "that the step returned, or compile by program(trainer, donate=False)"
        )

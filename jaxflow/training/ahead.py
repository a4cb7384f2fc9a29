"""Batches whose draw runs ahead of the step, on threads."""

import itertools
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.records import traceable
from jaxflow.types import Batch, Draw, Key

__all__ = ["ahead"]


def ahead(
    draw: Draw,
    keys: Callable[[int], Key],
    batches: Iterable[Batch],
    *,
    first: int = 0,
    depth: int = 2,
) -> Iterator[Batch]:
    """Completed batches, drawn on threads while the steps before them run.

    What can be compiled is; what runs on the host (an exact coupling) runs between. The result
    is that of `draw(keys(step), batch)`, step by step; a draw that reads what is held (an average,
    a frozen network) cannot run ahead of it.

    Args:
        draw: any draw.
        keys: the key of a step's draw; it must not read an array that a step gives up,
            such as the key of a donated state.
        batches: what the draws complete.
        first: the step of the first batch.
        depth: how many batches to be ahead.

    Raises:
        whatever `draw` or `batches` raises, at the batch that it concerns.
    """
    staged = _by_stages(draw)
    double = jnp.result_type(float) == jnp.float64
    source = enumerate(batches, first)

    def complete(step: int, batch: Batch) -> Batch:
        with jax.enable_x64(double):
            return staged(keys(step), batch)

    def submit(pool: ThreadPoolExecutor) -> Future[Batch] | None:
        try:
            return pool.submit(complete, *next(source))
        except StopIteration:
            return None
        except Exception as error:
            failed: Future[Batch] = Future()
            failed.set_exception(error)
            return failed

    waiting: deque[Future[Batch] | None] = deque()
    pool = ThreadPoolExecutor(depth, thread_name_prefix="draws-ahead")
    stop = weakref.finalize(waiting, pool.shutdown)  # or at exit, before its modules are gone
    try:
        waiting.extend(submit(pool) for _ in range(depth + 1))
        while (completed := waiting.popleft()) is not None:
            yield completed.result()
            waiting.append(submit(pool))
    finally:
        stop()


def _by_stages(draw: Draw) -> Callable[[Key, Batch], Batch]:
    """The draw with its traceable stretches jitted, and its host parts between them."""
    parts = getattr(draw, "draws", None)
    keys_of = jax.jit(
        lambda key: [key] if parts is None else list(jax.random.split(key, len(parts)))
    )
    stages = []
    parts_ = (draw,) if parts is None else parts
    for host, group in itertools.groupby(enumerate(parts_), lambda part: _on_host(part[1])):
        indices, members = zip(*group, strict=True)
        run = _run if host else jax.jit(_run)
        stages.append((run, members if host else traceable(members), indices))

    def staged(key: Key, batch: Batch) -> Batch:
        keys = keys_of(key)
        for run, members, indices in stages:
            batch = run(members, [keys[i] for i in indices], batch)
        return batch

    return staged


def _run(draws: tuple[Any, ...], keys: Iterable[Key], batch: Batch) -> Batch:
    for key, draw in zip(keys, draws, strict=True):
        batch = draw(key, batch)
    return batch


def _on_host(draw: Any) -> bool:
    return getattr(draw, "on_host", False)

"""Batches whose draw runs ahead of the step, on threads."""

import itertools
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.records import traceable
from jaxflow.types import Batch, Draw, Key

__all__ = ["ahead"]

# So many batches of at most so many bytes are completed together: a call takes longer than their
# numbers do, and threads wait for each other's calls.
TOGETHER = 8
SMALL = 2**20

Group = list[tuple[int, Batch]]
Completed = Future[Sequence[Batch | Exception]]


def ahead(
    draw: Draw,
    keys: Callable[[int], Key],
    batches: Iterable[Batch],
    *,
    first: int = 0,
    depth: int = 3,
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
        depth: how many threads draw ahead, a batch each, or eight that are small (under 1 MiB).

    Raises:
        whatever `draw` or `batches` raises, at the batch that it concerns.
    """
    staged = _by_stages(draw)
    double = jnp.result_type(float) == jnp.float64
    groups = _groups(enumerate(batches, first))

    def complete(group: Group | Exception) -> Sequence[Batch | Exception]:
        if isinstance(group, Exception):
            return [group]
        steps, incomplete = zip(*group, strict=True)
        try:
            with jax.enable_x64(double):
                return staged([keys(step) for step in steps], list(incomplete))
        except Exception as error:
            return [error] if len(group) == 1 else [complete([each])[0] for each in group]

    def submit(pool: ThreadPoolExecutor) -> Completed | None:
        group = next(groups, None)
        return None if group is None else pool.submit(complete, group)

    waiting: deque[Completed | None] = deque()
    pool = ThreadPoolExecutor(depth, thread_name_prefix="draws-ahead")
    stop = weakref.finalize(waiting, pool.shutdown)  # or at exit, before its modules are gone
    try:
        waiting.extend(submit(pool) for _ in range(depth + 1))
        while (completed := waiting.popleft()) is not None:
            for each in completed.result():
                if isinstance(each, Exception):
                    raise each
                yield each
            waiting.append(submit(pool))
    finally:
        stop()


def _groups(batches: Iterator[tuple[int, Batch]]) -> Iterator[Group | Exception]:
    """Batches that are completed together; at last the error that ended them, if one did."""
    group: Group = []
    try:
        for step, batch in batches:
            group.append((step, batch))
            small = sum(getattr(leaf, "nbytes", 0) for leaf in jax.tree.leaves(batch)) <= SMALL
            if len(group) == TOGETHER or not small:
                yield group
                group = []
    except Exception as error:
        yield from [group, error] if group else [error]
        return
    if group:
        yield group


def _by_stages(draw: Draw) -> Callable[[list[Key], list[Batch]], list[Batch]]:
    """The draws of several batches, their traceable stretches jitted, the host's between them."""
    parts = getattr(draw, "draws", None)
    keys_of = jax.jit(
        lambda keys: [
            [key] if parts is None else list(jax.random.split(key, len(parts))) for key in keys
        ]
    )
    stages = []
    parts_ = (draw,) if parts is None else parts
    for host, group in itertools.groupby(enumerate(parts_), lambda part: _on_host(part[1])):
        indices, members = zip(*group, strict=True)
        one = _run if host else jax.jit(_run)  # traced once, and not for each of the batches
        run = _each(one) if host else jax.jit(_each(one))
        stages.append((run, members if host else traceable(members), indices))

    def staged(keys: list[Key], batches: list[Batch]) -> list[Batch]:
        split = keys_of(keys)
        for run, members, indices in stages:
            batches = run(members, [[keys[i] for i in indices] for keys in split], batches)
        return batches

    return staged


def _each(run: Callable[..., Batch]) -> Callable[..., list[Batch]]:
    return lambda draws, keys, batches: [
        run(draws, *pair) for pair in zip(keys, batches, strict=True)
    ]


def _run(draws: tuple[Any, ...], keys: Iterable[Key], batch: Batch) -> Batch:
    for key, draw in zip(keys, draws, strict=True):
        batch = draw(key, batch)
    return batch


def _on_host(draw: Any) -> bool:
    return getattr(draw, "on_host", False)

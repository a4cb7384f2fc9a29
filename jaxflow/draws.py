"""Draws complete a batch with everything random in an objective: `(key, batch) -> batch`.

A batch comes as `{"x1": data, "cond": {...}}` (with `"x0"` where the source is data too) and leaves
with `x0, x1, t, z, cond`. Draws run on the global batch, before microbatches and devices split it,
so that every layout trains the same run.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from numbers import Real

import jax
import jax.numpy as jnp

from jaxflow import couplings, sources
from jaxflow import times as times_
from jaxflow.arrays import batch_size, check_batch
from jaxflow.records import record, static
from jaxflow.types import Batch, Coupling, Draw, Interval, Key, Path, Source, Times

__all__ = ["ahead", "chain", "couple", "drop", "latent", "source", "standard", "times"]


@record
class Chain:
    """Draws one after another, each with a key of its own."""

    draws: tuple[Draw, ...]

    @property
    def on_host(self) -> bool:
        """Whether any of them runs outside of jit."""
        return any(on_host(draw) for draw in self.draws)

    def __call__(self, key: Key, batch: Batch) -> Batch:
        return _run(self.draws, jax.random.split(key, len(self.draws)), batch)


def _run(draws: tuple[Draw, ...], keys: Iterable[Key], batch: Batch) -> Batch:
    for key, draw in zip(keys, draws, strict=True):
        batch = draw(key, batch)
    return batch


@record
class FromSource:
    """Adds `x0`, unless the batch brings its own."""

    source: Source

    def __call__(self, key: Key, batch: Batch) -> Batch:
        if "x0" in batch:
            return batch
        x1 = batch["x1"]
        x0 = self.source.sample(jax.random.split(key, batch_size(x1)), x1.shape[1:])
        floating = all(jnp.issubdtype(x.dtype, jnp.floating) for x in (x0, x1))
        return {**batch, "x0": x0.astype(x1.dtype) if floating else x0}


@record
class Couple:
    """Re-pairs `x0` with `x1`; conditions follow their data."""

    coupling: Coupling

    @property
    def on_host(self) -> bool:
        """Whether the coupling is solved outside of jit."""
        return getattr(self.coupling, "on_host", False)

    def __call__(self, key: Key, batch: Batch) -> Batch:
        x0, x1, cond = self.coupling(key, batch["x0"], batch["x1"], batch.get("cond", {}))
        return {**batch, "x0": x0, "x1": x1, "cond": cond}


@record
class AddTimes:
    """Adds `t`, inside the interval."""

    times: Times
    interval: Interval = static()

    def __call__(self, key: Key, batch: Batch) -> Batch:
        low, high = self.interval
        return {**batch, "t": low + (high - low) * self.times(key, batch_size(batch["x1"]))}


@record
class AddLatent:
    """Adds `z`, the path's own randomness, where it has one."""

    path: Path

    def __call__(self, key: Key, batch: Batch) -> Batch:
        return {**batch, "z": self.path.latent(key, batch["x0"])}


@record
class Drop:
    """Replaces the conditions of a random share of the examples by their null values."""

    rate: float = static()
    null: tuple[tuple[str, float], ...] = static()

    def __call__(self, key: Key, batch: Batch) -> Batch:
        cond = dict(batch.get("cond", {}))
        missing = [name for name, _ in self.null if name not in cond]
        if missing:
            raise ValueError(
                f"drop names the condition {missing[0]!r}, which the batch lacks; "
                f"it has {sorted(cond)}"
            )
        dropped = jax.random.bernoulli(key, self.rate, (check_batch(batch["x1"], cond),))
        for name, null in self.null:
            value = jnp.asarray(cond[name])
            where = dropped.reshape(dropped.shape + (1,) * (value.ndim - 1))
            cond[name] = jnp.where(where, jnp.asarray(null, value.dtype), value)
        return {**batch, "cond": cond}


def chain(*draws: Draw) -> Draw:
    """Draws one after another, each with a key of its own."""
    return Chain(draws)


def on_host(draw: Draw) -> bool:
    """Whether a part of the draw runs outside of jit, so that it wants `ahead`."""
    return getattr(draw, "on_host", False)


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
    is that of `draw(keys(step), batch)`, step by step.

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

    with ThreadPoolExecutor(depth, thread_name_prefix="draws-ahead") as pool:
        waiting = deque(submit(pool) for _ in range(depth + 1))
        while (completed := waiting.popleft()) is not None:
            yield completed.result()
            waiting.append(submit(pool))


def _by_stages(draw: Draw) -> Draw:
    """The draw with its traceable stretches jitted, and its host parts between them."""
    parts = getattr(draw, "draws", (draw,))
    chained = hasattr(draw, "draws")
    keys_of = jax.jit(lambda key: list(jax.random.split(key, len(parts))) if chained else [key])
    stages = []
    for host, group in itertools.groupby(enumerate(parts), lambda part: on_host(part[1])):
        indices, members = zip(*group, strict=True)
        run = _run if host else jax.jit(_run)
        stages.append((run, members if host else _traceable(members), indices))

    def staged(key: Key, batch: Batch) -> Batch:
        keys = keys_of(key)
        for run, members, indices in stages:
            batch = run(members, [keys[i] for i in indices], batch)
        return batch

    return staged


def _traceable(draws: tuple[Draw, ...]) -> tuple[Draw, ...]:
    """Draws as an argument of jit: a bare function among them becomes a record without arrays."""
    return jax.tree.map(lambda a: jax.tree_util.Partial(a) if callable(a) else a, draws)


def source(source: Source) -> Draw:
    """Adds `x0 ~ source`, one key an example, unless the batch brings its own `x0`."""
    return FromSource(source)


def couple(coupling: Coupling) -> Draw:
    """Re-pairs `x0` with `x1` on the global batch; conditions follow their data."""
    return Couple(coupling)


def times(times: Times, interval: Interval = (0.0, 1.0)) -> Draw:
    """Adds `t ~ times`, stretched from [0, 1] onto the interval of a path.

    Raises:
        ValueError: unless `0 <= low < high <= 1`.
    """
    low, high = interval
    if not 0 <= low < high <= 1:
        raise ValueError(f"times needs 0 <= low < high <= 1; got the interval {interval}")
    return AddTimes(times, (low, high))


def latent(path: Path) -> Draw:
    """Adds `z`, the path's own randomness (a bridge's noise), where it has one."""
    return AddLatent(path)


def drop(rate: float, null: Mapping[str, float]) -> Draw:
    """Replaces conditions by their null values with probability `rate`, for guidance.

    All conditions of an example are dropped together. Ho & Salimans, Classifier-Free Diffusion
    Guidance, 2022, arXiv:2207.12598, algorithm 1.

    Args:
        rate: probability, in [0, 1].
        null: the value of each condition that means "none", by name, as `{"label": 10}`.

    Raises:
        ValueError: for a rate outside [0, 1], no name, or a name that the batch lacks.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"drop needs a rate in [0, 1]; got {rate}")
    if not null:
        raise ValueError("drop needs the null value of at least one condition, as {'label': 10}")
    wrong = [name for name, value in null.items() if not isinstance(value, Real)]
    if wrong:
        raise ValueError(f"the null value of {wrong[0]!r} must be a number; got {null[wrong[0]]!r}")
    return Drop(rate, tuple(sorted(null.items())))


def standard(
    path: Path,
    *,
    source: Source | None = None,
    coupling: Coupling | None = None,
    times: Times | None = None,
    drop: Draw | None = None,
) -> Draw:
    """The usual chain: source, coupling, times in the path's interval, latent, dropout.

    Args:
        path: gives the interval of the times, and the latent where it has one.
        source: standard normal where None.
        coupling: independent where None.
        times: uniform where None.
        drop: condition dropout, as `draws.drop(.1, {"label": 10})`; none where None.

    Raises:
        ValueError: where the coupling needs a Gaussian source and gets another.
    """
    source_ = sources.normal() if source is None else source
    coupling_ = couplings.independent() if coupling is None else coupling
    if coupling_.needs_gaussian_source and not isinstance(source_, sources.Normal):
        raise ValueError(f"{coupling_!r} needs sources.normal(); got {source_!r}")
    schedule = getattr(path, "schedule", None)
    interval = schedule.interval if schedule is not None else (0.0, 1.0)
    steps: list[Draw] = [
        FromSource(source_),
        Couple(coupling_),
        AddTimes(times_.uniform() if times is None else times, interval),
        AddLatent(path),
    ]
    return chain(*steps, *([] if drop is None else [drop]))

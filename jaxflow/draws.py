"""Draws complete a batch with everything random in an objective: `(key, batch, held) -> batch`.

A batch comes as `{"x1": data, "cond": {...}}` (with `"x0"` where the source is data too) and leaves
with `x0, x1, t, z, cond`. Draws run on the global batch, before microbatches and devices split it,
so that every layout trains the same run. `held` is what a loss may read too: the step, the
averages and what is frozen, so that a draw may encode its data by a frozen network.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from numbers import Number
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow import couplings, sources
from jaxflow import times as times_
from jaxflow.arrays import batch_size, check_batch, check_made, event_shape, null_like
from jaxflow.paths.schedules import interval_of
from jaxflow.records import record, static, traceable
from jaxflow.types import (
    Batch,
    Coupling,
    Dependent,
    Draw,
    Held,
    Interval,
    Key,
    Path,
    Source,
    Times,
)

__all__ = ["as_draw", "chain", "couple", "drop", "latent", "source", "standard", "times"]

_Times = Times | Callable[..., Any]


@record
class Chain:
    """Draws one after another, each with a key of its own."""

    draws: tuple[Draw, ...]

    @property
    def on_host(self) -> bool:
        """Whether any of them runs outside of jit."""
        return any(on_host(draw) for draw in self.draws)

    def __call__(self, key: Key, batch: Batch, held: Held | None = None) -> Batch:
        for part, draw in zip(jax.random.split(key, len(self.draws)), self.draws, strict=True):
            batch = draw(part, batch, held)
        return batch


@record
class WithoutHeld:
    """A draw `(key, batch) -> batch` that reads nothing else."""

    draw: Any

    def __call__(self, key: Key, batch: Batch, held: Held | None = None) -> Batch:
        return self.draw(key, batch)


@record
class FromSource:
    """Adds `x0`, unless the batch brings its own."""

    source: Source

    def __call__(self, key: Key, batch: Batch, held: Held | None = None) -> Batch:
        if "x0" in batch:
            return {**batch, "z": Dependent()}
        x1 = batch["x1"]
        x0 = self.source.sample(jax.random.split(key, batch_size(x1)), event_shape(x1))
        return {**batch, "x0": jax.tree.map(_as_data, x0, x1), "z": _unless_normal(self.source)}


def _as_data(x0: Any, x1: Any) -> Any:
    floating = all(jnp.issubdtype(x.dtype, jnp.floating) for x in (x0, x1))
    return x0.astype(x1.dtype) if floating else x0


def _unless_normal(source: Source) -> Any:
    """`Dependent` for a source that is not standard normal, part by part."""
    if isinstance(source, sources.Product):
        return {name: _unless_normal(part) for name, part in source.parts.items()}
    return None if isinstance(source, sources.Normal) else Dependent()


@record
class Couple:
    """Re-pairs `x0` with `x1`; conditions follow their data."""

    coupling: Coupling

    @property
    def on_host(self) -> bool:
        """Whether the coupling is solved outside of jit."""
        return getattr(self.coupling, "on_host", False)

    def __call__(self, key: Key, batch: Batch, held: Held | None = None) -> Batch:
        x0, x1, cond = self.coupling(key, batch["x0"], batch["x1"], batch.get("cond", {}))
        batch = {**batch, "x0": x0, "x1": x1, "cond": cond}
        return (
            batch if getattr(self.coupling, "independent", False) else {**batch, "z": Dependent()}
        )


@record
class AddTimes:
    """Adds `t`, inside the interval: one an example, or one for each of its leading axes."""

    times: _Times | Mapping[str, _Times]
    interval: Interval = static()
    lead: int = static()

    def __call__(self, key: Key, batch: Batch, held: Held | None = None) -> Batch:
        if not isinstance(self.times, Mapping):
            return {**batch, "t": self._drawn(key, self.times, batch["x1"])}
        keys = jax.random.split(key, len(self.times))
        drawn = zip(keys, self.times.items(), strict=True)
        return {**batch, "t": {k: self._drawn(key, t, batch["x1"][k]) for key, (k, t) in drawn}}

    def _drawn(self, key: Key, times: _Times, x1: Any) -> Any:
        n, (low, high) = batch_size(x1), self.interval
        if not self.lead:
            return low + (high - low) * times(key, n)
        shape = x1.shape[: 1 + self.lead]
        return (low + (high - low) * times(key, math.prod(shape))).reshape(shape)


@record
class AddLatent:
    """Adds `z`, the path's own randomness, where it has one."""

    path: Path

    def __call__(self, key: Key, batch: Batch, held: Held | None = None) -> Batch:
        latent = getattr(self.path, "latent", None)
        z = None if latent is None else latent(key, batch["x0"])
        return {**batch, "z": _or_else(z, batch.get("z"))}


def _or_else(latent: Any, mark: Any) -> Any:
    """The path's latent, or what the pairs said of themselves where it has none."""
    if not isinstance(latent, Mapping):
        return mark if latent is None else latent
    each = mark if isinstance(mark, Mapping) else dict.fromkeys(latent, mark)
    return {name: _or_else(z, each.get(name)) for name, z in latent.items()}


@record
class Drop:
    """Replaces the conditions of random examples by their null values."""

    null: Mapping[str, Any]
    rates: tuple[tuple[str, float], ...] = static()
    together: bool = static()

    def __call__(self, key: Key, batch: Batch, held: Held | None = None) -> Batch:
        cond = dict(batch.get("cond", {}))
        missing = [name for name, _ in self.rates if name not in cond]
        if missing:
            raise ValueError(
                f"drop names the condition {missing[0]!r}, which the batch lacks; "
                f"it has {sorted(cond)}"
            )
        n = check_batch(batch["x1"], cond)
        keys = jax.random.split(key, len(self.rates))
        for i, (name, rate) in enumerate(self.rates):
            dropped = jax.random.bernoulli(key if self.together else keys[i], rate, (n,))
            null = null_like(name, self.null[name], cond[name])
            cond[name] = jax.tree.map(lambda n, v, d=dropped: _where(d, n, v), null, cond[name])
        return {**batch, "cond": cond}


def _where(rows: Any, a: Any, b: Any) -> Any:
    return jnp.where(rows.reshape(rows.shape + (1,) * (a.ndim - 1)), a, b)


def on_host(draw: Any) -> bool:
    """Whether a part of the draw runs outside of jit, so that it wants `training.ahead`."""
    return getattr(getattr(draw, "func", draw), "on_host", False)


def as_draw(draw: Any) -> Draw:
    """The draw itself, or that of a plain function `(key, batch)` or `(key, batch, held)`.

    Raises:
        TypeError: for what is no function.
    """
    check_made("draw", draw)
    if not callable(draw):
        raise TypeError(
            f"a draw is (key, batch, held) -> batch; got {type(draw).__name__}: "
            "draws.standard(path) is the usual one"
        )
    return traceable(draw) if _takes_held(draw) else WithoutHeld(traceable(draw))


def _takes_held(draw: Any) -> bool:
    parameters = inspect.signature(draw).parameters.values()
    by_place = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len(by_place) > 2 or any(p.kind is p.VAR_POSITIONAL for p in parameters)


def chain(*draws: Draw) -> Draw:
    """Draws one after another, each with a key of its own; plain functions are draws too."""
    return Chain(tuple(map(as_draw, draws)))


def source(source: Source | Callable[..., Any]) -> Draw:
    """Adds `x0 ~ source`, one key an example, unless the batch brings its own `x0`."""
    return FromSource(sources.as_source(source))


def couple(coupling: Coupling) -> Draw:
    """Re-pairs `x0` with `x1` on the global batch; conditions follow their data.

    A plain function `(key, x0, x1, cond) -> (x0, x1, cond)` is a coupling too; it is taken for one
    that does not keep pairs independent.

    Raises:
        TypeError: for what is no function.
    """
    check_made("coupling", coupling)
    if not callable(coupling):
        raise TypeError(
            "a coupling is (key, x0, x1, cond) -> (x0, x1, cond); got "
            f"{type(coupling).__name__}: couplings.independent() is the usual one"
        )
    return Couple(traceable(coupling))


def times(
    times: _Times | Mapping[str, _Times], interval: Interval = (0.0, 1.0), *, lead: int = 0
) -> Draw:
    """Adds `t ~ times`, stretched from [0, 1] onto the interval of a path.

    Args:
        times: their distribution, or one for each part of a sample.
        interval: of the path.
        lead: leading axes of the event that have times of their own, 1 for frames or tokens.

    Raises:
        ValueError: unless `0 <= low < high <= 1` and `lead >= 0`.
        TypeError: for what is no distribution of times.
    """
    low, high = interval
    if not (0 <= low < high <= 1 and lead >= 0):
        raise ValueError(
            f"times needs 0 <= low < high <= 1 and lead >= 0; got {interval} and lead={lead}"
        )
    for each in times.values() if isinstance(times, Mapping) else (times,):
        check_made("times", each)
        if not callable(each):
            raise TypeError(
                f"times draw as (key, n) -> t; got {type(each).__name__}: times.uniform() is the "
                "usual one"
            )
    return AddTimes(traceable(times), (low, high), lead)


def latent(path: Path) -> Draw:
    """Adds `z`, the path's own randomness (a bridge's noise), where it has one."""
    return AddLatent(traceable(path))


def drop(rate: float | Mapping[str, float], null: Mapping[str, Any]) -> Draw:
    """Replaces conditions by their null values with probability `rate`, for guidance.

    With one rate all conditions of an example are dropped together; with a mapping each by
    itself. Ho & Salimans, Classifier-Free Diffusion Guidance, 2022, arXiv:2207.12598, algorithm 1.

    Args:
        rate: probability, in [0, 1], or one for each name of `null`.
        null: what means "none", by name, as `{"label": 10}`: a number, an array for one example, or
            a tree of them for a condition that is a nested mapping.

    Raises:
        ValueError: for a rate outside [0, 1], no name, names that differ, or a name that the
            batch lacks.
    """
    if not null:
        raise ValueError("drop needs the null value of at least one condition, as {'label': 10}")
    together = not isinstance(rate, Mapping)
    rates = dict.fromkeys(null, rate) if together else dict(rate)
    if sorted(rates) != sorted(null):
        raise ValueError(f"drop has rates of {sorted(rates)}, but nulls of {sorted(null)}")
    wrong = [r for r in rates.values() if not 0 <= r <= 1]
    if wrong:
        raise ValueError(f"drop needs a rate in [0, 1]; got {wrong[0]}")
    texts = [name for name, value in null.items() if not _is_numeric(value)]
    if texts:
        raise ValueError(f"the null value of {texts[0]!r} must be numbers; got {null[texts[0]]!r}")
    return Drop(dict(null), tuple(sorted(rates.items())), together)


def _is_numeric(tree: Any) -> bool:
    leaves = jax.tree.leaves(tree)
    return bool(leaves) and all(isinstance(a, Number | jax.Array | np.ndarray) for a in leaves)


_source, _times = source, times  # their names are arguments below


def standard(
    path: Path,
    *,
    source: Source | Callable[..., Any] | None = None,
    coupling: Coupling | None = None,
    times: _Times | Mapping[str, _Times] | None = None,
    drop: Draw | None = None,
) -> Draw:
    """The usual chain: source, coupling, times in the path's interval, latent, dropout.

    Args:
        path: gives the interval of the times, and the latent where it has one.
        source: standard normal where None, for every part of a product.
        coupling: independent where None.
        times: uniform where None.
        drop: condition dropout, as `draws.drop(.1, {"label": 10})`; none where None.

    Raises:
        TypeError: for an argument of another kind.
    """
    check_made("path", path)
    if not callable(path):
        raise TypeError(
            f"a path is (t, x0, x1, z) -> PathSample; got {type(path).__name__}: paths.linear() is "
            "the usual one"
        )
    steps = [
        _source(_normal_for(path) if source is None else source),
        couple(couplings.independent() if coupling is None else coupling),
        _times(times_.uniform() if times is None else times, interval_of(path)),
        latent(path),
    ]
    return chain(*steps, *([] if drop is None else [drop]))


def _normal_for(path: Path) -> Source:
    parts = getattr(path, "parts", None)
    if parts is None:
        return sources.normal()
    return sources.product({name: _normal_for(part) for name, part in parts.items()})

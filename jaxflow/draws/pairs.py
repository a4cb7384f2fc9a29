"""The pair of an example: its source, its coupling, its time, and the path's own randomness."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow import sources
from jaxflow.arrays import batch_size, event_shape
from jaxflow.checks import check_made
from jaxflow.records import record, static, traceable
from jaxflow.types import Batch, Coupling, Dependent, Draw, Held, Interval, Key, Path, Source, Times

__all__ = ["AnyTimes", "couple", "latent", "sampled", "source", "stretched", "times"]

AnyTimes = Times | Callable[..., Any]


@record
class FromSource:
    """Adds `x0`, unless the batch brings its own."""

    source: Source

    def __call__(self, key: Key, batch: Batch, held: Held | None = None) -> Batch:
        if "x0" in batch:
            return {**batch, "z": Dependent()}
        x0 = sampled(self.source, key, batch["x1"])
        return {**batch, "x0": x0, "z": _unless_normal(self.source)}


def sampled(source: Source, key: Key, x1: Any) -> Any:
    """Draws of a source, of the number, shape and dtype of data."""
    x0 = source.sample(jax.random.split(key, batch_size(x1)), event_shape(x1))
    return jax.tree.map(_as_data, x0, x1)


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
        if "mask" in batch and not _same_arrays(x1, batch["x1"]):
            raise ValueError(
                f"{self.coupling!r} gives data of its own or in another order, which batch['mask'] "
                "does not follow: carry the mask as a condition, and make it batch['mask'] by a "
                "draw after this one"
            )
        batch = {**batch, "x0": x0, "x1": x1, "cond": cond}
        return (
            batch if getattr(self.coupling, "independent", False) else {**batch, "z": Dependent()}
        )


def _same_arrays(a: Any, b: Any) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(one is other for one, other in pairs)


@record
class AddTimes:
    """Adds `t`, inside the interval: one an example, or one for each of its leading axes."""

    times: AnyTimes | Mapping[str, AnyTimes]
    interval: Interval = static()
    lead: int = static()

    def __call__(self, key: Key, batch: Batch, held: Held | None = None) -> Batch:
        if not isinstance(self.times, Mapping):
            return {**batch, "t": self._drawn(key, self.times, batch["x1"])}
        keys = jax.random.split(key, len(self.times))
        drawn = zip(keys, self.times.items(), strict=True)
        return {**batch, "t": {k: self._drawn(key, t, batch["x1"][k]) for key, (k, t) in drawn}}

    def _drawn(self, key: Key, times: AnyTimes, x1: Any) -> Any:
        if not self.lead:
            return stretched(key, times, batch_size(x1), self.interval)
        shape = x1.shape[: 1 + self.lead]
        return stretched(key, times, math.prod(shape), self.interval).reshape(shape)


def stretched(key: Key, times: AnyTimes, n: int, interval: Interval) -> Any:
    """`n` of the times, from [0, 1] onto an interval."""
    low, high = interval
    return low + (high - low) * times(key, n)


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


def source(source: Source | Callable[..., Any]) -> Draw:
    """Adds `x0 ~ source`, one key an example, unless the batch brings its own `x0`."""
    return FromSource(sources.as_source(source))


def couple(coupling: Coupling) -> Draw:
    """Re-pairs `x0` with `x1` on the global batch; conditions follow their data.

    A plain function `(key, x0, x1, cond) -> (x0, x1, cond)` is a coupling too; it is taken for one
    that does not keep pairs independent.

    Raises:
        TypeError: for what is no function.
        ValueError: (when called) for a batch with a mask, where the coupling moves its data.
    """
    check_made("coupling", coupling)
    if not callable(coupling):
        raise TypeError(
            "a coupling is (key, x0, x1, cond) -> (x0, x1, cond); got "
            f"{type(coupling).__name__}: couplings.independent() is the usual one"
        )
    return Couple(traceable(coupling))


def times(
    times: AnyTimes | Mapping[str, AnyTimes], interval: Interval = (0.0, 1.0), *, lead: int = 0
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

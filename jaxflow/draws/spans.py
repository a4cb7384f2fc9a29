"""Pairs of times, for losses that learn a flow map from one to the other."""

from fractions import Fraction

import jax
import jax.numpy as jnp

from jaxflow.arrays import batch_size
from jaxflow.checks import check_made
from jaxflow.draws.groups import Grouped, in_groups
from jaxflow.draws.pairs import AnyTimes, stretched
from jaxflow.records import record, static, traceable
from jaxflow.types import Array, Batch, Draw, Held, Interval, Key

__all__ = ["dyadic", "spans", "to_end"]


@record
class Spans:
    """Sets `t <= s <= r`, with `r = t` for the last members of every group."""

    times: AnyTimes
    interval: Interval = static()
    equal: Fraction = static()

    def __call__(self, key: Key, batch: Batch, held: Held | None = None) -> Batch:
        keys, n = jax.random.split(key, 3), batch_size(batch["x1"])
        both = [stretched(k, self.times, n, self.interval) for k in keys[:2]]
        rests = _resting(n, self.equal)
        t = jnp.where(rests, both[0], jnp.minimum(*both))
        r = jnp.where(rests, t, jnp.maximum(*both))
        share = jax.random.uniform(keys[2], (n,), t.dtype)
        return _grouped({**batch, "t": t, "s": t + share * (r - t), "r": r}, self.equal)


@record
class Dyadic:
    """Sets `t`, `s` and `r` on grids of powers of two, as `Spans` rests."""

    levels: int = static()
    equal: Fraction = static()

    def __call__(self, key: Key, batch: Batch, held: Held | None = None) -> Batch:
        keys, n = jax.random.split(key), batch_size(batch["x1"])
        rests = _resting(n, self.equal)
        level = jax.random.randint(keys[0], (n,), 0, self.levels)
        parts = 2.0 ** jnp.where(rests, self.levels, level)
        t = jnp.floor(jax.random.uniform(keys[1], (n,)) * parts) / parts
        r = jnp.where(rests, t, t + 1 / parts)
        return _grouped({**batch, "t": t, "s": (t + r) / 2, "r": r}, self.equal)


def _resting(n: int, equal: Fraction) -> Array:
    """Which examples have `r = t`: the last ones of every group."""
    return jnp.arange(n) % equal.denominator >= equal.denominator - equal.numerator


def _grouped(batch: Batch, equal: Fraction) -> Batch:
    """In groups that say how many of their members move; as it is where all do."""
    if not equal:
        return batch
    size = equal.denominator
    return in_groups(batch, Grouped(size, size - equal.numerator))


@record
class ToEnd:
    """Sets `r` to the end of the interval, and `s` between."""

    end: float = static()

    def __call__(self, key: Key, batch: Batch, held: Held | None = None) -> Batch:
        t = batch["t"]
        r = jnp.full_like(t, self.end)
        share = jax.random.uniform(key, t.shape, t.dtype)
        return {**batch, "s": t + share * (r - t), "r": r}


def to_end(interval: Interval = (0.0, 1.0)) -> Draw:
    """Sets `r` to the end of the interval, where the data is, and `s`, uniform before it.

    Comes after what draws `t`, `draws.chain(draws.standard(path), draws.to_end())`: a loss of flow
    maps then learns a consistency model, which carries every point to the data.

    Args:
        interval: of the path.

    Raises:
        ValueError: unless `0 <= low < high <= 1`.

    Song et al., Consistency Models, 2023, arXiv:2303.01469, section 3.
    """
    return ToEnd(_checked_interval("to_end", interval)[1])


def spans(times: AnyTimes, interval: Interval = (0.0, 1.0), *, equal: float = 0.75) -> Draw:
    """Sets `t` and `r`, two of the times in their order, and `s`, uniform between them.

    Comes after what draws the pairs, `draws.chain(draws.standard(path), draws.spans(times))`: a
    loss of flow maps learns to carry `x_t` to time `r`. An example with `r = t` learns the
    velocity, from its data, and needs nothing else of what a loss does. So that a loss can tell
    which these are, under every layout, the batch comes in groups, `[batch / k, k, *event]` for a
    share of `j / k`: of each the last `j` have `r = t`.

    Args:
        times: their distribution on [0, 1]; MeanFlow's is `times.logit_normal(0.4, 1.0)`.
        interval: of the path, onto which they are stretched.
        equal: share of the examples with `r = t`, a fraction of at most sixteenths.

    Raises:
        ValueError: unless `0 <= low < high <= 1` and `equal` is such a share; (when called) for a
            batch that does not divide into its groups.
        TypeError: for what is no distribution of times.

    Geng et al., Mean Flows for One-step Generative Modeling, 2025, arXiv:2505.13447, section 4.3,
    mirrored in time.
    """
    ends = _checked_interval("spans", interval)
    check_made("times", times)
    if not callable(times):
        raise TypeError(f"times are (key, n) -> t; got {type(times).__name__}")
    return Spans(traceable(times), ends, _share("spans", equal))


def dyadic(levels: int = 7, *, equal: float = 0.75) -> Draw:
    """Sets `t` and `r = t + 2^-k` on the grid of step `2^-k`, and `s` halfway, as shortcut models.

    Every length `1, 1/2, ..., 2^-(levels - 1)` is equally likely; where `r = t`, `t` lies on the
    finest grid, of step `2^-levels`. For paths that are finite on [0, 1].

    Args:
        levels: how many lengths; the shortest step that is ever taken is `2^-levels`.
        equal: as in `spans`.

    Raises:
        ValueError: unless `levels >= 1` and `equal` is a share as in `spans`.

    Frans et al., One Step Diffusion via Shortcut Models, 2024, arXiv:2410.12557, section 3.2.
    """
    if not (isinstance(levels, int) and levels >= 1):
        raise ValueError(f"dyadic needs levels >= 1, a whole number; got {levels!r}")
    return Dyadic(levels, _share("dyadic", equal))


def _checked_interval(name: str, interval: Interval) -> Interval:
    low, high = interval
    if not 0 <= low < high <= 1:
        raise ValueError(f"{name} needs an interval with 0 <= low < high <= 1; got {interval}")
    return float(low), float(high)


def _share(name: str, equal: float) -> Fraction:
    """The share as a fraction of small numbers."""
    found = Fraction(equal).limit_denominator(16) if 0 <= equal <= 1 else None
    if found is None or abs(float(found) - equal) > 1e-6:
        raise ValueError(
            f"{name} needs 0 <= equal <= 1, the share with r = t, a fraction of at most "
            f"sixteenths such as 0.75; got {equal}"
        )
    return found

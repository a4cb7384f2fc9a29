"""Pairs of times, for losses that learn a flow map from one to the other."""

import jax
import jax.numpy as jnp

from jaxflow.arrays import batch_size
from jaxflow.checks import check_made
from jaxflow.draws.pairs import AnyTimes, stretched
from jaxflow.records import record, static, traceable
from jaxflow.types import Batch, Draw, Held, Interval, Key

__all__ = ["dyadic", "spans", "to_end"]


@record
class Spans:
    """Sets `t <= s <= r`, with `r = t` in a share of the examples."""

    times: AnyTimes
    interval: Interval = static()
    equal: float = static()

    def __call__(self, key: Key, batch: Batch, held: Held | None = None) -> Batch:
        keys, n = jax.random.split(key, 4), batch_size(batch["x1"])
        both = [stretched(k, self.times, n, self.interval) for k in keys[:2]]
        t, r = jnp.minimum(*both), jnp.maximum(*both)
        alike = jax.random.permutation(keys[2], n) < round(self.equal * n)
        # Which of the two stays is left to chance, so that t keeps the law of the times there.
        t = jnp.where(alike, both[0], t)
        r = jnp.where(alike, t, r)
        share = jax.random.uniform(keys[3], (n,), t.dtype)
        return {**batch, "t": t, "s": t + share * (r - t), "r": r}


@record
class Dyadic:
    """Sets `t`, `s` and `r` on grids of powers of two, with `r = t` in a share of the examples."""

    levels: int = static()
    equal: float = static()

    def __call__(self, key: Key, batch: Batch, held: Held | None = None) -> Batch:
        keys, n = jax.random.split(key, 3), batch_size(batch["x1"])
        alike = jax.random.permutation(keys[0], n) < round(self.equal * n)
        level = jax.random.randint(keys[1], (n,), 0, self.levels)
        parts = 2.0 ** jnp.where(alike, self.levels, level)
        t = jnp.floor(jax.random.uniform(keys[2], (n,)) * parts) / parts
        r = jnp.where(alike, t, t + 1 / parts)
        return {**batch, "t": t, "s": (t + r) / 2, "r": r}


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
    velocity, from its data.

    Args:
        times: their distribution on [0, 1]; MeanFlow's is `times.logit_normal(0.4, 1.0)`.
        interval: of the path, onto which they are stretched.
        equal: share of the examples with `r = t`, rounded to their number; which ones is random.

    Raises:
        ValueError: unless `0 <= low < high <= 1` and `0 <= equal <= 1`.
        TypeError: for what is no distribution of times.

    Geng et al., Mean Flows for One-step Generative Modeling, 2025, arXiv:2505.13447, section 4.3,
    mirrored in time.
    """
    ends = _checked_interval("spans", interval)
    check_made("times", times)
    if not callable(times):
        raise TypeError(f"times are (key, n) -> t; got {type(times).__name__}")
    _check_share("spans", equal)
    return Spans(traceable(times), ends, float(equal))


def dyadic(levels: int = 7, *, equal: float = 0.75) -> Draw:
    """Sets `t` and `r = t + 2^-k` on the grid of step `2^-k`, and `s` halfway, as shortcut models.

    Every length `1, 1/2, ..., 2^-(levels - 1)` is equally likely; where `r = t`, `t` lies on the
    finest grid, of step `2^-levels`. For paths that are finite on [0, 1].

    Args:
        levels: how many lengths; the shortest step that is ever taken is `2^-levels`.
        equal: as in `spans`.

    Raises:
        ValueError: unless `levels >= 1` and `0 <= equal <= 1`.

    Frans et al., One Step Diffusion via Shortcut Models, 2024, arXiv:2410.12557, section 3.2.
    """
    if not (isinstance(levels, int) and levels >= 1):
        raise ValueError(f"dyadic needs levels >= 1, a whole number; got {levels!r}")
    _check_share("dyadic", equal)
    return Dyadic(levels, float(equal))


def _checked_interval(name: str, interval: Interval) -> Interval:
    low, high = interval
    if not 0 <= low < high <= 1:
        raise ValueError(f"{name} needs an interval with 0 <= low < high <= 1; got {interval}")
    return float(low), float(high)


def _check_share(name: str, equal: float) -> None:
    if not 0 <= equal <= 1:
        raise ValueError(f"{name} needs 0 <= equal <= 1, the share with r = t; got {equal}")

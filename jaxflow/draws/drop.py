"""Conditions replaced by their null values, for guidance."""

from collections.abc import Mapping
from numbers import Number
from typing import Any

import jax
import numpy as np

from jaxflow.arrays import null_like, where_rows
from jaxflow.checks import check_batch
from jaxflow.records import record, static
from jaxflow.types import Batch, Draw, Held, Key

__all__ = ["drop"]


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
            cond[name] = where_rows(dropped, null, cond[name])
        return {**batch, "cond": cond}


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

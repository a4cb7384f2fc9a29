"""What a batch must be before it is worth training on."""

from typing import Any

import numpy as np

from jaxflow.types import Batch

__all__ = ["check", "check_finite"]


def check(batch: Batch) -> Batch:
    """The batch itself, once it is known to be fit to train on.

    The data must be floating (or int32 tokens), every array must lead with the batch, and every
    number must be finite.

    Raises:
        ValueError: naming the entry, and the example where a value is not finite.

    >>> check({"x1": np.zeros((2, 3), np.float32), "cond": {"label": np.array([1, 2])}})["x1"].shape
    (2, 3)
    """
    if "x1" not in batch:
        raise ValueError(f"a batch needs its data under 'x1'; this one has {sorted(batch)}")
    entries = {name: batch[name] for name in ("x1", "x0", "mask") if name in batch}
    entries |= {f"cond[{name!r}]": value for name, value in batch.get("cond", {}).items()}
    for name, value in entries.items():
        _check_type(name, value.dtype)
        _check_length(name, value.shape, batch["x1"].shape)
        check_finite(f"the batch's {name}", np.asarray(value))
    return batch


def _check_type(name: str, dtype: Any) -> None:
    if name in ("x1", "x0") and not (_floating(dtype) or dtype == np.int32):
        raise ValueError(
            f"{name} is {dtype}: networks take floats, so scale pixels with transforms.scale(); "
            "tokens are int32"
        )


def _check_length(name: str, shape: tuple[int, ...], data: tuple[int, ...]) -> None:
    if not shape or not data or shape[0] != data[0]:
        raise ValueError(
            f"{name} has shape {shape} and x1 {data}: every entry of a batch leads with the batch"
        )


def check_finite(name: str, value: np.ndarray) -> None:
    """Refuse a column of examples that holds a value which is not finite.

    Raises:
        ValueError: naming the column, the example and the value.
    """
    if not _floating(value.dtype):
        return
    rows = value.reshape(len(value), -1)
    finite = np.isfinite(rows.astype(np.float32) if value.dtype.itemsize < 4 else rows)
    if not finite.all():
        example = int(np.argmin(finite.all(axis=1)))
        found = rows[example][~finite[example]][0]
        raise ValueError(
            f"{name} holds {found} in example {example}: "
            "clean the data, or drop the example, before training on it"
        )


def _floating(dtype: Any) -> bool:
    return np.issubdtype(dtype, np.floating) or np.dtype(dtype).name == "bfloat16"

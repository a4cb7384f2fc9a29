"""Batches made on the device: `batch(step)` is pure and traceable, and costs no transfer."""

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Integer

from jaxflow.arrays import batch_size as leading
from jaxflow.data.permutation import shuffled
from jaxflow.data.transforms import Transform, apply
from jaxflow.records import record, static
from jaxflow.types import AnyArray, Array, Batch, Data, Int, Key, Keys

__all__ = ["OnDevice", "Fresh", "on_device", "stream"]


@runtime_checkable
class Distribution(Protocol):
    """Anything that draws one sample a key, such as those of `jaxflow.data.toy`."""

    def sample(self, keys: Keys) -> Data: ...


@record
class OnDevice:
    """A data set whose arrays live on the device; made by `on_device`."""

    arrays: Mapping[str, Array] = field(repr=False)
    key: Key
    batch_size: int = static()
    transforms: tuple[Transform, ...] = static()

    def __len__(self) -> int:
        return leading(self.arrays)

    def indices(self, step: int | Integer[AnyArray, ""]) -> Int[Array, "batch"]:
        """Which examples make the batch of a step: each example once an epoch, reshuffled."""
        n = len(self)
        rounds, step = jnp.divmod(jnp.asarray(step, jnp.uint32), n)
        row = step * self.batch_size + jnp.arange(self.batch_size, dtype=jnp.uint32)
        epoch = rounds * self.batch_size + row // n
        return shuffled(jax.random.fold_in(self.key, 0), epoch, row % n, n)

    def batch(self, step: int | Integer[AnyArray, ""]) -> Batch:
        """`{"x1": ..., "cond": {...}}` of a step, with `"x0"` where there is one.

        The same whenever it is asked for.
        """
        indices = self.indices(step)
        rows = {
            name: array.at[indices].get(mode="promise_in_bounds")
            for name, array in self.arrays.items()
        }
        x1 = rows.pop("x1")
        x0 = {"x0": rows.pop("x0")} if "x0" in rows else {}
        if self.transforms:
            key = jax.random.fold_in(jax.random.fold_in(self.key, 1), step)
            keys = jax.random.split(key, self.batch_size)
            x1 = jax.vmap(lambda x, key: apply(self.transforms, x, key))(x1, keys)
        return {"x1": x1, **x0, "cond": rows}


@record
class Fresh:
    """Fresh samples of a distribution without end; made by `stream`."""

    distribution: Any
    key: Key
    batch_size: int = static()

    def batch(self, step: int | Integer[AnyArray, ""]) -> Batch:
        """`{"x1": ..., "cond": {}}` of a step, the same whenever it is asked for."""
        keys = jax.random.split(jax.random.fold_in(self.key, step), self.batch_size)
        return {"x1": self.distribution.sample(keys), "cond": {}}


def on_device(
    arrays: Mapping[str, Any], *, batch_size: int, seed: int, transforms: Sequence[Transform] = ()
) -> OnDevice:
    """Keep a data set on the device and shuffle it there.

    Row `i` of step `k` is position `k batch_size + i` of the epochs laid end to end, each in an
    order of its own, so a batch is a pure function of the step and a run resumes at any step.

    Args:
        arrays: the data under `"x1"` (or `"image"`), and the conditions by name. An `"x0"` goes
            along untransformed.
        batch_size: examples a batch.
        seed: of the shuffle and the transforms.
        transforms: applied to each example of `x1`, such as `(flip(), scale())`.

    Raises:
        ValueError: without data, with unequal lengths, or where the positions of an epoch
            of batches overflow 32 bits.

    >>> data = on_device({"x1": jnp.arange(6.0)}, batch_size=3, seed=0)
    >>> sorted([*data.batch(0)["x1"].tolist(), *data.batch(1)["x1"].tolist()])
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    """
    arrays = {"x1" if name == "image" else name: array for name, array in arrays.items()}
    if "x1" not in arrays:
        raise ValueError(f"arrays has {sorted(arrays)}: name the data 'x1' or 'image'")
    n = leading(arrays)
    _check_size(batch_size)
    if n == 0 or (n + 1) * batch_size >= 2**31:
        raise ValueError(
            f"{n} examples in batches of {batch_size}: a shuffle on the device needs at least one "
            "example and (examples + 1) * batch_size below 2**31; use pipeline for larger data"
        )
    arrays = {name: _placed(name, array) for name, array in arrays.items()}
    return OnDevice(arrays, jax.random.key(seed), batch_size, tuple(transforms))


def stream(distribution: Distribution, *, batch_size: int, seed: int) -> Fresh:
    """Fresh samples for every step, drawn on the device.

    Args:
        distribution: anything with `sample(keys)`, such as `toy.moons()`.
        batch_size: samples a batch.
        seed: of all steps together.
    """
    _check_size(batch_size)
    return Fresh(distribution, jax.random.key(seed), batch_size)


def _placed(name: str, array: Any) -> Array:
    """On the device: conditions that are whole numbers as int32, data as it is."""
    array = jnp.asarray(array)
    whole = name not in ("x0", "x1") and jnp.issubdtype(array.dtype, jnp.integer)
    return array.astype(jnp.int32) if whole else array


def _check_size(batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size = {batch_size}: a batch holds at least one example")

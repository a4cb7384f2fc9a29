r"""The gradient of a batch: taken part by part, and reduced over devices once.

(1) $g = \frac1m \sum_i \nabla L(\theta; B_i)$ over $m$ microbatches

(2) $\bar g = \frac1n \sum_j g_j$ over the $n$ devices that a batch is split over
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxflow.arrays import at_least_float32, batch_size
from jaxflow.training.layouts import Layout
from jaxflow.types import Array, Batch, Held, Key, Loss, Params, PyTree

__all__ = ["in_float32", "mean_gradient", "reduced_once"]

Gradient = tuple[Mapping[str, Array], Params]


def in_float32(tree: PyTree) -> PyTree:
    """At least that, so that gradients, moments and averages keep their dtype step by step."""
    return jax.tree.map(at_least_float32, tree)


def reduced_once(
    of_device: Callable[..., Gradient], over: Layout, dtype: Any, params: Params
) -> Callable[..., Gradient]:
    """The gradient of a whole batch from that of each device's rows, which come together once.

    Each device has the parameters whole while it takes its rows through, and adds up a gradient
    of its own; then (2) is summed, and cut along fsdp where the parameters are.

    Args:
        of_device: `(arrays, state, batch) -> (metrics, gradient)`.
        over: where the state lies.
        dtype: that gradients travel in; their own, at least float32, where None.
        params: shapes of the parameters.
    """
    axes = ("data", "fsdp")
    specs = jax.tree.map(lambda sharding: _along_fsdp(sharding.spec), over.split(params))

    def reduce(a: Array, spec: PartitionSpec) -> Array:
        sent = a if dtype is None else a.astype(dtype)
        if any(spec):
            place = list(spec).index("fsdp")
            sent = jax.lax.psum_scatter(sent, "fsdp", scatter_dimension=place, tiled=True)
            sent = jax.lax.psum(sent, "data")
        else:
            sent = jax.lax.psum(sent, axes)
        return sent.astype(a.dtype) / over.batch_parts

    def body(arrays: Any, state: Any, batch: Batch) -> Gradient:
        metrics, gradient = of_device(arrays, state, batch)
        return jax.lax.pmean(metrics, axes), jax.tree.map(reduce, gradient, specs)

    whole = PartitionSpec()
    return jax.shard_map(
        body,
        mesh=over.mesh,
        in_specs=(whole, whole, PartitionSpec(axes)),
        out_specs=(whole, specs),
        axis_names=set(axes),
        check_vma=False,
    )


def _along_fsdp(spec: PartitionSpec) -> PartitionSpec:
    """Of a cut that along fsdp alone."""
    return PartitionSpec(*(axis if axis == "fsdp" else None for axis in spec))


def mean_gradient(
    loss: Loss, params: Params, key: Key, batch: Batch, held: Held, parts: int
) -> tuple[Mapping[str, Array], Params]:
    """Scalar metrics and the gradient (1), in at least float32."""

    def told(*arguments: Any) -> tuple[Array, Mapping[str, Array]]:
        found = loss(*arguments)
        if not (isinstance(found, tuple) and len(found) == 2):
            raise TypeError(
                f"a loss returns (loss, aux), where aux may be None; got {type(found).__name__}"
            )
        return found[0], found[1] or {}

    def of_part(key: Key, part: Batch) -> tuple[Mapping[str, Array], Params]:
        (value, aux), gradient = jax.value_and_grad(told, has_aux=True)(params, key, part, held)
        scalars = {name: a for name, a in aux.items() if jnp.ndim(a) == 0}
        return {"loss": value, **scalars}, in_float32(gradient)

    if parts == 1:
        return of_part(key, batch)
    n = batch_size(batch)
    if n % parts:
        raise ValueError(
            f"a batch of {n} does not divide into {parts} microbatches: choose a divisor of {n}"
        )
    keys = jax.random.split(key, parts)
    batches = jax.tree.map(lambda a: _interleave(a, parts), batch)
    return _scan_mean(of_part, keys, batches, parts)


def _interleave(a: Array, parts: int) -> Array:
    """`[n, ...] -> [parts, n / parts, ...]`, part i taking every example i modulo `parts`.

    So that a batch sharded over devices is split without moving an example.
    """
    return jnp.swapaxes(a.reshape(a.shape[0] // parts, parts, *a.shape[1:]), 0, 1)


def _scan_mean(of_part: Callable[..., Any], keys: Array, batches: Batch, parts: int) -> Any:
    first = jax.eval_shape(of_part, keys[0], jax.tree.map(lambda a: a[0], batches))
    zero = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), first)

    def add(total: Any, part: tuple[Key, Batch]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, of_part(*part)), None

    total, _ = jax.lax.scan(add, zero, (keys, batches))
    return jax.tree.map(lambda a: a / parts, total)

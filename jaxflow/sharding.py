"""Where a parameter is cut over devices, and how it comes to where it is used.

A mesh has three axes: `data`, whose devices hold the same parameters, `fsdp`, whose devices hold a
part of each, and `tensor`, whose devices share the work of a layer (Megatron's; Shoeybi et al.,
2019, Megatron-LM, arXiv:1909.08053, section 3). A layer says by `gathered` where it uses a
parameter: there it is made whole along `fsdp`, and on the way back its gradient is reduced and cut
again (ZeRO's third stage; Rajbhandari et al., 2020, ZeRO: Memory Optimizations Toward Training
Trillion Parameter Models, arXiv:1910.02054, section 5.3), so that nothing but parameters and
their gradients travels between devices.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import linear_call
from jax.sharding import NamedSharding, PartitionSpec

from jaxflow.types import AnyArray, Array

__all__ = [
    "AXES",
    "all_but_gathered",
    "cut",
    "gathered",
    "gathering",
    "gathers_here",
    "keeping_gathered",
    "keeps_gathered",
]

AXES = ("data", "fsdp", "tensor")

_KEEPS = ContextVar("keeps", default=False)


def cut(shape: Sequence[int], sizes: Mapping[str, int], tensor: int | None = None) -> PartitionSpec:
    """Where a parameter is cut.

    Along `fsdp` it is cut at the longer of its last two axes that divides, or else at any other
    one: the axes before are layers of a stack, or places of a window.

    Args:
        shape: of the parameter.
        sizes: of the mesh, by axis.
        tensor: the axis cut along `tensor`, counted from the last as -1, where there is one.
    """
    axes: list[str | None] = [None] * len(shape)
    if tensor is not None and -tensor <= len(shape) and sizes.get("tensor", 1) > 1:
        axes[tensor] = "tensor"
    parts = sizes.get("fsdp", 1)
    free = [i for i, n in enumerate(shape) if axes[i] is None and n and n % parts == 0]
    if parts > 1 and free:
        axes[max(free, key=lambda i: (i >= len(shape) - 2, shape[i], i))] = "fsdp"
    return PartitionSpec(*axes) if any(axes) else PartitionSpec()


def gathered(param: AnyArray, *, tensor: int | None = None, table: bool = False) -> Array:
    """A parameter where it is used: whole along `fsdp`; its gradient is cut again.

    Outside of a training step of several devices it is the parameter itself.

    Args:
        param: cast to the dtype of the computation, so that less travels.
        tensor: as in `cut`.
        table: whether rows of it are looked up. The gradient is then reduced whole before it is
            cut, or else the compiler would send the examples to where the parts of the rows lie.
    """
    if not gathers_here():
        return jnp.asarray(param)
    mesh: Any = jax.sharding.get_abstract_mesh()
    stored = cut(param.shape, mesh.shape, tensor)
    used = PartitionSpec(*(None if axis == "fsdp" else axis for axis in stored))

    def lay(a: Array, spec: PartitionSpec) -> Array:
        return jax.lax.with_sharding_constraint(a, NamedSharding(mesh, spec))

    def cut_again(_: tuple[()], gradient: Array) -> Array:
        return lay(lay(gradient, used) if table else gradient, stored)

    return linear_call(lambda _, a: lay(a, used), cut_again, (), param)


def gathering(*names: str) -> property:
    """The property `gathers` of a record: whether all that these fields hold gather theirs.

    A network says by `gathers` that its layers gather their parameters where they use them.
    """

    def gathers(self: Any) -> bool:
        return all(getattr(getattr(self, name), "gathers", False) for name in names)

    return property(gathers)


def all_but_gathered(primitive: Any, *_: Any, **__: Any) -> bool:
    """A policy for `jax.checkpoint`: everything is kept but what `gathered` made whole."""
    return primitive.name != "linear_call"


def gathers_here() -> bool:
    """Whether this is traced for a step that cuts its parameters along `fsdp`."""
    mesh: Any = jax.sharding.get_abstract_mesh()
    return not mesh.empty and dict(mesh.shape).get("fsdp", 1) > 1 and "fsdp" not in mesh.manual_axes


@contextlib.contextmanager
def keeping_gathered(keeps: bool) -> Iterator[None]:
    """Where what is traced here keeps gathered parameters for the way back, if `keeps`."""
    token = _KEEPS.set(keeps)
    try:
        yield
    finally:
        _KEEPS.reset(token)


def keeps_gathered() -> bool:
    """Whether gathered parameters are kept for the way back, not freed and gathered again."""
    return _KEEPS.get()

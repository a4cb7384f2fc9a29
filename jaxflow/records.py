"""Records: frozen dataclasses that are pytrees, told apart by their class.

Arrays are leaves; fields marked `static()` are part of the structure, and must hash. Two records
are equal where their structures and all their numbers are; one without leaves hashes.

Not `jax.tree_util.register_dataclass`: there the structures of two classes are equal where their
static fields are (jax 0.10 to 0.12). Only their hashes differ, and a table of compiled programs
that happens to look at both would run one class's record by the program of the other.

Unflattening sets the fields without `__init__`: the leaves may then be anything at all, such as
the axes that `vmap` takes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar, dataclass_transform, overload

import jax
import numpy as np
from jax.tree_util import GetAttrKey, Partial, register_pytree_with_keys

__all__ = ["record", "static", "traceable"]

T = TypeVar("T")


def static(**options: Any) -> Any:
    """A field that belongs to the structure and not to the leaves; `options` are a field's."""
    return field(metadata={"static": True}, **options)


@overload
def record(cls: type[T], /) -> type[T]: ...
@overload
def record(*, eq: bool = True, repr: bool = True) -> Callable[[type[T]], type[T]]: ...
@dataclass_transform(frozen_default=True, field_specifiers=(field, static))
def record(cls: Any = None, /, **options: bool) -> Any:
    """A class as a frozen dataclass and a pytree.

    Args:
        cls: with annotated fields, all of them arguments.
        **options: `eq` and `repr` of `dataclasses.dataclass`.

    >>> import jax
    >>> @record
    ... class Scaled:
    ...     scale: jax.Array
    ...     power: int = static(default=2)
    >>> jax.tree.map(lambda a: 10 * a, Scaled(3.0))
    Scaled(scale=30.0, power=2)
    """
    if cls is None:
        return lambda cls: record(cls, **options)
    if options.get("eq", True) and "__eq__" not in vars(cls):
        cls.__eq__, cls.__hash__ = _equal, _hash
    made: Any = dataclass(frozen=True, **{**options, "eq": False})(cls)
    names = [f.name for f in fields(made) if not f.metadata.get("static")]
    statics = [f.name for f in fields(made) if f.metadata.get("static")]
    keys, order = [GetAttrKey(name) for name in names], names + statics

    def flatten(instance: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        leaves = tuple([getattr(instance, name) for name in names])
        return leaves, tuple([getattr(instance, name) for name in statics])

    def flatten_with_keys(instance: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        leaves, structure = flatten(instance)
        return tuple(zip(keys, leaves, strict=True)), structure

    def unflatten(structure: tuple[Any, ...], leaves: Any) -> Any:
        instance: Any = object.__new__(made)
        vars(instance).update(zip(order, (*leaves, *structure), strict=True))
        return instance

    register_pytree_with_keys(made, flatten_with_keys, unflatten, flatten)
    return made


def traceable(tree: Any) -> Any:
    """The tree as an argument of jit: every function in it becomes a pytree without leaves.

    >>> jax.tree.leaves(traceable({"rate": 2.0, "map": abs}))
    [2.0]
    """
    if not any(map(callable, jax.tree.leaves(tree))):
        return tree
    return jax.tree.map(lambda leaf: Partial(leaf) if callable(leaf) else leaf, tree)


def _equal(self: Any, other: Any) -> Any:
    if type(self) is not type(other):
        return NotImplemented
    (mine, structure), (others, structure_) = jax.tree.flatten(self), jax.tree.flatten(other)
    return structure == structure_ and all(map(_same, mine, others))


def _same(a: Any, b: Any) -> bool:
    return a is b or bool(np.shape(a) == np.shape(b) and np.all(a == b))


def _hash(self: Any) -> int:
    leaves, structure = jax.tree.flatten(self)
    if leaves:
        raise TypeError(
            f"a {type(self).__name__} that holds arrays does not hash: it is an argument of jit, "
            "not a part of the program"
        )
    return hash((type(self), structure))

"""Records: frozen dataclasses that are pytrees, told apart by their class.

Arrays are leaves; fields marked `static()` are part of the structure, and must hash.

Not `jax.tree_util.register_dataclass`: there the structures of two classes are equal where their
static fields are (jax 0.10 to 0.12). Only their hashes differ, and a table of compiled programs
that happens to look at both would run one class's record by the program of the other.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar, dataclass_transform, overload

from jax.tree_util import GetAttrKey, register_pytree_with_keys

__all__ = ["record", "static"]

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
    made: Any = dataclass(frozen=True, **options)(cls)
    names = [f.name for f in fields(made) if not f.metadata.get("static")]
    statics = [f.name for f in fields(made) if f.metadata.get("static")]
    keys = [GetAttrKey(name) for name in names]

    def flatten(instance: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        leaves = tuple([getattr(instance, name) for name in names])
        return leaves, tuple([getattr(instance, name) for name in statics])

    def flatten_with_keys(instance: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        leaves, structure = flatten(instance)
        return tuple(zip(keys, leaves, strict=True)), structure

    def unflatten(structure: tuple[Any, ...], leaves: Any) -> Any:
        return made(
            **dict(zip(names, leaves, strict=True)), **dict(zip(statics, structure, strict=True))
        )

    register_pytree_with_keys(made, flatten_with_keys, unflatten, flatten)
    return made

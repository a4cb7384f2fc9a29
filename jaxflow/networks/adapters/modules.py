"""What the adapters ask of a module: its kind, its identity, and the names its call takes."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from jaxflow.checks import LIBRARIES, adapter_of

__all__ = ["Same", "arguments", "check_conditions", "check_module"]


def check_module(value: Any, adapter: str) -> None:
    """Refuse all but the modules of an adapter's library.

    Raises:
        ValueError: naming the adapter that takes it, if there is one.
    """
    other = adapter_of(value)
    if other == adapter:
        return
    got, remedy = type(value).__name__, "networks.function takes plain functions"
    if isinstance(value, type):
        got, remedy = f"the class {value.__name__}", f"make one, {value.__name__}(...)"
    elif other:
        remedy = f"networks.{other} takes it"
    library = LIBRARIES[adapter]
    raise ValueError(f"networks.{adapter} takes modules of {library}; got {got}: {remedy}")


@dataclass(frozen=True, eq=False)
class Same:
    """A module in the structure of a record, equal to itself alone."""

    value: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)

    def __repr__(self) -> str:
        return type(self.value).__name__


@lru_cache
def arguments(call: Callable[..., Any]) -> tuple[frozenset[str], bool]:
    """The names a call takes, and whether it takes any other."""
    parameters = inspect.signature(call).parameters.values()
    names = frozenset(
        p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    )
    return names, any(p.kind is p.VAR_KEYWORD for p in parameters)


def check_conditions(module: Any, cond: dict[str, Any]) -> None:
    """Refuse a condition, or a second time, that the call of a module does not take.

    Raises:
        ValueError: naming the conditions that it takes.
    """
    owner, (names, others) = type(module).__name__, arguments(type(module).__call__)
    unknown = sorted(set(cond) - names)
    if others or not unknown:
        return
    if unknown == ["r"]:
        raise ValueError(
            f"{owner} takes no second time: give its call r=None, the time to which x is carried"
        )
    known = sorted(names - {"self", "t", "x", "r", "key", "deterministic"})
    raise ValueError(f"{owner} takes no condition {unknown}; it takes {known}")

"""Components by name: `{"name": ..., "kwargs": {...}}` becomes a call, checked before it is made.

A constructor's signature is the schema of its `kwargs`, and `TABLES` says what each section of a
config may name. An argument that is itself a component is resolved from the table of its name.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from experiments.setup.tables import TABLES
from jaxflow.names import did_you_mean

__all__ = ["bound", "component"]


def component(where: str, spec: Any, *, table: str | None = None, **given: Any) -> Any:
    """Call the component that `spec` names.

    Args:
        where: its place in the config, for errors, as "path".
        spec: `{"name": ..., "kwargs": {...}}`.
        table: which table it is from; that of `where` if None.
        **given: arguments that the config need not hold, passed where the component, or one of its
            arguments, takes them and the config says nothing else.

    Raises:
        ValueError: for an unknown name or argument (with the nearest known one), a missing
            argument, or what the component itself refuses.
    """
    factory, kwargs = _resolve(where, spec, table or where, given)
    try:
        return factory(**kwargs)
    except (TypeError, ValueError) as error:
        raise ValueError(f"config.{where}: {error}") from error


def bound(where: str, spec: Any, **given: Any) -> Callable[..., Any]:
    """The component with its `kwargs` bound, to be called later with what a config cannot hold."""
    factory, kwargs = _resolve(where, spec, where, given, partial=True)
    return functools.partial(factory, **kwargs)


def _check_spec(where: str, spec: Any) -> None:
    if not isinstance(spec, Mapping) or "name" not in spec or "kwargs" not in spec:
        raise ValueError(
            f"config.{where} must be {{'name': ..., 'kwargs': {{...}}}}; it is {spec!r}"
        )


def _resolve(
    where: str, spec: Any, table: str, given: Mapping[str, Any], *, partial: bool = False
) -> tuple[Callable[..., Any], dict[str, Any]]:
    spec = spec.to_dict() if isinstance(spec, ConfigDict) else spec
    _check_spec(where, spec)
    known, name = TABLES[table], spec["name"]
    if name not in known:
        raise ValueError(
            f"config.{where}.name is {name!r}{did_you_mean(name, known)}; "
            f"known are {', '.join(sorted(known))}"
        )
    tables = {"velocity": "guidance", "logits": "guidance"}
    if name in ("jumps", "by_block") or table == "leap":
        tables["method"] = "leap"
    kwargs = {
        key: _nested(where, key, value, tables.get(key, key), given)
        for key, value in spec["kwargs"].items()
    }
    accepted = _parameters(known[name])
    unknown = [key for key in kwargs if key not in accepted]
    if unknown:
        raise ValueError(
            f"config.{where}: {name} takes no {unknown[0]!r}{did_you_mean(unknown[0], accepted)}; "
            f"it takes {', '.join(accepted) or 'no arguments'}"
        )
    kwargs = {key: value for key, value in given.items() if key in accepted} | kwargs
    missing = [
        key
        for key, p in accepted.items()
        if p.default is p.empty and p.kind is not p.VAR_KEYWORD and key not in kwargs
    ]
    if missing and not partial:
        raise ValueError(f"config.{where}: {name} needs {missing[0]!r}")
    return known[name], kwargs


def _nested(where: str, key: str, value: Any, table: str, given: Mapping[str, Any]) -> Any:
    is_component = isinstance(value, Mapping) and set(value) == {"name", "kwargs"}
    if is_component and table in TABLES:
        return component(f"{where}.kwargs.{key}", value, table=table, **given)
    return value


def _parameters(factory: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    hidden = {"parent", "name"} if inspect.isclass(factory) else set()
    parameters = inspect.signature(factory).parameters
    return {key: p for key, p in parameters.items() if key not in hidden}

"""What arguments must be, and the sentence that says so."""

import inspect
import sys
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.arrays import batch_size
from jaxflow.types import Cond

__all__ = [
    "LIBRARIES",
    "adapter_of",
    "check_batch",
    "check_made",
    "check_network",
]

LIBRARIES = {"linen": "flax.linen", "nnx": "flax.nnx", "equinox": "equinox"}


def check_batch(x: Any, cond: Cond) -> int:
    """The batch size of `x`, once every condition is known to share it.

    Raises:
        ValueError: where a condition does not lead with the batch.
    """
    n = batch_size(x)
    for name, value in cond.items():
        for shape in (jnp.shape(leaf) for leaf in jax.tree.leaves(value)):
            if not shape or shape[0] != n:
                raise ValueError(
                    f"condition {name!r} has shape {shape}, but the batch is {n}: every condition "
                    "leads with the batch; repeat one value with jnp.full or jnp.repeat"
                )
    return n


def check_made(argument: str, value: Any) -> None:
    """Refuse a factory or class of ours in the place of what a call of it makes.

    Raises:
        TypeError: naming it, and its call.
    """
    module, name = str(getattr(value, "__module__", "")), getattr(value, "__name__", "")
    ours = module.startswith("jaxflow.") and name in getattr(sys.modules[module], "__all__", ())
    if ours and (inspect.isfunction(value) or inspect.isclass(value)):
        parts = module.split(".")
        rooms = [".".join(parts[: i + 1]) for i in range(1, len(parts))]
        room = next(r for r in rooms if getattr(sys.modules[r], name, None) is value)
        room = room.removeprefix("jaxflow.")
        raise TypeError(
            f"{argument} is {room}.{name} itself, and not what it makes: call it, as "
            f"{argument}={room}.{name}(...)"
        )


def adapter_of(value: Any) -> str | None:
    """The adapter of `jaxflow.networks` for a module, told without importing a library."""
    for kind in type(value).__mro__:
        for adapter, library in LIBRARIES.items():
            if kind.__name__ == "Module" and f"{kind.__module__}.".startswith(f"{library}."):
                return adapter
    return None


def check_network(network: Any) -> None:
    """Refuse what is no function of parameters, and a module that no adapter has taken.

    Raises:
        TypeError: naming the adapter, or what a network is.
    """
    check_made("network", network)
    adapter = adapter_of(network)
    if adapter is not None:
        raise TypeError(
            f"{type(network).__name__} is a module and no network yet: make it a pure function of "
            f"parameters by networks.{adapter}(module)"
        )
    if not callable(network):
        raise TypeError(
            "a network is a function (params, t, x, *, key=None, **cond) -> output; got "
            f"{type(network).__name__}"
        )

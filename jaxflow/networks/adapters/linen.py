"""Flax Linen modules as networks."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.errors import ScopeParamNotFoundError, ScopeParamShapeError

from jaxflow.networks.adapters.modules import arguments, check_conditions, check_module
from jaxflow.networks.initialisers import initialise
from jaxflow.records import record, static
from jaxflow.sharding import gathering
from jaxflow.types import Key, Params, Sample

__all__ = ["Linen", "linen"]


@record
class Linen:
    """A Flax Linen module whose call is `(t, x, **cond)`, with `deterministic` if it drops out."""

    module: nn.Module = static()

    gathers = gathering("module")

    def computing(self, dtype: Any) -> "Linen":
        """The network computing in `dtype`; in that of its parameters and data, at least float32,
        where None. One whose module has no field `dtype` stays as it is.
        """
        own = getattr(self.module, "dtype", None)
        if not hasattr(self.module, "dtype") or (dtype is None and not _is_short(own)):
            return self
        return Linen(self.module.clone(dtype=dtype))

    @property
    def block(self) -> int | None:
        """How many tokens are generated at a time, where the module tells (`BlockTransformer`)."""
        return getattr(self.module, "block", None)

    @property
    def vocabulary(self) -> int | None:
        """How many tokens the module tells apart, where it is of tokens."""
        return getattr(self.module, "vocabulary", None)

    def empty(self, batch: int, length: int, dtype: Any) -> Any:
        """The memory of a module of blocks, before it has read any."""
        module: Any = self.module
        return module.empty(batch, length, dtype)

    def init(self, key: Key, t: Any, x: Sample, **cond: Any) -> Params:
        """Parameters for data of these shapes, without compiling the forward pass.

        See `jaxflow.networks.initialise`.
        """
        return jax.device_put(self.init_on_host(key, t, x, **cond))

    def init_on_host(self, key: Key, t: Any, x: Sample, **cond: Any) -> Params:
        """The same as NumPy arrays, for a layout to lay: no device holds them whole."""
        return initialise(self.module, key, t, x, **self._options(None), **cond)

    def __call__(
        self, params: Params, t: Any, x: Sample, *, key: Key | None = None, **cond: Any
    ) -> Any:
        check_conditions(self.module, cond)
        rngs = None if key is None else {"dropout": key}
        try:
            apply: Callable[..., Any] = self.module.apply
            return apply({"params": params}, t, x, rngs=rngs, **self._options(key), **cond)
        except (ScopeParamShapeError, ScopeParamNotFoundError) as error:
            beside = f" with {sorted(cond)}" if cond else ""
            raise ValueError(
                f"the parameters of {type(self.module).__name__} do not match data of shape "
                f"{jnp.shape(x)}{beside}: {str(error).splitlines()[0]} Initialise the network with "
                "data of this shape and all that it is called with, or load the parameters of the "
                "network that was trained on it"
            ) from error

    def _options(self, key: Key | None) -> dict[str, bool]:
        switched = "deterministic" in arguments(type(self.module).__call__)[0]
        return {"deterministic": key is None} if switched else {}


def _is_short(dtype: Any) -> bool:
    return dtype is not None and jnp.finfo(dtype).bits < 32


def linen(module: nn.Module) -> Linen:
    """A Linen module as a Network with `.init(key, t, x, **cond) -> params`.

    Fields given as lists become tuples, so that the network hashes. Modules of one class and equal
    fields are one network.

    Raises:
        ValueError: for a module of another library, or one that cannot hash.

    >>> import jax.numpy as jnp
    >>> from jaxflow.networks import ConcatMLP
    >>> network = linen(ConcatMLP(width=8))
    >>> t, x = jnp.zeros(5), jnp.zeros((5, 2))
    >>> network(network.init(jax.random.key(0), t, x), t, x).shape
    (5, 2)
    """
    check_module(module, "linen")
    lists: dict[str, Any] = {
        f.name: tuple(value)
        for f in fields(module)
        if f.name not in ("parent", "name") and isinstance(value := getattr(module, f.name), list)
    }
    module = module.clone(**lists)
    try:
        hash(module)
    except TypeError as error:
        raise ValueError(
            f"{type(module).__name__} does not hash, for a field of it does not: a Linen module is "
            "a part of the program; make tuples of lists, and parameters or conditions of arrays"
        ) from error
    return Linen(module)

"""Anything that computes as a Network: `(params, t, x, *, key=None, **cond) -> output`.

Each adapter is a record, so it hashes, prints, and passes through `jax.jit` without a retrace for
new parameters. Dropout is off where `key` is None and drawn from `key` otherwise.
"""

import inspect
from collections.abc import Callable
from dataclasses import field, fields
from functools import lru_cache
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx as flax_nnx
from flax.errors import ScopeParamNotFoundError, ScopeParamShapeError

from jaxflow.networks.initialisers import initialise
from jaxflow.records import record, static
from jaxflow.types import Array, Data, Key, Network, Params, Time

__all__ = [
    "Equinox",
    "Function",
    "Linen",
    "NNX",
    "Select",
    "equinox",
    "function",
    "linen",
    "nnx",
    "select",
]


@lru_cache
def _arguments(call: Callable[..., Any]) -> tuple[frozenset[str], bool]:
    """The names a call takes, and whether it takes any other."""
    parameters = inspect.signature(call).parameters.values()
    names = frozenset(
        p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    )
    return names, any(p.kind is p.VAR_KEYWORD for p in parameters)


def _check_conditions(call: Callable[..., Any], owner: str, cond: dict[str, Any]) -> None:
    names, others = _arguments(call)
    unknown = sorted(set(cond) - names)
    if unknown and not others:
        known = sorted(names - {"self", "params", "t", "x", "key", "deterministic"})
        raise ValueError(f"{owner} takes no condition {unknown}; it takes {known}")


@record
class Linen:
    """A Flax Linen module whose call is `(t, x, **cond)`, with `deterministic` if it drops out."""

    module: nn.Module = static()

    def init(self, key: Key, t: Time, x: Data, **cond: Array) -> Params:
        """Parameters for data of these shapes, without compiling the forward pass.

        See `jaxflow.networks.initialise`.
        """
        return jax.device_put(self.init_on_host(key, t, x, **cond))

    def init_on_host(self, key: Key, t: Time, x: Data, **cond: Array) -> Params:
        """The same as NumPy arrays, for a layout to lay: no device holds them whole."""
        return initialise(self.module, key, t, x, **self._options(None), **cond)

    def __call__(
        self, params: Params, t: Time, x: Data, *, key: Key | None = None, **cond: Array
    ) -> Any:
        name = type(self.module).__name__
        _check_conditions(type(self.module).__call__, name, cond)
        rngs = None if key is None else {"dropout": key}
        try:
            apply: Callable[..., Any] = self.module.apply
            return apply({"params": params}, t, x, rngs=rngs, **self._options(key), **cond)
        except (ScopeParamShapeError, ScopeParamNotFoundError) as error:
            raise ValueError(
                f"the parameters of {name} do not match data of shape {jnp.shape(x)}: "
                f"{str(error).splitlines()[0]} Initialise the network with data of this shape, "
                "or load the parameters of the network that was trained on it"
            ) from error

    def _options(self, key: Key | None) -> dict[str, bool]:
        switched = "deterministic" in _arguments(type(self.module).__call__)[0]
        return {"deterministic": key is None} if switched else {}


def linen(module: nn.Module) -> Linen:
    """A Linen module as a Network with `.init(key, t, x, **cond) -> params`.

    Fields given as lists become tuples, so that the network hashes.

    >>> import jax.numpy as jnp
    >>> from jaxflow.networks import ConcatMLP
    >>> network = linen(ConcatMLP(width=8))
    >>> t, x = jnp.zeros(5), jnp.zeros((5, 2))
    >>> network(network.init(jax.random.key(0), t, x), t, x).shape
    (5, 2)
    """
    lists: dict[str, Any] = {
        f.name: tuple(value)
        for f in fields(module)
        if f.name not in ("parent", "name") and isinstance(value := getattr(module, f.name), list)
    }
    return Linen(module.clone(**lists))


@record(eq=False)
class NNX:
    """A Flax NNX module: its graph, and what is neither graph nor parameter."""

    graph: Any = static()
    rest: Any = field(repr=False)

    def __call__(
        self, params: Params, t: Time, x: Data, *, key: Key | None = None, **cond: Array
    ) -> Any:
        module = flax_nnx.merge(self.graph, params, self.rest, copy=True)
        if key is None:
            module.eval()
        else:
            module.train()
            streams = sorted(_streams(module))
            keys = jax.random.split(key, max(1, len(streams)))
            flax_nnx.reseed(module, policy="match_shape", **dict(zip(streams, keys, strict=False)))
        return module(t, x, **cond)


def _streams(module: flax_nnx.Module) -> set[str]:
    """The names of the random streams in a module."""
    nodes = (node for _, node in flax_nnx.iter_graph(module))
    return {node.key.tag for node in nodes if isinstance(node, flax_nnx.RngStream)}


def nnx(module: flax_nnx.Module) -> tuple[NNX, Params]:
    """An NNX module, called `(t, x, **cond)`, as a Network and its parameters.

    Its other variables are held as they are; what a call does to them is not kept.
    """
    graph, params, rest = flax_nnx.split(module, flax_nnx.Param, ...)
    return NNX(graph, rest), params


@record(eq=False)
class Equinox:
    """An Equinox module for one example: what is static in it, and its integer arrays."""

    rest: Any = static()
    arrays: Any = field(repr=False)

    def __call__(
        self, params: Params, t: Time, x: Data, *, key: Key | None = None, **cond: Array
    ) -> Any:
        import equinox as eqx

        module = eqx.combine(params, self.arrays, self.rest)
        call = type(module).__call__
        _check_conditions(call, type(module).__name__, cond)
        if key is None or "key" not in _arguments(call)[0]:
            module = eqx.nn.inference_mode(module)
            return jax.vmap(lambda t, x, c: module(t, x, **c))(t, x, cond)
        keys = jax.random.split(key, len(x))
        return jax.vmap(lambda t, x, c, k: module(t, x, key=k, **c))(t, x, cond, keys)


def equinox(module: Any) -> tuple[Equinox, Params]:
    """An Equinox module, called `(t, x, **cond)` for one example, as a Network and its parameters.

    Equinox layers take one example, so the module is mapped over the batch here: `t` reaches it as
    a scalar and `x` as `[*event]`. Where its call takes `key`, each example has its own.
    """
    import equinox as eqx

    params, rest = eqx.partition(module, eqx.is_inexact_array)
    arrays, rest = eqx.partition(rest, eqx.is_array)
    return Equinox(rest, arrays), params


@record
class Function:
    """A function `(params, t, x, **cond)` that has no dropout."""

    fn: Callable[..., Any] = static()

    def __call__(
        self, params: Params, t: Time, x: Data, *, key: Key | None = None, **cond: Array
    ) -> Any:
        return self.fn(params, t, x, **cond)


def function(fn: Callable[..., Any]) -> Function:
    """A bare `(params, t, x, **cond)` as a Network: `key` is taken and not used."""
    return Function(fn)


@record
class Select:
    """One entry of a network whose output is a mapping."""

    network: Network
    name: str = static()

    def __call__(
        self, params: Params, t: Time, x: Data, *, key: Key | None = None, **cond: Array
    ) -> Any:
        output = self.network(params, t, x, key=key, **cond)
        if self.name not in output:
            raise ValueError(f"the network has no output {self.name!r}; it has {sorted(output)}")
        return output[self.name]


def select(network: Network, name: str) -> Select:
    """One entry of the mapping that `network` returns, as a Network.

    >>> both = function(lambda params, t, x: {"velocity": params * x, "score": -x})
    >>> select(both, "score")(2.0, None, 3.0)
    -3.0
    """
    return Select(network, name)

"""Flax NNX modules as networks."""

from dataclasses import field
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx as flax_nnx

from jaxflow.networks.adapters.modules import Same, check_conditions, check_module
from jaxflow.records import record, static
from jaxflow.types import Key, Params, Sample

__all__ = ["NNX", "nnx"]


@record(eq=False)
class NNX:
    """A Flax NNX module: itself, its graph, and what is neither graph nor parameter.

    The module, and with it the parameters that it was built with, lives as long as the record and
    the programs compiled for it.
    """

    module: Same = static()
    graph: Any = static(repr=False)
    rest: Any = field(repr=False)

    def init(self, key: Key | None, t: Any, x: Sample, **cond: Any) -> Params:
        """A copy of the parameters that the module holds now: nothing is drawn from `key`."""
        return jax.tree.map(jnp.array, flax_nnx.state(self.module.value, flax_nnx.Param))

    def __call__(
        self, params: Params, t: Any, x: Sample, *, key: Key | None = None, **cond: Any
    ) -> Any:
        module = flax_nnx.merge(self.graph, params, self.rest, copy=True)
        check_conditions(module, cond)
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


def nnx(module: flax_nnx.Module) -> NNX:
    """An NNX module, called `(t, x, **cond)`, as a Network.

    `.init` gives the parameters that the module was built with. Its graph and other variables are
    held as they are now; what a call does to them is not kept.

    Raises:
        ValueError: for a module of another library, or one whose graph cannot hash.

    >>> class Scaled(flax_nnx.Module):
    ...     def __init__(self):
    ...         self.scale = flax_nnx.Param(jnp.ones(2))
    ...
    ...     def __call__(self, t, x):
    ...         return self.scale * x
    >>> network = nnx(Scaled())
    >>> t, x = jnp.zeros(5), jnp.ones((5, 2))
    >>> network(network.init(None, t, x), t, x).shape
    (5, 2)
    """
    check_module(module, "nnx")
    try:
        graph, _, rest = flax_nnx.split(module, flax_nnx.Param, ...)
        hash(graph)
    except TypeError as error:
        raise ValueError(
            f"the graph of {type(module).__name__} does not hash ({error}): hold its lists and "
            "dicts as flax.nnx.List and flax.nnx.Dict, its constants as tuples"
        ) from error
    return NNX(Same(module), graph, jax.tree.map(jnp.asarray, rest))

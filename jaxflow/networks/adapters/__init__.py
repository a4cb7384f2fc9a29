"""Anything that computes as a Network: `(params, t, x, *, key=None, **cond) -> output`.

Each adapter returns a record with `.init(key, t, x, **cond) -> params`, which prints and is an
argument of `jax.jit`: arrays other than parameters are its leaves, and neither new parameters nor
the same module adapted again are a reason to retrace. Dropout is off where `key` is None and drawn
from `key` otherwise. Conditions reach the module as they are, nested mappings too; so does a second
time `r`, where its call takes one.
"""

from jaxflow.networks.adapters.equinox import Equinox, equinox
from jaxflow.networks.adapters.function import Function, function
from jaxflow.networks.adapters.linen import Linen, linen
from jaxflow.networks.adapters.nnx import NNX, nnx
from jaxflow.networks.adapters.select import Select, select
from jaxflow.networks.adapters.self_conditioned import SelfConditioned, self_conditioned

__all__ = [
    "Equinox",
    "Function",
    "Linen",
    "NNX",
    "Select",
    "SelfConditioned",
    "equinox",
    "function",
    "linen",
    "nnx",
    "select",
    "self_conditioned",
]

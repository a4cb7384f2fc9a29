"""Equinox modules as networks."""

from dataclasses import field
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.networks.adapters.modules import Same, arguments, check_conditions, check_module
from jaxflow.records import record, static
from jaxflow.types import Key, Params, Sample

__all__ = ["Equinox", "equinox"]


@record(eq=False)
class Equinox:
    """An Equinox module for one example: itself, and its arrays that are no parameters.

    The module, and with it the parameters that it was built with, lives as long as the record and
    the programs compiled for it.
    """

    module: Same = static()
    arrays: Any = field(repr=False)

    def init(self, key: Key | None, t: Any, x: Sample, **cond: Any) -> Params:
        """A copy of the parameters that the module holds: nothing is drawn from `key`."""
        import equinox as eqx

        return jax.tree.map(jnp.array, eqx.filter(self.module.value, eqx.is_inexact_array))

    def __call__(
        self, params: Params, t: Any, x: Sample, *, key: Key | None = None, **cond: Any
    ) -> Any:
        import equinox as eqx

        module = self.module.value
        check_conditions(module, cond)
        takes_key = "key" in arguments(type(module).__call__)[0]
        module = eqx.combine(params, self.arrays, eqx.filter(module, eqx.is_array, inverse=True))
        if key is None or not takes_key:
            module = eqx.nn.inference_mode(module)
            return jax.vmap(lambda t, x, c: module(t, x, **c))(t, x, cond)
        keys = jax.random.split(key, len(x))
        return jax.vmap(lambda t, x, c, k: module(t, x, key=k, **c))(t, x, cond, keys)


def equinox(module: Any) -> Equinox:
    """An Equinox module, called `(t, x, **cond)` for one example, as a Network.

    Its inexact arrays are parameters, and `.init` gives those it was built with. Equinox layers
    take one example, so the module is mapped over the batch here: `t` reaches it as a scalar and
    `x` as `[*event]`. Where its call takes `key`, each example has its own.

    Raises:
        ValueError: for a module of another library.

    >>> import equinox as eqx
    >>> class Scaled(eqx.Module):
    ...     scale: jax.Array
    ...
    ...     def __call__(self, t, x):
    ...         return self.scale * x
    >>> network = equinox(Scaled(jnp.ones(2)))
    >>> t, x = jnp.zeros(5), jnp.ones((5, 2))
    >>> network(network.init(None, t, x), t, x).shape
    (5, 2)
    """
    import equinox as eqx

    check_module(module, "equinox")
    arrays = eqx.filter(eqx.filter(module, eqx.is_inexact_array, inverse=True), eqx.is_array)
    return Equinox(Same(module), arrays)

"""One entry of a network whose output is a mapping."""

from typing import Any

from jax.tree_util import Partial, all_leaves

from jaxflow.checks import check_network
from jaxflow.records import record, static
from jaxflow.sharding import gathering
from jaxflow.types import Key, Network, Params, Sample

__all__ = ["Select", "select"]


@record
class Select:
    """A network, and the name of the entry."""

    network: Any
    name: str = static()

    gathers = gathering("network")

    def init(self, key: Key | None, t: Any, x: Sample, **cond: Any) -> Params:
        """The parameters of the whole network."""
        return self.network.init(key, t, x, **cond)

    def __call__(
        self, params: Params, t: Any, x: Sample, *, key: Key | None = None, **cond: Any
    ) -> Any:
        output = self.network(params, t, x, key=key, **cond)
        if self.name not in output:
            raise ValueError(f"the network has no output {self.name!r}; it has {sorted(output)}")
        return output[self.name]


def select(network: Network, name: str) -> Select:
    """One entry of the mapping that `network` returns, as a Network with the same parameters.

    Raises:
        TypeError: for a module that is no network yet.

    >>> from jaxflow.networks import function
    >>> both = function(lambda params, t, x: {"velocity": params * x, "score": -x})
    >>> select(both, "score")(2.0, None, 3.0)
    -3.0
    """
    check_network(network)
    return Select(Partial(network) if all_leaves([network]) else network, name)

"""Plain functions as networks."""

from collections.abc import Callable
from typing import Any

from jax.tree_util import Partial, all_leaves

from jaxflow.checks import check_network
from jaxflow.records import record, static
from jaxflow.types import Key, Params, Sample

__all__ = ["Function", "function"]


@record
class Function:
    """A function `(params, t, x, **cond)` that has no dropout; arrays that it holds are leaves."""

    fn: Callable[..., Any]
    initial: Callable[..., Params] | None = static(default=None)

    def init(self, key: Key | None, t: Any, x: Sample, **cond: Any) -> Params:
        """What the function's own `init` gives.

        Raises:
            ValueError: where it was given none.
        """
        if self.initial is None:
            raise ValueError(
                "this function came without parameters: use "
                "networks.function(fn, init), with init(key, t, x, **cond) -> params"
            )
        return self.initial(key, t, x, **cond)

    def __call__(
        self, params: Params, t: Any, x: Sample, *, key: Key | None = None, **cond: Any
    ) -> Any:
        return self.fn(params, t, x, **cond)


def function(fn: Callable[..., Any], init: Callable[..., Params] | None = None) -> Function:
    """A bare `(params, t, x, **cond)` as a Network: `key` is taken and not used.

    Args:
        fn: the function; arrays that it needs are parameters, conditions, or the arguments of a
            `jax.tree_util.Partial`, for those it closes over become constants of the program.
        init: `(key, t, x, **cond) -> params`, where the network shall have `.init`.

    Raises:
        TypeError: for a module, which has an adapter of its own.

    >>> network = function(lambda params, t, x: params * x, lambda key, t, x: 2.0)
    >>> network(network.init(None, None, 3.0), None, 3.0)
    6.0
    """
    check_network(fn)
    return Function(Partial(fn) if all_leaves([fn]) else fn, init)

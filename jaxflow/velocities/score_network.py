r"""The score that a trained network defines on a path with noise of its own.

(1) $s(t, x) = o(t, x) / \max_t \gamma(t)$, where $o$ is the network's output
"""

from typing import Any

import jax.numpy as jnp

from jaxflow.arrays import at_least_float32, parameter_summary
from jaxflow.checks import check_made, check_network
from jaxflow.paths.interpolant import Interpolant
from jaxflow.records import record, traceable
from jaxflow.types import Interval, Network, Params, Path

__all__ = ["check_noisy", "score_from_network"]


@record
class NetworkScore:
    """A network and its parameters, read as a score by (1); parameters are the leaves."""

    network: Network
    params: Params
    path: Interpolant

    evaluations = 1

    @property
    def interval(self) -> Interval:
        """That of the path."""
        return self.path.interval

    def __call__(self, t: Any, x: Any, **cond: Any) -> Any:
        """The score; beyond `interval`, that of its nearer end."""
        t = jnp.clip(at_least_float32(t), *self.interval)
        output = self.network(self.params, t, x, **cond)
        return (output / self.path.widest).astype(output.dtype)

    def __repr__(self) -> str:
        return (
            f"NetworkScore({self.network!r}, {parameter_summary(self.params)}, path={self.path!r})"
        )


def check_noisy(what: str, path: Path) -> Interpolant:
    """The path, known to have noise of its own.

    Raises:
        TypeError: where it has none.
    """
    check_made("path", path)
    if not isinstance(path, Interpolant):
        raise TypeError(
            f"{what} needs a path with noise of its own, as paths.bridge(sigma) or "
            f"paths.interpolant(gamma=...); got {path!r}"
        )
    return path


def score_from_network(network: Network, params: Params, path: Path) -> NetworkScore:
    """The score of the marginals, from the network that `losses.flow_and_score` trained for it.

    A function `(t, x, **cond) -> score`. With the velocity of the same loss it makes the stochastic
    flow `dX = (v + g^2 / 2 score) dt + g dW`, of the same marginals for every `g`.

    Args:
        network: any pure `(params, t, x, *, key=None, **cond) -> output`, whose output is the score
            in units of the widest noise, (1).
        params: its parameters, `params["score"]` of the loss.
        path: the interpolant or bridge it was trained on.

    Raises:
        TypeError: for a module that no adapter has taken, or a path without noise of its own.

    >>> from jaxflow import paths
    >>> found = score_from_network(lambda p, t, x, key=None: -p * x, 3.0, paths.bridge(2.0))
    >>> found(jnp.array([0.5]), jnp.array([[2.0]]))  # the widest noise is 1
    Array([[-6.]], dtype=float32)
    """
    check_network(network)
    path = check_noisy("score_from_network", path)
    return NetworkScore(traceable(network), params, traceable(path))

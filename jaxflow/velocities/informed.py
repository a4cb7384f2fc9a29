r"""A network of tokens that says what the others tell of each: what it tells itself is known.

Where tokens are noised apart, Bayes' rule splits the posterior of each,

(1) $p_{1 \mid t}(y \mid x)^i \propto p(x_1^i = y \mid x^{\ne i})\; p_t(x^i \mid y)$

and the second factor is the path's. Of a mixture with the law $q$ of noise it is that of any other
token, but at $y = x^i$, whose logit is raised by

(2) $\log \left[ 1 + \frac{\kappa_t}{(1 - \kappa_t)\, q(x^i)} \right]$

and of a metric path it falls with the distance to it. So a network begins with posteriors that
trust a token as much as its time says, and need not learn to. Of masks, which tell nothing, it is
the network itself.
"""

from typing import Any

from jaxflow.arrays import at_least_float32
from jaxflow.checks import check_made, check_network
from jaxflow.records import record, traceable
from jaxflow.sharding import gathering
from jaxflow.types import Key, Network, Params, Path

__all__ = ["Informed", "informed"]


@record
class Informed:
    """The network of the first factor of (1), as one of the posterior."""

    network: Network
    path: Any

    gathers = gathering("network")

    @property
    def evaluations(self) -> int:
        """Those of the network: 2 where it reads its own estimate."""
        return getattr(self.network, "evaluations", 1)

    @property
    def vocabulary(self) -> int | None:
        """That of the network."""
        return getattr(self.network, "vocabulary", None)

    def init(self, key: Key | None, t: Any, x: Any, **cond: Any) -> Params:
        """The parameters of the network."""
        network: Any = self.network
        return network.init(key, t, x, **cond)

    def init_on_host(self, key: Key | None, t: Any, x: Any, **cond: Any) -> Params:
        """The same as NumPy arrays, where the network has such."""
        network: Any = self.network
        return network.init_on_host(key, t, x, **cond)

    def __call__(
        self, params: Params, t: Any, x: Any, *, key: Key | None = None, **cond: Any
    ) -> Any:
        logits = at_least_float32(self.network(params, t, x, key=key, **cond))
        return logits + self.path.log_likelihoods(t, x, logits.shape[-1])


def informed(network: Network, path: Path) -> Informed:
    """A network whose logits are of what other tokens tell, with the second factor of (1) added.

    Args:
        network: `(params, t, x, *, key=None, **cond) -> logits [batch, *event, vocabulary]`.
        path: of the training, `paths.mixture(source=...)`, `paths.gidd(...)` or
            `paths.metric(...)`.

    Returns:
        A Network of the posterior, whose parameters are those of the network; for any loss of
        tokens.

    Raises:
        TypeError: for a module that no adapter has taken.
        ValueError: for another path, or a source whose law is not known.

    (1) as Austin et al., Structured Denoising Diffusion Models in Discrete State-Spaces, 2021,
    arXiv:2107.03006, eq. 3, use it for the step backwards.

    >>> import jax, jax.numpy as jnp
    >>> from jaxflow import paths, sources
    >>> path = paths.mixture(source=sources.uniform_tokens(2))
    >>> says_nothing = lambda params, t, x, key=None: jnp.zeros((*x.shape, 2))
    >>> posterior = informed(says_nothing, path)
    >>> law = jax.nn.softmax(posterior(None, jnp.array([0.5]), jnp.array([[1]])))
    >>> [round(a, 3) for a in law[0, 0].tolist()]
    [0.25, 0.75]
    """
    check_network(network)
    check_made("path", path)
    if not hasattr(path, "log_likelihoods"):
        raise ValueError(
            f"{path!r} is no path whose tokens jump: informed is of paths.mixture(source=...), "
            "paths.gidd(...) and paths.metric(...)"
        )
    if getattr(path, "source", None) is None:
        raise ValueError(
            "the law of the noise is needed here: build the path with its source, "
            "paths.mixture(kappa, source=sources.uniform_tokens(vocabulary))"
        )
    return Informed(*traceable((network, path)))

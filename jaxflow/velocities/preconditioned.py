r"""A network between inputs and targets of unit variance, as a prediction of the data.

With data of variance $\sigma_d^2$ and standard normal noise, $x = \alpha x_1 + \sigma x_0$ has the
variance $V = \alpha^2 \sigma_d^2 + \sigma^2$, and the best linear guess of $x_1$ from $x$ leaves
$\sigma_d^2 \sigma^2 / V$. So

(1) $D(t, x) = c_{skip}\, x + c_{out}\, F(c_{noise},\, c_{in}\, x)$

(2) $c_{in} = 1 / \sqrt V$, $\quad c_{skip} = \alpha \sigma_d^2 / V$,
    $\quad c_{out} = \sigma_d\, \sigma / \sqrt V$

give $F$ an input and a target $(x_1 - c_{skip}\, x) / c_{out}$ of variance 1 at every time. The
errors of $F$ enter $D$ multiplied by as little as they can be.

(3) $c_{noise} = \tfrac14 \log(\sigma / \alpha) = -\lambda / 8$, with $\lambda$ of `paths.log_snr`
"""

import math
from typing import Any

import jax.numpy as jnp

from jaxflow.arrays import at_least_float32, expand
from jaxflow.checks import check_network
from jaxflow.paths.diffusion import log_snr
from jaxflow.paths.ends import schedule_of
from jaxflow.records import record, static, traceable
from jaxflow.sharding import gathering
from jaxflow.types import Key, Network, Params, Path, Time

__all__ = ["Preconditioned", "preconditioned"]


@record
class Preconditioned:
    """The data prediction (1) of a network."""

    network: Network
    path: Path
    sigma_data: float = static()

    gathers = gathering("network")

    @property
    def evaluations(self) -> int:
        """Those of the network: 2 where it reads its own estimate."""
        return getattr(self.network, "evaluations", 1)

    def init(self, key: Key | None, t: Any, x: Any, **cond: Any) -> Params:
        """The parameters of the network."""
        network: Any = self.network
        return network.init(key, t, x, **cond)

    def init_on_host(self, key: Key | None, t: Any, x: Any, **cond: Any) -> Params:
        """The same as NumPy arrays, where the network has such."""
        network: Any = self.network
        return network.init_on_host(key, t, x, **cond)

    def scales(self, t: Time) -> tuple[Time, Time, Time, Time]:
        """`(c_skip, c_out, c_in, c_noise)` of (2) and (3), one a time."""
        t, schedule = at_least_float32(t), schedule_of(self.path)
        alpha, sigma, of_data = schedule.alpha(t), schedule.sigma(t), self.sigma_data
        c_in = 1 / jnp.sqrt((alpha * of_data) ** 2 + sigma**2)
        c_skip, c_out = alpha * (of_data * c_in) ** 2, of_data * sigma * c_in
        return c_skip, c_out, c_in, -log_snr(self.path, t) / 8

    def __call__(
        self, params: Params, t: Any, x: Any, *, key: Key | None = None, **cond: Any
    ) -> Any:
        c_skip, c_out, c_in, c_noise = self.scales(t)
        scaled = (expand(c_in, x) * x).astype(x.dtype)
        output = self.network(params, c_noise, scaled, key=key, **cond)
        return (expand(c_skip, x) * x + expand(c_out, x) * output).astype(x.dtype)


def preconditioned(network: Network, path: Path, sigma_data: float = 0.5) -> Preconditioned:
    """A network that predicts the data by (1), on any affine path; train it with
    `flow_matching(network, path, prediction="data")`.

    What is wrapped sees `c_in x` and, in the place of the time, `c_noise` of (3), which is negative
    near the data and finite at both ends.

    Args:
        network: any pure `(params, c_noise, x, *, key=None, **cond) -> output`.
        path: of the training, affine; `paths.edm()` for the paper's.
        sigma_data: standard deviation of the data.

    Returns:
        A Network, with `.scales(t)`, the coefficients; its parameters are those of the network.

    Raises:
        ValueError: where `sigma_data <= 0`, or the path has no schedule.
        TypeError: for a module that no adapter has taken.

    Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, 2022,
    arXiv:2206.00364, eq. 7 and table 1, which are (1) to (3) where `alpha = 1`.

    >>> from jaxflow import paths
    >>> network = preconditioned(lambda params, t, x, key=None: 0 * x, paths.edm(), sigma_data=1.0)
    >>> network(None, jnp.ones(1), jnp.ones((1, 1))).round(3)
    Array([[1.]], dtype=float32)
    """
    check_network(network)
    if not 0 < sigma_data < math.inf:
        raise ValueError(f"preconditioned needs sigma_data > 0; got {sigma_data}")
    schedule_of(path)
    return Preconditioned(traceable(network), path, float(sigma_data))

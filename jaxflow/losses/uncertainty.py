r"""A loss whose weight over time is learned beside the network.

(1) $L = E\,[\, e^{-u_\phi(t)}\, l(\theta; t) + u_\phi(t)\, ]$

At its minimum $u(t) = \ln E[l \mid t]$, so every time has the same share of the gradient: the loss
of a multi-task regression with an uncertainty for each task, here for each level of noise.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.checks import check_made
from jaxflow.records import record, traceable
from jaxflow.sharding import gathered, gathering
from jaxflow.types import Array, Batch, Held, Key, Loss, Params

__all__ = ["learned_uncertainty"]


@record
class LearnedUncertainty:
    """The loss (1)."""

    loss: Loss
    uncertainty: Any

    gathers = gathering("loss")

    def __call__(
        self, params: Params, key: Key | None, batch: Batch, held: Held | None = None
    ) -> tuple[Array, Mapping[str, Any]]:
        """The mean of (1), and what the loss tells of itself, with its own mean as `"unweighted"`.

        Raises:
            ValueError: for parameters without the two subtrees, a loss that does not tell its
                examples apart, or an uncertainty of another shape than the times.
        """
        if not isinstance(params, Mapping) or set(params) != {"network", "uncertainty"}:
            found = sorted(params) if isinstance(params, Mapping) else type(params).__name__
            raise ValueError(
                f'the parameters are {{"network": ..., "uncertainty": ...}}; got {found}'
            )
        value, told = self.loss(params["network"], key, batch, held)
        if "per_example" not in (told or {}):
            raise ValueError('the loss must tell its examples apart, by aux["per_example"]')
        t = batch["t"]
        u = self.uncertainty(jax.tree.map(gathered, params["uncertainty"]), t)
        if jnp.shape(t) != told["per_example"].shape or jnp.shape(u) != jnp.shape(t):
            raise ValueError(
                f"an uncertainty is one a time, one time an example; got {jnp.shape(u)} for times "
                f"{jnp.shape(t)} and {told['per_example'].shape} examples"
            )
        weighed = jnp.exp(-u) * told["per_example"] + u
        return jnp.mean(weighed), {**told, "unweighted": value}


def learned_uncertainty(loss: Loss, uncertainty: Callable[[Params, Any], Array]) -> Loss:
    """The loss (1) of any loss that tells its examples apart.

    Args:
        loss: of a network, with `aux["per_example"]`.
        uncertainty: a small function `(params, t) -> u` of the shape of `t`, as a linear layer over
            an embedding of time; started at 0 it changes nothing.

    Returns:
        A loss of `params = {"network": ..., "uncertainty": ...}`.

    Raises:
        TypeError: for what is no function.

    Kendall, Gal & Cipolla, Multi-Task Learning Using Uncertainty, 2018, arXiv:1705.07115; Karras
    et al., Analyzing and Improving the Training Dynamics of Diffusion Models, 2024,
    arXiv:2312.02696, appendix B.
    """
    for name, each in {"loss": loss, "uncertainty": uncertainty}.items():
        check_made(name, each)
        if not callable(each):
            raise TypeError(f"{name} must be a function; got {type(each).__name__}")
    return LearnedUncertainty(traceable(loss), traceable(uncertainty))

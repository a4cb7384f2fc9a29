r"""A rule that tells the direction of the data's estimate from those across it.

With $\hat x_1^\pm$ the posterior means of the data, $\Delta = \hat x_1^+ - \hat x_1^-$ and
$\Delta_\parallel$ its projection on $\hat x_1^+$

(1) $\hat x_1 = \hat x_1^+ + (s - 1)\,\min(1, r / \|\Delta\|)\,
    (\Delta - \Delta_\parallel + \eta\,\Delta_\parallel)$

The posterior mean is affine in the velocity with the slope $k = d\hat x_1 / dv$, so $\Delta$ is
$k\,(v^+ - v^-)$, and (1) is, without a division by $\sigma$,

(2) $v = v^+ + (s - 1)\,\min(1, r / \|k \delta\|)\,(\delta - (1 - \eta)\,\delta_\parallel)$ with
    $\delta = v^+ - v^-$

and $\delta_\parallel$ its projection on $\hat x_1^+$.
"""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxflow.arrays import as_floats, at_least_float32, event_sum, expand, root
from jaxflow.records import record
from jaxflow.types import Array, Data, Path, Time
from jaxflow.velocities.guidance.parts import data_rate
from jaxflow.velocities.guidance.rules import share
from jaxflow.velocities.prediction import convert

__all__ = ["projected"]


@record
class Projected:
    """The rule (2), on the path that it is told by `along`."""

    eta: Any
    norm: Any
    path: Path | None = None

    def along(self, path: Path | None) -> "Projected":
        """The rule on a path, which a pair tells it part by part."""
        return replace(self, path=path)

    def __call__(self, t: Time, x: Data, wanted: Array, unwanted: Array, scale: ArrayLike) -> Array:
        if self.path is None:
            raise ValueError("projected guidance reads the data: give it a path by along(path)")
        delta = wanted - unwanted
        data = convert(
            wanted, t, at_least_float32(x), path=self.path, source="velocity", target="data"
        )
        parallel = share(event_sum(delta * data), event_sum(data**2), otherwise=0.0)
        step = delta - expand((1 - self.eta) * parallel, data) * data
        if self.norm is not None:
            size = root(event_sum((data_rate(self.path, t, x) * delta) ** 2))
            step = expand(jnp.minimum(1.0, share(self.norm, size, otherwise=1.0)), step) * step
        return wanted + (scale - 1) * step


def projected(eta: float = 0.0, norm: float | None = None) -> Projected:
    """Adaptive projected guidance (1): the difference of the estimates, less along the estimate.

    What lies along the estimate of the data raises its contrast and saturates it; what lies across
    it is what guidance is wanted for.

    Args:
        eta: the share that is kept of what lies along; 1 with no `norm` is `plain()`.
        norm: the largest length of the difference of the estimates of the data, over the event; no
            bound where None.

    Raises:
        ValueError: for a bound that is not positive; from the pair, where the velocity has no path.

    Sadat et al., Eliminating Oversaturation and Artifacts of High Guidance Scales in Diffusion
    Models, 2024, arXiv:2410.02416. Its momentum over the steps of a sampler is left out: a velocity
    is a function of `(t, x)`, the same for every solver, and remembers no step.
    """
    if norm is not None and not norm > 0:
        raise ValueError(f"projected needs a positive norm, or None for no bound; got {norm}")
    return Projected(as_floats(eta), None if norm is None else as_floats(norm))

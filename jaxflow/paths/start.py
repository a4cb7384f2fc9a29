r"""Where a sampler starts on a path: noise alone, in the size that the path gives it.

(1) $x(t_0) = \sigma(t_0)\, x_0$, with $t_0$ the first time of the path's interval

A path begins at $\alpha(t_0)\, x_1 + \sigma(t_0)\, x_0$. The data's share is 0 for most paths and
.0066 for vp; ve and edm keep it at 1, and drown it in noise of size $\sigma(0)$. A path with noise
of its own begins at $x_0$; where that noise is constant (`gammas.constant`) the law at $t = 0$ is
the source widened by it, and to add it is the caller's.

(2) $\log p(x) = \log p_{source}(x / \sigma(t_0)) - d \log \sigma(t_0)$
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.arrays import at_least_float32
from jaxflow.paths.ends import schedule_of
from jaxflow.types import Array, Data, Float, Path, Source

__all__ = ["start", "start_log_prob"]


def start(path: Path | None, x0: Any) -> Any:
    """The state (1) from which a sampler sets out, `sigma(0) x0`.

    Args:
        path: of the velocity; without one, or of whole numbers, the state is `x0` itself.
        x0: draws of the source, an array or a mapping of parts.

    >>> from jaxflow import paths
    >>> start(paths.ve(sigma_max=50.0), jnp.ones((1, 2)))
    Array([[50., 50.]], dtype=float32)
    """
    parts = getattr(path, "parts", None)
    if parts is not None and isinstance(x0, Mapping):
        return {name: start(parts[name], part) for name, part in x0.items()}
    sigma = _size(path, x0)
    return x0 if sigma is None else (sigma * x0).astype(x0.dtype)


def start_log_prob(path: Path | None, source: Source, x: Any) -> Float[Array, "batch"]:
    """The log-density (2) of the start, in nats, where `x0` is drawn from `source`."""
    sizes = _sizes(path, x)
    leaves, tree = jax.tree.flatten(x)
    drawn, volume = [], jnp.zeros(())
    for leaf, sigma in zip(leaves, sizes, strict=True):
        if sigma is None:
            drawn.append(leaf)
        else:
            drawn.append((leaf / sigma).astype(leaf.dtype))
            volume = volume + leaf[0].size * jnp.log(sigma)
    return source.log_prob(tree.unflatten(drawn)) - volume


def _sizes(path: Any, x: Any) -> list[Array | None]:
    """The size (1) of every leaf, in the order of the leaves."""
    parts = getattr(path, "parts", None)
    if parts is not None and isinstance(x, Mapping):
        return [size for name in sorted(x) for size in _sizes(parts[name], x[name])]
    return [_size(path, leaf) for leaf in jax.tree.leaves(x)]


def _size(path: Any, x: Data) -> Array | None:
    schedule = getattr(path, "schedule", None)
    if schedule is None or not jnp.issubdtype(jnp.result_type(x), jnp.floating):
        return None
    schedule = schedule_of(path)
    first = jnp.full((1,), schedule.interval[0], at_least_float32(x).dtype)
    return schedule.sigma(first)[0]

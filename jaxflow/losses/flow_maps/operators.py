r"""What the losses of flow maps are made of, for a network $u(t, r, x)$ of two times.

(1) $X(t, r, x) = x + (r - t)\, u(t, r, x)$, with $u$ the average velocity from $t$ to $r$

(2) $\frac{D u}{D t} = \partial_t u + (v \cdot \nabla)\, u$, its rate along a velocity $v$

(3) $\partial_r X = u + (r - t)\, \partial_r u$
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.arrays import batch_size, expand
from jaxflow.losses.flow_matching import check_alike
from jaxflow.paths.ends import interval_of
from jaxflow.paths.start import start
from jaxflow.types import Batch, Key, Network, Params, Path, Time

__all__ = ["Field", "along", "average_velocity", "carried", "forwards", "in_one_step"]

Field = Callable[[Any, Any, Any], Any]  # (t, r, x) -> u


def average_velocity(network: Network, params: Params, key: Key | None, batch: Batch) -> Field:
    """`u(t, r, x)` under the conditions of the batch."""
    cond = batch.get("cond", {})

    def u(t: Any, r: Any, x: Any) -> Any:
        found = network(params, t, x, r=r, key=key, **cond)
        check_alike(found, x)
        return found

    return u


def carried(x: Any, h: Any, u: Any) -> Any:
    """(1), with `h = r - t`."""
    return jax.tree.map(lambda a, b: a + expand(h, a).astype(a.dtype) * b.astype(a.dtype), x, u)


def along(u: Field, t: Time, r: Time, x: Any, v: Any) -> tuple[Any, Any]:
    """`u` and its rate (2) along `v`, in one pass of forward mode."""
    t = jnp.asarray(t)
    tangents = jnp.ones_like(t), jax.tree.map(lambda a, b: b.astype(a.dtype), x, v)
    return jax.jvp(lambda t, x: u(t, r, x), (t, x), tangents)


def forwards(u: Field, t: Time, r: Time, x: Any) -> tuple[Any, Any]:
    """`u` and (3), in one pass of forward mode."""
    r = jnp.asarray(r)
    found, rate = jax.jvp(lambda r: u(t, r, x), (r,), (jnp.ones_like(r),))
    return found, carried(found, r - t, rate)


def in_one_step(u: Field, path: Path, x0: Any) -> Any:
    """Draws of the source, carried from one end of the path to the other."""
    low, high = (jnp.full(batch_size(x0), end) for end in interval_of(path))
    x = start(path, x0)
    return carried(x, high - low, u(low, high, x))

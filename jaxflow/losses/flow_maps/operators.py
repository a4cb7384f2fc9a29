r"""What the losses of flow maps are made of, for a network $u(t, r, x)$ of two times.

(1) $X(t, r, x) = x + (r - t)\, u(t, r, x)$, with $u$ the average velocity from $t$ to $r$

(2) $\frac{D u}{D t} = \partial_t u + (v \cdot \nabla)\, u$, its rate along a velocity $v$

(3) $\partial_r X = u + (r - t)\, \partial_r u$

(4) $L = E\; \frac{e}{\mathrm{sg}(e + c)^p}$ with $e = \| f - y \|^2$, a sum over the event and its
    parts: of examples with larger errors less
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.arrays import at_least_float32, event_mean, event_sum, expand
from jaxflow.losses.flow_matching import check_alike, check_complete
from jaxflow.types import Array, Batch, Key, Network, Params, Path, PathSample, Time

__all__ = [
    "along",
    "average_velocity",
    "blended",
    "carried",
    "check_adaptive",
    "forwards",
    "regressed",
    "spanned",
]

Field = Callable[[Any, Any, Any], Any]  # (t, r, x) -> u


def spanned(path: Path, batch: Batch) -> tuple[PathSample, Time]:
    """The point of the path at `t`, and the time `r` that it is carried to.

    Raises:
        ValueError: where the batch was not completed by a draw of spans, or has a mask.
    """
    check_complete(batch)
    if "mask" in batch:
        raise ValueError(
            "losses of flow maps take no mask: leave batch['mask'] out, or train by "
            "losses.flow_matching"
        )
    if "r" not in batch:
        raise ValueError(
            "the batch lacks the times r that its points are carried to: complete it with "
            "draws.chain(draws.standard(path), draws.spans(times))"
        )
    sample = path(batch["t"], batch["x0"], batch["x1"], batch.get("z"))
    return sample, jnp.asarray(batch["r"])


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


def blended(condition: Array, yes: Any, no: Any) -> Any:
    """`yes` in the examples that meet a condition `[batch]`, `no` in the others."""

    def chosen(a: Array, b: Array) -> Array:
        return jnp.where(condition.reshape(-1, *(1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(chosen, yes, no)


def regressed(
    output: Any, target: Any, power: float, offset: float
) -> tuple[Array, Mapping[str, Any]]:
    """The loss (4), and what is told of it.

    Returns:
        The loss, and the mean squared error of each example, `per_example [batch]`; their mean,
        `error []`, since an adaptive weight hides it; and `masked []`, the number of examples whose
        target was not finite, which weigh nothing.
    """
    target = jax.lax.stop_gradient(target)
    finite = [jnp.isfinite(event_sum(a)) for a in jax.tree.leaves(target)]
    known = jnp.all(jnp.stack(finite), axis=0)
    target = blended(known, target, jax.lax.stop_gradient(output))
    squares = jax.tree.map(
        lambda a, b: jnp.square(at_least_float32(a) - at_least_float32(b)), output, target
    )
    error, per_example = (
        jnp.sum(jnp.stack([total(a) for a in jax.tree.leaves(squares)]), axis=0)
        for total in (event_sum, event_mean)
    )
    weight = jax.lax.stop_gradient((error + offset) ** -power)
    return jnp.mean(weight * error), {
        "per_example": per_example,
        "error": jnp.mean(per_example),
        "masked": jnp.sum(~known).astype(error.dtype),
    }


def check_adaptive(name: str, power: float, offset: float) -> None:
    """Refuse what cannot be the weight of (4).

    Raises:
        ValueError: unless `0 <= power < inf` and `0 < offset < inf`.
    """
    if not (0 <= power < float("inf") and 0 < offset < float("inf")):
        raise ValueError(
            f"{name} weighs errors by (error + offset)^-power with power >= 0 and offset > 0; got "
            f"power={power} and offset={offset}"
        )

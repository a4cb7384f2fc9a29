r"""Sampling parts of several kinds together: a flow of real numbers beside jumps of tokens.

At every time of the grid the network is called once, for all parts at once, and each part moves by
a step of its own: (1) that of an ODE or SDE for real numbers, (2) a leap for tokens. Between two
calls the parts do not see each other, so that the whole is of first order in what they say of each
other.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxflow.arrays import at_least_float32, check_keys
from jaxflow.checks import check_batch, check_made
from jaxflow.paths.ends import is_affine, is_of_tokens
from jaxflow.paths.product import check_parts, parts_of
from jaxflow.records import traceable
from jaxflow.sampling import leaps
from jaxflow.sampling.ends import check_order
from jaxflow.sampling.fixed_step import all_finite
from jaxflow.sampling.leaps.process import Process
from jaxflow.sampling.methods import euler
from jaxflow.sampling.precision import computing
from jaxflow.types import Array, Keys, Method, Path, Solution, Velocity
from jaxflow.velocities.function import as_velocity
from jaxflow.velocities.prediction import convert

__all__ = ["mixed"]


def mixed(
    velocity: Velocity | Callable[..., Any],
    x0: Mapping[str, Any],
    grid: ArrayLike | Sequence[float],
    *,
    keys: Keys,
    path: Path,
    methods: Mapping[str, Method] | None = None,
    given: Sequence[str] = (),
    cond: Mapping[str, Any] | None = None,
    precision: str = "network",
) -> Solution:
    """Carry a mapping of parts along a grid of times, from noise to data.

    Compiled inside, as `fixed_step`; a sample depends on its own key alone.

    Args:
        velocity: `(t, x, **cond) -> mapping`, the velocity of each part of real numbers and the
            logits of each of tokens; `t` is a mapping of times too. As
            `velocities.from_network(network, params, path=path, prediction=...)`.
        x0: the parts at `grid[0]`, from their sources; of those that are given, their data.
        grid: two or more increasing times, of all parts that are not given.
        keys: one a sample.
        path: `paths.product`, that the network was trained on.
        methods: of a part, one that calls once a step: `sampling.euler()`, `ab2()`, `ddim(path)`
            or another for real numbers, `leaps.euler()` or another for tokens. Euler's of either
            kind where none is named.
        given: parts that are known: they stand at time 1 and do not move.
        cond: conditions, each `[batch, ...]`.
        precision: what networks compute in, one of `sampling.PRECISIONS`.

    Returns:
        The solution; `nfe` is the number of steps. Where the grid ends at 1, the last step is to
        the posterior mean of real numbers on an affine path, and a draw of tokens.

    Raises:
        ValueError: for parts that are not those of the path, a grid that does not rise in [0, 1],
            keys or conditions that do not lead with the batch, a method of several calls, or
            nothing left to sample.

    Campbell et al., Generative Flows on Discrete State-Spaces, 2024, arXiv:2402.04997, section 4.
    """
    velocity = as_velocity(velocity)
    check_made("path", path)
    parts = parts_of(path)
    check_parts("the path", parts, x0)
    cond = {} if cond is None else dict(cond)
    check_keys(keys, check_batch(x0, cond))
    times = check_order(grid)
    if times[0] > times[-1]:
        raise ValueError(f"parts are sampled towards the data: let the grid rise; got {grid}")
    methods = _checked_methods(parts, methods or {}, given)
    velocity, products = computing(velocity, precision)
    arguments = traceable((velocity, parts, methods))
    with products:
        return _mixed(*arguments, dict(x0), times, keys, cond, to_end=bool(times[-1] == 1))


def _checked_methods(
    parts: Mapping[str, Any], methods: Mapping[str, Method], given: Sequence[str]
) -> dict[str, Method]:
    """The method of each part that moves."""
    unknown = sorted({*methods, *given} - set(parts))
    if unknown:
        raise ValueError(f"the path has the parts {sorted(parts)}, and no {unknown[0]!r}")
    usual = {k: leaps.euler() if is_of_tokens(p) else euler() for k, p in parts.items()}
    found = {k: m for k, m in {**usual, **methods}.items() if k not in given}
    if not found:
        raise ValueError(f"every part is given, {sorted(parts)}: nothing is left to sample")
    for name, method in found.items():
        if method.calls != 1:
            raise ValueError(
                f"the method of {name!r} calls {method.calls} times a step, and parts share one "
                "call: take one of a single call, as sampling.ab2() or leaps.tau_leaping()"
            )
    return found


@partial(jax.jit, static_argnames=("to_end",))
def _mixed(
    velocity: Any,
    parts: Mapping[str, Any],
    methods: Mapping[str, Method],
    x0: Any,
    grid: Array,
    keys: Keys,
    cond: Mapping[str, Any],
    *,
    to_end: bool,
) -> Solution:
    n = len(keys)
    times = jnp.broadcast_to(jnp.asarray(grid, jnp.float32)[:, None], (len(grid), n))
    x0 = {k: jnp.asarray(a) if k not in methods else _ready(a) for k, a in x0.items()}

    def said_at(t: Array, x: Any) -> Any:
        each = {k: t if k in methods else jnp.ones_like(t) for k in parts}
        return velocity(each, x, **cond)

    def of_part(name: str, said: Any) -> Any:
        def own(t: Any, x: Any) -> Any:
            return said[name]

        return Process(parts[name], own, {}, None) if is_of_tokens(parts[name]) else own

    def keys_of(i: Any, k: int) -> Keys:
        each = jax.vmap(jax.random.fold_in, (0, None))(keys, i)
        return jax.vmap(jax.random.fold_in, (0, None))(each, k)

    def step(carry: tuple[Any, Any], at: tuple[Array, Array, Array]) -> tuple[Any, None]:
        (x, memory), (t, s, i) = carry, at
        said, moved, kept = said_at(t, x), dict(x), {}
        for k, (name, method) in enumerate(methods.items()):
            v = of_part(name, said)
            stepped = method.step(v, t, s, x[name], memory[name], keys_of(i, k))
            moved[name], kept[name] = stepped
        return (moved, kept), None

    walked = times[:-1] if to_end else times
    steps = len(walked) - 1
    memory = {k: m.init(of_part(k, None), times[0], x0[k]) for k, m in methods.items()}
    (x, memory), _ = jax.lax.scan(step, (x0, memory), (walked[:-1], walked[1:], jnp.arange(steps)))
    if to_end:
        said = said_at(times[-2], x)
        for k, name in enumerate(methods):
            part, v = parts[name], of_part(name, said)
            own = keys_of(steps, k)
            if is_of_tokens(part):
                x[name] = v.data(own, x[name], said[name])
            elif is_affine(part):
                kinds = {"source": "velocity", "target": "data"}
                x[name] = convert(said[name], times[-2], x[name], path=part, **kinds)
            else:
                x[name] = methods[name].step(v, *times[-2:], x[name], memory[name], own)[0]
    success = all_finite(x) & jnp.all(
        jnp.stack([jnp.all(a.reshape(n, -1) >= 0, 1) for a in _tokens(parts, x)]), 0
    )
    return Solution(x, None, None, jnp.full((n,), len(grid) - 1, jnp.int32), success)


def _ready(a: Any) -> Array:
    a = jnp.asarray(a)
    return a if jnp.issubdtype(a.dtype, jnp.integer) else at_least_float32(a)


def _tokens(parts: Mapping[str, Any], x: Mapping[str, Any]) -> list[Array]:
    """The parts of tokens, or one that is no failure."""
    found = [x[name] for name, part in parts.items() if is_of_tokens(part)]
    return found or [jnp.zeros(len(next(iter(x.values()))))]

r"""UniPC: an exponential multistep method, each step corrected by the call of the next one.

In the variable $\lambda$ of `levels`, with the data predictions $m_0$ now and $m_k$ of the steps
before, at $r_k = (\lambda_k - \lambda_0) / h$, a step is

(1) $x = \frac{\sigma_s}{\sigma_t} x_t + c\, m_0 + c \sum_k \rho_k \frac{m_k - m_0}{r_k}$, with
    $c = \alpha_s (1 - e^{-h})$

whose weights make the integral of a polynomial in $\lambda$ exact:

(2) $\sum_k \rho_k\, r_k^{i-1} = b_i = i!\; \varphi_{i+1}(-h) / \varphi_1(-h)$, with
    $\varphi_k(z) = \sum_j z^j / (j + k)!$

A predictor of order $p$ takes $p - 1$ earlier predictions. Once the velocity was called at what it
predicted, the corrector takes (1) again with that prediction too, at $r = 1$: it gains one
order, and the next predictor goes on from it. One earlier difference is weighed by 1/2 in place of
$b_1$, which is of the same order.

As `dpm_solver`, a step of infinite $h$ is of order 1, and predictions at infinite $\lambda$ serve
no later step; but a step from pure noise is corrected, by the limit of (1), the trapezoidal rule in
$\alpha / \sigma$.
"""

import math
from typing import Any

import jax.numpy as jnp
from jax.tree_util import Partial

from jaxflow.sampling.methods.levels import (
    blend,
    by_part,
    check_affine,
    first,
    level,
    new_share,
    predictions,
    ratio,
    second,
)
from jaxflow.sampling.methods.moves import Field, made, where
from jaxflow.types import Array, Keys, Method, Path, PyTree, Schedule, Time

__all__ = ["unipc"]

TERMS = 16  # of the series of phi, which meets float64 for |z| < 1


def _phis(most: int, z: Array) -> list[Array]:
    r"""$\varphi_1(z)$ to the last: down from its series where $z$ is small, else up from $e^z$."""
    near = jnp.abs(z) < 1
    small, large = jnp.where(near, z, 0.0), jnp.where(near, 1.0, z)
    last = jnp.zeros_like(z)
    for j in reversed(range(TERMS)):
        last = last * small + 1 / math.factorial(j + most)
    down, up = [last], [jnp.exp(large)]
    for k in reversed(range(1, most)):
        down.append(down[-1] * small + 1 / math.factorial(k))
    for k in range(most):
        up.append((up[-1] - 1 / math.factorial(k)) / large)
    return [jnp.where(near, a, b) for a, b in zip(reversed(down), up[1:], strict=True)]


def _weights(nodes: list[Array], b: list[Array]) -> list[Array]:
    """The solution of (2), each weight by its Lagrange polynomial."""
    found = []
    for k, node in enumerate(nodes):
        others = nodes[:k] + nodes[k + 1 :]
        if not others:
            top = b[0]
        elif len(others) == 1:
            top = b[1] - others[0] * b[0]
        else:
            top = b[2] - (others[0] + others[1]) * b[1] + others[0] * others[1] * b[0]
        for other in others:
            top = top / (node - other)
        found.append(top)
    return found


def _differences(h: Array, nodes: list[Array], order: Array, corrects: bool) -> list[Array]:
    """The factor of each `m_k - m_0` in the sum of (1), nearest first, whatever the order.

    Args:
        h: the length of the step.
        nodes: $r_k$ of the earlier predictions.
        order: of the predictor, for each sample; only so many nodes less one are known.
        corrects: whether the new prediction, at $r = 1$, comes first.
    """
    one = [jnp.ones_like(h)] if corrects else []
    most = len(nodes) + len(one)
    first_phi, *phis = _phis(most + 1, -h)
    b = [math.factorial(i + 1) * phi / first_phi for i, phi in enumerate(phis)]
    factors = [jnp.zeros_like(h) for _ in range(most)]
    for p in range(1, len(nodes) + 2):
        used = [*one, *nodes[: p - 1]]
        weights = [jnp.full_like(h, 0.5)] if len(used) == 1 else _weights(used, b)
        for k, (weight, node) in enumerate(zip(weights, used, strict=True)):
            factors[k] = jnp.where(order == p, weight / node, factors[k])
    return factors


def _init(order: int, path: Path, v: Field, t: Time, x: PyTree) -> Any:
    def nothing(_: Schedule, x: Array) -> Any:
        zeros, never = jnp.zeros_like(x), jnp.full_like(t, jnp.inf)
        return (zeros,) * order, (never,) * order, zeros, jnp.zeros_like(t), jnp.zeros_like(t)

    return by_part(path, nothing, x)


def _unipc(
    path: Path, v: Field, t: Time, s: Time, x: PyTree, memory: Any, keys: Keys | None = None
) -> tuple[PyTree, Any]:
    data, noise = predictions(path, v, t, x)

    def step(
        schedule: Schedule, x: Array, data: Array, noise: Array, memory: Any
    ) -> tuple[Array, Any]:
        earlier, places, *_ = memory
        now, then = level(schedule, t), level(schedule, s)
        corrected = _corrected(x, data, now.log_ratio, memory)
        kept = ratio(then.sigma, now.sigma)
        base = blend(then.alpha, data, (then.sigma, noise), (kept, corrected - x))
        c = new_share(now, then)
        known = earlier[:-1], places[:-1]
        h, nodes, reach = _reach(now.log_ratio, then.log_ratio, known[1])
        factors = _differences(h, nodes, reach, corrects=False)
        terms = [(c * f, m - data) for f, m in zip(factors, known[0], strict=True)]
        moved = blend(jnp.ones_like(c), base, *terms)
        kept_data = ((data, *known[0]), (now.log_ratio, *known[1]))
        return where(s == t, (x, memory), (moved, (*kept_data, base, c, reach)))

    found = by_part(path, step, x, data, noise, memory)
    return first(path, found), second(path, found)


def _corrected(x: Array, data: Array, place: Array, memory: Any) -> Array:
    """The state that the last step should have gone to, now that its end is known."""
    earlier, places, plain, share, order = memory
    h, nodes, _ = _reach(places[0], place, places[1:])
    factors = _differences(h, nodes, order, corrects=True)
    last, *before = [
        (share * f, m - earlier[0]) for f, m in zip(factors, (data, *earlier[1:]), strict=True)
    ]
    better = blend(jnp.ones_like(share), plain, last, *before)
    return where((order > 0) & (share != 0), better, x)


def _reach(
    start: Array, stop: Array, places: tuple[Array, ...]
) -> tuple[Array, list[Array], Array]:
    """The length of a step, the nodes of what came before, and the order that they allow.

    What is not known stands at places of its own, so that no factor is infinite.
    """
    length = stop - start
    sound = jnp.isfinite(length) & (length != 0)
    h = jnp.where(sound, length, 1.0)
    order, nodes = jnp.ones_like(h), []
    for k, place in enumerate(places):
        node = jnp.where(sound, place - start, jnp.inf) / h
        sound = sound & jnp.isfinite(node) & (node != 0)
        order = order + sound
        nodes.append(jnp.where(sound, node, -1.0 - k))
    return h, nodes, order


def unipc(path: Path, order: int = 2) -> Method:
    """UniPC with `B(h) = e^h - 1` (bh2) on data predictions: one call a step.

    Of order 2 for a predictor of order 1, and of order 3 for one of order 2 or 3 (the latter is
    held back by its first step alone). The last step is predicted and not corrected; saved states
    are those predicted.

    Args:
        path: the affine path that the velocity was learned on, or a product of them.
        order: that of the predictor, 1 to 3, as the paper's $p$.

    Raises:
        ValueError: where the path has no schedule, or for another order.

    Zhao et al., UniPC: A Unified Predictor-Corrector Framework for Fast Sampling of Diffusion
    Models, 2023, arXiv:2302.04867, algorithms 1 and 2 with data prediction.
    """
    if order not in (1, 2, 3):
        raise ValueError(f"unipc is of order 1, 2 or 3; got order={order}")
    check_affine(path)
    init = Partial(_init, order)
    return made(Partial(init, path), Partial(_unipc, path), calls=1, order=min(order + 1, 3))

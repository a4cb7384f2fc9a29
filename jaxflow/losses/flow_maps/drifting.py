r"""Drifting: a one-step generator follows a field that is still where the two laws agree.

Of generated samples $x_i$ and data $y_j$ of a group, with $K = \exp(-\| a - b \| / \tau)$ made a
matrix over generated rows and columns of data and of other generated samples, and
$A = \sqrt{P Q}$ of its normalisations by rows and by columns,

(1) $V(x_i) = \sum_{jk} A_{ij}\, A_{ik}\, (y_j - x_k)$,

drawn to the data near and away from generated samples near: it changes its sign when the two are
exchanged, and so vanishes where they agree. Samples follow it,

(2) $L = E\, \Big\| \phi(x) - \mathrm{sg}\Big(\phi(x) + \sum_\tau V_\tau / \lambda_\tau\Big)
    \Big\|^2 / d$ with $x = X_\theta(0, 1, x_0)$,

where distances are in units of their mean over a group, and $\lambda_\tau^2 = E \| V_\tau \|^2
/ d$, so that no scale of the data or of $\tau$ decides how far a step goes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.arrays import at_least_float32, root, squared_distances
from jaxflow.checks import check_made
from jaxflow.losses.flow_maps.condition import check_two_times
from jaxflow.losses.flow_maps.groups import flattened, regrouped
from jaxflow.losses.flow_maps.operators import average_velocity, in_one_step
from jaxflow.records import record, static, traceable
from jaxflow.sharding import gathering
from jaxflow.types import Array, Batch, Held, Key, Loss, Network, Params, Path

__all__ = ["drift", "drifting"]

FAR = 1e9  # in the place of infinity, so that no row or column is without a largest entry


@record
class Drifting:
    """The loss (2) of a network."""

    network: Network
    path: Path
    features: Callable[[Any], Any] | None
    temperatures: tuple[float, ...] = static()

    prediction = "velocity"

    gathers = gathering("network")

    def __call__(
        self, params: Params, key: Key | None, batch: Batch, held: Held | None = None
    ) -> tuple[Array, Mapping[str, Any]]:
        """The mean over groups; `per_example [groups]`, and the size of the raw drift, `drift []`.

        Raises:
            ValueError: where the batch is not in groups.
        """
        flat, shape = flattened("drifting", batch)
        u = average_velocity(self.network, params, key, flat)
        made = in_one_step(u, self.path, flat["x0"])
        of = self.features or (lambda x: x)
        x, y = (at_least_float32(regrouped(of(a), shape)) for a in (made, flat["x1"]))
        alike = _alike(flat.get("cond", {}), shape)
        with_scale = jax.vmap(self._step)
        step, size = jax.lax.stop_gradient(with_scale(x, y, alike))
        target = jax.lax.stop_gradient(x) + step
        per_group = jnp.mean(jnp.square(x - target), axis=(-2, -1))
        return jnp.mean(per_group), {"per_example": per_group, "drift": jnp.mean(size)}

    def _step(self, x: Array, y: Array, alike: Array) -> tuple[Array, Array]:
        """The sum of (2) for one group, and the mean length of its parts before they are scaled."""
        d = x.shape[-1]
        both = jnp.concatenate([y, x])
        scale = jnp.mean(root(squared_distances(x, both))) / d**0.5
        scale = jnp.where(scale > 0, scale, 1.0)
        total, sizes = jnp.zeros_like(x), []
        for temperature in self.temperatures:
            v = drift(x / scale, y / scale, temperature * d**0.5, alike=alike)
            size = jnp.sqrt(jnp.mean(jnp.square(v)))
            sizes.append(size)
            total = total + v / jnp.where(size > 0, size, 1.0)
        return total * scale, jnp.mean(jnp.stack(sizes))


def _alike(cond: Any, shape: tuple[int, int]) -> Array:
    """Which samples of a group have the same conditions."""
    n, size = shape
    same = jnp.ones((n, size, size), bool)
    for a in jax.tree.leaves(cond):
        rows = a.reshape(n, size, -1)
        same &= jnp.all(rows[:, :, None] == rows[:, None], axis=-1)
    return same


def drift(
    x: Array,
    y: Array,
    temperature: float,
    *,
    others: Array | None = None,
    alike: Array | None = None,
) -> Array:
    """The field (1) at generated samples.

    Args:
        x: generated samples, `[n, d]`.
        y: data, `[m, d]`.
        temperature: tau.
        others: the generated samples that repel, `[k, d]`; `x` where None, each the others.
        alike: which of `x` and `y`, in the same order, have the same conditions, `[n, n]`: a sample
            is moved by those alone. All where None.

    Returns:
        `[n, d]`; zero where `others` are the data.
    """
    away = x if others is None else others
    to_data, to_others = (root(squared_distances(x, a)) / temperature for a in (y, away))
    if others is None:
        to_others += FAR * jnp.eye(len(x))
    if alike is not None:
        to_data, to_others = (jnp.where(alike, a, FAR) for a in (to_data, to_others))
    logits = -jnp.concatenate([to_data, to_others], axis=1)
    shares = jnp.sqrt(jax.nn.softmax(logits, axis=1) * jax.nn.softmax(logits, axis=0))
    drawn, driven = shares[:, : len(y)], shares[:, len(y) :]
    total = lambda a: jnp.sum(a, axis=1, keepdims=True)  # noqa: E731
    return (drawn * total(driven)) @ y - (driven * total(drawn)) @ away


def drifting(
    network: Network,
    path: Path,
    *,
    temperatures: Sequence[float] = (0.02, 0.05, 0.2),
    features: Callable[[Any], Any] | None = None,
) -> Loss:
    """The drifting loss (2): one-step samples, from data alone and without a flow.

    The batch is completed by `draws.chain(draws.standard(path), draws.groups(64))`, whose groups
    are what the field is estimated from; samples of other conditions do not move each other. What
    is learned is `velocities.flow_map(network, params)` from 0 to 1, in one step alone.

    Args:
        network: `(params, t, x, *, r, key=None, **cond) -> u`, called at the ends of the path.
        path: tells where samples start, and between which times they are carried.
        temperatures: tau of (1), for distances in units of their mean over the root of `d`.
        features: phi of (2), a function of a batch of samples, as an encoder's; the sample itself
            where None, which serves for few numbers a sample and for latents.

    Raises:
        TypeError: for a network or path that is none, or features that are no function.
        ValueError: for temperatures that are not positive; (when called) for a batch that is not in
            groups.

    Deng et al., Generative Modeling via Drifting, 2026, arXiv:2602.04770, eq. 8 to 14 and its
    algorithm 2, one layer of features, without guidance by unconditional negatives.
    """
    check_two_times("drifting", network)
    check_made("path", path)
    if features is not None and not callable(features):
        raise TypeError(f"features are a function of samples; got {type(features).__name__}")
    found = tuple(float(each) for each in temperatures)
    if not found or not all(0 < each < float("inf") for each in found):
        raise ValueError(f"drifting needs temperatures > 0; got {tuple(temperatures)}")
    network, path, features = traceable((network, path, features))
    return Drifting(network, path, features, found)

r"""Flow maps from what characterises them, along the network's own flow or a teacher's.

A map $X(t, r, x) = x + (r - t)\, u$ is that of the flow $v$ where one of these holds for all times:

(1) Lagrangian: $\partial_r X(t, r, x) = v(r, X(t, r, x))$

(2) Eulerian: $u(t, r, x) = v(t, x) + (r - t)\, \big(\partial_t u + (v \cdot \nabla)\, u\big)$

(3) semigroup: $X(t, r, x) = X(s, r, X(t, s, x))$ for $s$ between, which is
    $u(t, r, x) = \gamma\, u(t, s, x) + (1 - \gamma)\, u(s, r, X(t, s, x))$ with
    $\gamma = (s - t) / (r - t)$

and $u(t, t, x) = v(t, x)$, which (3) does not say by itself. Each loss is the squared difference of
the two sides, the right-hand one held fixed, with $v(t, x) = u_\theta(t, t, x)$ or a teacher's. An
example with $r = t$ learns the velocity: of its pair, or the teacher's.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.checks import check_made, check_network
from jaxflow.losses.flow_maps.operators import (
    along,
    average_velocity,
    blended,
    carried,
    check_adaptive,
    forwards,
    regressed,
    spanned,
)
from jaxflow.records import record, static, traceable
from jaxflow.types import Array, Batch, Held, Key, Loss, Network, Params, Path

__all__ = ["eulerian", "lagrangian", "semigroup"]


@record
class Lagrangian:
    """The loss of (1)."""

    network: Network
    path: Path
    teacher: Network | None
    power: float = static()
    offset: float = static()

    prediction = "velocity"

    @property
    def gathers(self) -> bool:
        """Whether the network's layers gather their parameters (`jaxflow.sharding`)."""
        return getattr(self.network, "gathers", False)

    def __call__(
        self, params: Params, key: Key | None, batch: Batch, held: Held | None = None
    ) -> tuple[Array, Mapping[str, Any]]:
        """The mean over examples, `per_example [batch]` and `masked []`, as `operators.regressed`.

        Raises:
            ValueError: where the network's output differs from the data in shape, the batch was
                not completed by a draw of spans, or a teacher's parameters are not held.
        """
        sample, r = spanned(self.path, batch)
        t, x = jnp.asarray(sample.t), sample.x
        u = average_velocity(self.network, params, key, batch)
        average, speed = forwards(u, t, r, x)
        end = jax.lax.stop_gradient(carried(x, r - t, average))
        if self.teacher is not None:
            target = _taught(self.teacher, key, batch, held)(r, end)
        else:
            target = blended(r == t, sample.u, u(r, r, end))
        return regressed(speed, target, self.power, self.offset)


@record
class Eulerian:
    """The loss of (2)."""

    network: Network
    path: Path
    teacher: Network | None
    power: float = static()
    offset: float = static()

    prediction = "velocity"

    @property
    def gathers(self) -> bool:
        """Whether the network's layers gather their parameters (`jaxflow.sharding`)."""
        return getattr(self.network, "gathers", False)

    def __call__(
        self, params: Params, key: Key | None, batch: Batch, held: Held | None = None
    ) -> tuple[Array, Mapping[str, Any]]:
        """As that of the Lagrangian loss."""
        sample, r = spanned(self.path, batch)
        t, x = jnp.asarray(sample.t), sample.x
        u = average_velocity(self.network, params, key, batch)
        if self.teacher is not None:
            v = _taught(self.teacher, key, batch, held)(t, x)
        else:
            v = blended(r == t, sample.u, jax.lax.stop_gradient(u(t, t, x)))
        average, rate = along(u, t, r, x, v)
        return regressed(average, carried(v, r - t, rate), self.power, self.offset)


@record
class Semigroup:
    """The loss of (3)."""

    network: Network
    path: Path
    teacher: Network | None
    by: str = static()
    power: float = static()
    offset: float = static()

    prediction = "velocity"

    @property
    def gathers(self) -> bool:
        """Whether the network's layers gather their parameters (`jaxflow.sharding`)."""
        return getattr(self.network, "gathers", False)

    def __call__(
        self, params: Params, key: Key | None, batch: Batch, held: Held | None = None
    ) -> tuple[Array, Mapping[str, Any]]:
        """As that of the Lagrangian loss; the steps are the target's and take no dropout."""
        sample, r = spanned(self.path, batch)
        t, x, s = jnp.asarray(sample.t), sample.x, jnp.asarray(batch["s"])
        u = average_velocity(self.network, params, key, batch)
        step = self._steps(params, batch, held)
        first = step(t, s, x)
        second = step(s, r, carried(x, s - t, first))
        share = jnp.where(r > t, (s - t) / jnp.where(r > t, r - t, 1.0), 1.0)
        both = carried(second, share, jax.tree.map(jnp.subtract, first, second))
        target = both if self.teacher is not None else blended(r == t, sample.u, both)
        return regressed(u(t, r, x), target, self.power, self.offset)

    def _steps(self, params: Params, batch: Batch, held: Held | None) -> Callable[..., Any]:
        """The average velocity that the two steps are taken by."""
        if self.teacher is not None:
            return average_velocity(self.teacher, _frozen(held), None, batch)
        if self.by == "average":
            if held is None:
                raise ValueError(
                    "semigroup by the average of the parameters needs held, as in a trainer"
                )
            params = held.ema
        return average_velocity(self.network, jax.lax.stop_gradient(params), None, batch)


def _taught(
    teacher: Network, key: Key | None, batch: Batch, held: Held | None
) -> Callable[[Any, Any], Any]:
    """The teacher's velocity `(t, x)`."""
    frozen, cond = _frozen(held), batch.get("cond", {})
    return lambda t, x: jax.lax.stop_gradient(teacher(frozen, t, x, **cond))


def _frozen(held: Held | None) -> Params:
    if held is None or held.frozen is None:
        raise ValueError(
            "a teacher's parameters are what a state holds frozen, and it holds none: give them to "
            "program.init(params, key, frozen)"
        )
    return held.frozen


def lagrangian(
    network: Network,
    path: Path,
    *,
    teacher: Network | None = None,
    power: float = 0.0,
    offset: float = 0.01,
) -> Loss:
    """The Lagrangian loss of a flow map: its end moves with the flow (1).

    The batch is completed by `draws.chain(draws.standard(path), draws.spans(times))`. No derivative
    by `x` is taken; the one by `r` is differentiated.

    Args:
        network: predicts the average velocity, `(params, t, x, *, r, key=None, **cond) -> u`.
        path: joins `x0` and `x1`, with a velocity.
        teacher: a network that predicts the velocity, `(params, t, x, **cond) -> v`, whose
            parameters the state holds frozen; the network itself, at equal times, where None.
        power: p of the adaptive weight; 0 for a plain sum of squares.
        offset: c of the adaptive weight.

    Raises:
        TypeError: for a network or path that is none.
        ValueError: for a weight that is none.

    Boffi, Albergo and Vanden-Eijnden, How to Build a Consistency Model: Learning Flow Maps via
    Self-Distillation, 2025, arXiv:2505.18825; with a teacher, the same authors' Flow Map Matching,
    2025, arXiv:2406.07507.
    """
    given = _checked("lagrangian", network, path, teacher, power, offset)
    return Lagrangian(*given, power, offset)


def eulerian(
    network: Network,
    path: Path,
    *,
    teacher: Network | None = None,
    power: float = 0.0,
    offset: float = 0.01,
) -> Loss:
    """The Eulerian loss of a flow map: it does not change as its start moves along the flow (2).

    `mean_flow` along the network's velocity, or a teacher's, in the place of the pair's.

    Args:
        network: as in `lagrangian`, as is every other argument.
        path: as there.
        teacher: as there.
        power: as there.
        offset: as there.

    Raises:
        TypeError: as `lagrangian`.
        ValueError: as `lagrangian`.

    Boffi et al., 2025, arXiv:2505.18825 and arXiv:2406.07507; with a teacher also Sabour, Fidler
    and Kreis, Align Your Flow, 2025, arXiv:2506.14603, without its normalised tangent.
    """
    given = _checked("eulerian", network, path, teacher, power, offset)
    return Eulerian(*given, power, offset)


def semigroup(
    network: Network,
    path: Path,
    *,
    teacher: Network | None = None,
    by: str = "parameters",
    power: float = 0.0,
    offset: float = 0.01,
) -> Loss:
    """The semigroup loss of a flow map: one step is two (3); no derivative is taken.

    With `draws.spans` it is interval splitting; with `draws.dyadic()` and `by="average"` it trains
    shortcut models; with a teacher it is progressive distillation.

    Args:
        network: as in `lagrangian`.
        path: as there.
        teacher: a network of two times as `network` is, of which the two steps are; one that
            ignores `r` takes Euler's.
        by: the two steps are taken by the network's "parameters", or by their "average" called ema.
        power: as there.
        offset: as there.

    Raises:
        TypeError: as `lagrangian`.
        ValueError: as `lagrangian`, for an unknown `by`, or a teacher beside `by="average"`.

    Boffi et al., 2025, arXiv:2505.18825; Frans et al., One Step Diffusion via Shortcut Models,
    2024, arXiv:2410.12557, eq. 5, whose targets are the average's; Guo et al., SplitMeanFlow, 2025,
    arXiv:2507.16884; Salimans and Ho, Progressive Distillation, 2022, arXiv:2202.00512.
    """
    if by not in ("parameters", "average") or (teacher is not None and by == "average"):
        beside = "" if teacher is None else ", and only the former beside a teacher"
        raise ValueError(
            f'semigroup takes its steps by "parameters" or "average"{beside}; got {by!r}'
        )
    given = _checked("semigroup", network, path, teacher, power, offset)
    return Semigroup(*given, by, power, offset)


def _checked(
    name: str, network: Network, path: Path, teacher: Network | None, power: float, offset: float
) -> tuple[Any, Any, Any]:
    check_network(network)
    if teacher is not None:
        check_network(teacher)
    check_made("path", path)
    check_adaptive(name, power, offset)
    return traceable(network), traceable(path), traceable(teacher)

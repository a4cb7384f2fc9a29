r"""Guidance by a weaker version of the network.

(1) $v_s(t, x \mid c) = v_{weak}(t, x \mid c) + s\,(v(t, x \mid c) - v_{weak}(t, x \mid c))$
"""

from collections.abc import Callable
from typing import Any

import jax

from jaxflow.arrays import is_concrete
from jaxflow.records import record
from jaxflow.types import Interval, Path, PyTree, Velocity
from jaxflow.velocities.function import as_velocity
from jaxflow.velocities.guidance.pair import guided
from jaxflow.velocities.guidance.parts import common
from jaxflow.velocities.guidance.scales import Scale

__all__ = ["autoguidance"]


@record
class StrongAndWeak:
    """The pair of two velocities."""

    strong: Velocity
    weak: Velocity

    @property
    def evaluations(self) -> int:
        """Those of both; the weak network's count as the strong one's, though they cost less."""
        return self.strong.evaluations + self.weak.evaluations

    @property
    def interval(self) -> Interval:
        """Where both are finite."""
        return common(self.strong.interval, self.weak.interval)

    @property
    def path(self) -> Path | None:
        """That of the strong velocity."""
        return self.strong.path

    def __call__(self, t: Any, x: Any, **cond: Any) -> tuple[Any, Any]:
        return self.strong(t, x, **cond), self.weak(t, x, **cond)


def autoguidance(
    velocity: Velocity | Callable[..., PyTree],
    weak: Velocity | Callable[..., PyTree],
    *,
    scale: Scale,
    rule: Callable[..., Any] | None = None,
    interval: Interval = (0.0, 1.0),
) -> Velocity:
    """Guidance (1) away from a weak velocity: `scale` 0 is the weak one, 1 the strong one.

    Args:
        velocity: the strong one.
        weak: of a smaller network, or of the same one trained for less long, on the same path and
            with the same conditions; any velocity.
        scale: $s$, one number, one a sample, `[batch]`, or a function of `t`.
        rule: what becomes of the pair, `(t, x, wanted, unwanted, scale) -> field`; (1) where None.
        interval: as that of `classifier_free`; outside it the strong field alone.

    Raises:
        ValueError: for a weak velocity of another path, and as `classifier_free`.

    Karras et al., Guiding a Diffusion Model with a Bad Version of Itself, 2024, arXiv:2406.02507,
    whose denoisers are posterior means of the data: on one path (1) says the same of velocities.

    >>> import jax.numpy as jnp
    >>> away = autoguidance(lambda t, x: -x, lambda t, x: -0.5 * x, scale=2.0)
    >>> away(jnp.zeros(1), jnp.ones((1, 1))), away.evaluations
    (Array([[-1.5]], dtype=float32), 2)
    """
    velocity, weak = as_velocity(velocity), as_velocity(weak)
    paths = velocity.path, weak.path
    known = None not in paths and all(map(is_concrete, jax.tree.leaves(paths)))
    if known and paths[0] != paths[1]:
        raise ValueError(
            f"the velocity has the path {paths[0]!r} and the weak one {paths[1]!r}: bring the weak "
            "one onto the same path by velocities.change_path(weak, old_path, new_path)"
        )
    pair = StrongAndWeak(velocity, weak)
    common(velocity.interval, weak.interval)
    return guided(pair, scale, rule, interval)

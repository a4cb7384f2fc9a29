r"""Distribution matching distillation: a one-step generator, between its teacher and a critic.

A generator makes $x = X_\theta(0, 1, x_0)$, and $x_\tau$ joins fresh noise to it on the path. Where
the teacher's flow there leads on average to $\hat x^{t}(\tau, x_\tau)$ and that of the generated
samples to $\hat x^{c}$, the gradient of $\mathrm{KL}$ between the two laws at $\tau$ is that of

(1) $\tfrac12\, \big\| x - \mathrm{sg}\big(x - w\, (\hat x^{c} - \hat x^{t})\big) \big\|^2 / d$,
    $\quad w^{-1} = \| x - \hat x^{t} \|_1 / d$

The critic learns the flow of the generated samples as any flow is learned,

(2) $\big\| v_\phi(\tau, x_\tau) - u_\tau \big\|^2 / d$ with $x$ held fixed,

in every step; the generator takes one of every `turn`.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.arrays import event_mean, expand
from jaxflow.checks import check_made
from jaxflow.losses.errors import squared_error
from jaxflow.losses.flow_maps.condition import check_two_times
from jaxflow.losses.flow_maps.operators import average_velocity, in_one_step
from jaxflow.losses.flow_maps.teachers import checked, frozen_of
from jaxflow.losses.flow_matching import check_alike, check_complete
from jaxflow.paths.ends import schedule_of
from jaxflow.records import record, static, traceable
from jaxflow.sharding import gathering
from jaxflow.types import Array, Batch, Held, Key, Loss, Network, Params, Path
from jaxflow.velocities.flow_map import Instantaneous
from jaxflow.velocities.prediction import convert

__all__ = ["distribution_matching"]

PARTS = ("generator", "critic")


@record
class DistributionMatching:
    """The losses (1) and (2), added."""

    network: Network
    path: Path
    teacher: Network
    critic: Network
    turn: int = static()

    prediction = "velocity"

    gathers = gathering("network", "teacher", "critic")

    def __call__(
        self, params: Params, key: Key | None, batch: Batch, held: Held | None = None
    ) -> tuple[Array, Mapping[str, Any]]:
        """The mean over examples; `per_example [batch]` of the critic, and the two, `generator []`
        (0 where it is not its turn) and `critic []`.

        Raises:
            ValueError: where the parameters are not those of both, no teacher is held, or the batch
                lacks `noise` or has a mask.
        """
        if not isinstance(params, Mapping) or set(params) != set(PARTS):
            found = sorted(params) if isinstance(params, Mapping) else type(params).__name__
            raise ValueError(
                "distribution_matching learns two networks, params={'generator': ..., "
                f"'critic': ...}}; got {found}"
            )
        _check_drawn(batch)
        frozen_of(held)
        assert held is not None
        keys = (None, None) if key is None else jax.random.split(key)
        made = self._made(jax.lax.stop_gradient(params["generator"]), keys[0], batch)
        point = self.path(batch["t"], batch["noise"], made)
        cond = batch.get("cond", {})
        found = self.critic(params["critic"], point.t, point.x, key=keys[1], **cond)
        check_alike(found, point.x)
        per_example = squared_error(found, point.u)
        critic = jnp.mean(per_example)
        generator = jax.lax.cond(
            held.step % self.turn == 0,
            lambda: self._generator(params, keys[0], batch, held),
            lambda: jnp.zeros_like(critic),
        )
        told = {"per_example": per_example, "generator": generator, "critic": critic}
        return generator + critic, told

    def _made(self, params: Params, key: Key | None, batch: Batch) -> Any:
        u = average_velocity(self.network, params, key, batch)
        return in_one_step(u, self.path, batch["x0"])

    def _generator(self, params: Params, key: Key | None, batch: Batch, held: Held) -> Array:
        """(1)."""
        x = self._made(params["generator"], key, batch)
        point = self.path(batch["t"], batch["noise"], jax.lax.stop_gradient(x))
        cond = batch.get("cond", {})

        def data(network: Network, params: Params) -> Any:
            v = network(jax.lax.stop_gradient(params), point.t, point.x, **cond)
            kinds = {"source": "velocity", "target": "data"}
            return jax.lax.stop_gradient(convert(v, point.t, point.x, path=self.path, **kinds))

        taught, learned = data(self.teacher, held.frozen), data(self.critic, params["critic"])

        def moved(x: Array, taught: Array, learned: Array) -> Array:
            weight = 1 / jnp.maximum(event_mean(jnp.abs(x - taught)), 1e-6)
            return jax.lax.stop_gradient(x - expand(weight, x) * (learned - taught))

        return 0.5 * jnp.mean(squared_error(x, jax.tree.map(moved, x, taught, learned)))


def _check_drawn(batch: Batch) -> None:
    check_complete(batch)
    if "mask" in batch:
        raise ValueError("distribution_matching takes no mask: leave batch['mask'] out")
    if "noise" not in batch:
        raise ValueError(
            "the batch lacks the noise that is joined to generated samples: complete it with "
            "draws.chain(draws.standard(path), draws.noise(source))"
        )


def distribution_matching(
    network: Network,
    path: Path,
    *,
    teacher: Network,
    critic: Network | None = None,
    turn: int = 5,
) -> Loss:
    """Distribution matching distillation (1), (2): a one-step generator from a trained flow.

    Of `params = {"generator": ..., "critic": ...}`, both best begun at the teacher's. The batch is
    completed by `draws.chain(draws.standard(path, times=times.uniform()), draws.noise(source))`:
    its data is not looked at. Give the generator's optimiser as `training.in_turn(optimizer)`, so
    that its moments wait with it:
    `optax.partition({"generator": training.in_turn(adam), "critic": adam}, labels)`. What is
    learned is `velocities.flow_map(network, params["generator"])` from 0 to 1, in one step alone.

    Args:
        network: the generator, `(params, t, x, *, r, key=None, **cond) -> u`.
        path: an affine one, of the teacher.
        teacher: predicts the velocity, `(params, t, x, **cond) -> v`, guided or not; its parameters
            are what the state holds frozen.
        critic: predicts the velocity of the generated samples, `(params, t, x, *, key=None,
            **cond) -> v`; the generator's network at `r = t` where None.
        turn: the generator takes one of so many steps.

    Raises:
        TypeError: for a network or path that is none.
        ValueError: for a path without a schedule, or `turn < 1`; (when called) for parameters that
            are not of both, or a batch without noise.

    Yin et al., One-step Diffusion with Distribution Matching Distillation, 2023, arXiv:2311.18828,
    eq. 7 and 8, without its regression on pairs; Yin et al., Improved Distribution Matching
    Distillation, 2024, arXiv:2405.14867, section 4.2, of the turns.
    """
    check_two_times("distribution_matching", network)
    check_made("path", path)
    schedule_of(path)
    checked(teacher)
    checked(critic)
    if not (isinstance(turn, int) and turn >= 1):
        raise ValueError(f"distribution_matching needs turn >= 1, a whole number; got {turn!r}")
    other: Network = Instantaneous(network) if critic is None else critic
    network, path, teacher, other = traceable((network, path, teacher, other))
    return DistributionMatching(network, path, teacher, other, turn)

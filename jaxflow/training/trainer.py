r"""The training step: one pure function of a state and a completed batch.

(1) $g = \frac1m \sum_i \nabla L(\theta; B_i)$ over $m$ microbatches

(2) $\theta' = \theta + U(g)$ by the optimiser

(3) $\bar\theta'$, each average moved towards $\theta'$ (`training.averages`)

If the loss or the gradient is not finite, none of (2) and (3) happens; the step is counted.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxflow.checks import check_made
from jaxflow.draws import as_draw
from jaxflow.records import record, static, traceable
from jaxflow.training.averages import Average, as_averages
from jaxflow.training.gradients import in_float32, mean_gradient
from jaxflow.types import Array, Batch, Draw, Held, Key, Loss, Params, PyTree, TrainState

__all__ = ["Trainer", "draw_key", "held_by", "trainer"]


@jax.jit
def draw_key(key: Key, step: Array | int) -> Key:
    """The key of a step's draw: a pure function of the run's key and the step."""
    return jax.random.fold_in(jax.random.fold_in(key, step), 0)


def _loss_key(key: Key, step: Array) -> Key:
    return jax.random.fold_in(jax.random.fold_in(key, step), 1)


def held_by(state: TrainState) -> Held:
    """What draws and losses may read of a state."""
    return Held(state.step, state.averages, state.frozen)


@record
class Trainer:
    """A training run: `init`, `draw(key, batch, held)` and `step(state, batch)`, all pure.

    What its loss and draw hold in arrays (a source, a learned schedule) are its leaves, so that
    they enter a compiled step as arguments. With an `axis_name`, `step` is the body of one device
    under `pmap` or `shard_map`, and averages gradients over that axis.
    """

    loss: Loss
    draw: Draw
    optimizer: Any = static()
    averages: tuple[tuple[str, Average], ...] = static()
    microbatches: int = static()
    axis_name: str | tuple[str, ...] | None = static()

    def init(self, params: Params, key: Key, frozen: Params = None) -> TrainState:
        """The state to begin with; it owns its arrays.

        Args:
            params: to be trained.
            key: of everything random in the run.
            frozen: parameters that draws and losses read, such as a teacher's or an encoder's.
        """
        params = jax.tree.map(jnp.array, params)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            averages={k: jax.tree.map(jnp.array, in_float32(params)) for k, _ in self.averages},
            frozen=frozen,
            opt_state=self.optimizer.init(in_float32(params)),
            key=key,
            skipped=jnp.zeros((), jnp.int32),
        )

    def step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Mapping[str, Array]]:
        """One step on a batch that `draw` completed; metrics are scalars."""
        metrics, gradient = self.gradient(state, batch)
        if self.axis_name is not None:
            metrics, gradient = jax.lax.pmean((metrics, gradient), self.axis_name)
        return self.update(state, metrics, gradient)

    def gradient(self, state: TrainState, batch: Batch) -> tuple[Mapping[str, Array], Params]:
        """Scalar metrics and (1); of the rows of one device, where there is an axis."""
        key = _loss_key(state.key, state.step)
        if self.axis_name is not None:
            key = jax.random.fold_in(key, jax.lax.axis_index(self.axis_name))
        return mean_gradient(self.loss, state.params, key, batch, held_by(state), self.microbatches)

    def update(
        self, state: TrainState, metrics: Mapping[str, Array], gradient: Params
    ) -> tuple[TrainState, Mapping[str, Array]]:
        """(2) and (3)."""
        norm = optax.tree.norm(gradient)
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(norm)
        updates, opt_state = self.optimizer.update(
            gradient, state.opt_state, in_float32(state.params), value=metrics["loss"]
        )
        params = optax.apply_updates(state.params, updates)
        updated = state.step - state.skipped
        averages = {
            k: average.moved(state.averages[k], params, updated) for k, average in self.averages
        }
        params, opt_state, averages = _select(
            finite, (params, opt_state, averages), (state.params, state.opt_state, state.averages)
        )
        skipped = state.skipped + jnp.where(finite, 0, 1)
        state = TrainState(
            state.step + 1, params, averages, state.frozen, opt_state, state.key, skipped
        )
        return state, {**metrics, "grad_norm": norm, "skipped": skipped}


def trainer(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    draw: Draw,
    ema_decay: float | Average | Mapping[str, float | Average] = 0.9999,
    microbatches: int = 1,
    axis_name: str | None = None,
) -> Trainer:
    """A training run as three pure functions, to be compiled by `training.program`.

    Args:
        loss: what to minimise, a mean over examples: `(params, key, batch, held) -> (loss, aux)`.
        optimizer: any Optax transformation, which is told the loss as `value`; to clip,
            `optax.chain(optax.clip_by_global_norm(1.), ...)`.
        draw: everything random in the objective but dropout.
        ema_decay: the decay of the average `state.ema`; or several by name, as `{"ema": .9999,
            "target": average(.95, warmup=1)}`, which are `state.averages`.
        microbatches: parts that the batch (of a device, where there is an axis) is split into and
            taken through one after another.
        axis_name: the mapped axis of `pmap` or `shard_map` that gradients are averaged over.

    Returns:
        `init(params, key, frozen=None)`, `draw(key, batch, held)` and `step(state, batch)`; metrics
        are `loss`, `grad_norm`, `skipped` (in all) and the scalars of the loss's `aux`.

    Raises:
        TypeError: for a loss, an optimizer or a draw that is none.
        ValueError: for a decay outside [0, 1) or fewer than one microbatch; when traced, for a
            batch that does not divide.
    """
    check_made("loss", loss)
    if not callable(loss):
        raise TypeError(
            f"a loss is (params, key, batch, held) -> (loss, aux); got {type(loss).__name__}: "
            "losses.flow_matching(network, path) is the usual one"
        )
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(
            f"the optimizer is {optimizer!r}, but must be an Optax transformation: call it, as "
            "optax.adam(1e-3)"
        )
    if microbatches < 1:
        raise ValueError(f"microbatches must be at least 1; got {microbatches}")
    return Trainer(
        traceable(loss),
        as_draw(draw),
        optax.with_extra_args_support(optimizer),
        tuple(as_averages(ema_decay).items()),
        microbatches,
        axis_name,
    )


def _select(choose: Array, new: PyTree, old: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: jnp.where(choose, a, b), new, old)

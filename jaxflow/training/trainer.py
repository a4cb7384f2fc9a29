r"""The training step: one pure function of a state and a completed batch.

(1) $g = \frac1m \sum_i \nabla L(\theta; B_i)$ over $m$ microbatches

(2) $\theta' = \theta + U(g)$ by the optimiser

(3) $\bar\theta' = d_n \bar\theta + (1 - d_n)\, \theta'$ with $d_n = \min(d, (1 + n) / (10 + n))$

If the loss or the gradient is not finite, none of (2) and (3) happens; the step is counted.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxflow.arrays import at_least_float32, batch_size
from jaxflow.types import Array, Batch, Draw, Held, Key, Loss, Params, PyTree, Trainer, TrainState

__all__ = ["draw_key", "ema_decay_at", "trainer"]


@jax.jit
def draw_key(key: Key, step: Array | int) -> Key:
    """The key of a step's draw: a pure function of the run's key and the step."""
    return jax.random.fold_in(jax.random.fold_in(key, step), 0)


def _loss_key(key: Key, step: Array) -> Key:
    return jax.random.fold_in(jax.random.fold_in(key, step), 1)


def ema_decay_at(step: Array, decay: float) -> Array:
    """The decay of (3) after `step` updates: it grows to `decay`, so the start is forgotten."""
    return jnp.minimum(decay, (1.0 + step) / (10.0 + step))


def trainer(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    draw: Draw,
    ema_decay: float = 0.9999,
    microbatches: int = 1,
    axis_name: str | None = None,
) -> Trainer:
    """A training run as three pure functions, to be compiled by `training.program`.

    Args:
        loss: what to minimise, a mean over examples.
        optimizer: any Optax transformation, which is told the loss as `value`; to clip,
            `optax.chain(optax.clip_by_global_norm(1.), ...)`.
        draw: everything random in the objective but dropout.
        ema_decay: $d$ of (3); 0 makes the average the parameters themselves.
        microbatches: parts that the batch (of a device, where there is an axis) is split into and
            taken through one after another.
        axis_name: the mapped axis of `pmap` or `shard_map` that gradients are averaged over.

    Returns:
        `init(params, key, frozen=None)`, `draw(key, batch)` and `step(state, batch)`; metrics are
        `loss`, `grad_norm`, `skipped` (in all) and the scalars of the loss's `aux`.

    Raises:
        ValueError: for a decay outside [0, 1) or fewer than one microbatch; when traced, for a
            batch that does not divide.
    """
    if not 0 <= ema_decay < 1:
        raise ValueError(f"ema_decay must lie in [0, 1); got {ema_decay}")
    if microbatches < 1:
        raise ValueError(f"microbatches must be at least 1; got {microbatches}")
    optimizer = optax.with_extra_args_support(optimizer)

    def init(params: Params, key: Key, frozen: Params = None) -> TrainState:
        params = jax.tree.map(jnp.array, params)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            ema=jax.tree.map(jnp.array, _in_float32(params)),
            frozen=frozen,
            opt_state=optimizer.init(_in_float32(params)),
            key=key,
            skipped=jnp.zeros((), jnp.int32),
        )

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Mapping[str, Array]]:
        key = _loss_key(state.key, state.step)
        if axis_name is not None:
            key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
        held = Held(state.step, state.ema, state.frozen)
        metrics, gradient = _mean_gradient(loss, state.params, key, batch, held, microbatches)
        if axis_name is not None:
            metrics, gradient = jax.lax.pmean((metrics, gradient), axis_name)
        norm = optax.tree.norm(gradient)
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(norm)
        updates, opt_state = optimizer.update(
            gradient, state.opt_state, _in_float32(state.params), value=metrics["loss"]
        )
        params = optax.apply_updates(state.params, updates)
        decay = ema_decay_at(state.step - state.skipped, ema_decay)
        ema = jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, state.ema, params)
        params, opt_state, ema = _select(
            finite, (params, opt_state, ema), (state.params, state.opt_state, state.ema)
        )
        skipped = state.skipped + jnp.where(finite, 0, 1)
        state = TrainState(state.step + 1, params, ema, state.frozen, opt_state, state.key, skipped)
        return state, {**metrics, "grad_norm": norm, "skipped": skipped}

    return Trainer(init, draw, step, axis_name)


def _in_float32(tree: PyTree) -> PyTree:
    """At least that, so that gradients, moments and averages keep their dtype step by step."""
    return jax.tree.map(at_least_float32, tree)


def _select(choose: Array, new: PyTree, old: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: jnp.where(choose, a, b), new, old)


def _mean_gradient(
    loss: Loss, params: Params, key: Key, batch: Batch, held: Held, parts: int
) -> tuple[Mapping[str, Array], Params]:
    """Scalar metrics and the gradient (1), in at least float32."""

    def of_part(key: Key, part: Batch) -> tuple[Mapping[str, Array], Params]:
        (value, aux), gradient = jax.value_and_grad(loss, has_aux=True)(params, key, part, held)
        scalars = {name: a for name, a in aux.items() if jnp.ndim(a) == 0}
        return {"loss": value, **scalars}, _in_float32(gradient)

    if parts == 1:
        return of_part(key, batch)
    n = batch_size(batch)
    if n % parts:
        raise ValueError(
            f"a batch of {n} does not divide into {parts} microbatches: choose a divisor of {n}"
        )
    keys = jax.random.split(key, parts)
    batches = jax.tree.map(lambda a: _interleave(a, parts), batch)
    return _scan_mean(of_part, keys, batches, parts)


def _interleave(a: Array, parts: int) -> Array:
    """`[n, ...] -> [parts, n / parts, ...]`, part i taking every example i modulo `parts`.

    So that a batch sharded over devices is split without moving an example.
    """
    return jnp.swapaxes(a.reshape(a.shape[0] // parts, parts, *a.shape[1:]), 0, 1)


def _scan_mean(of_part: Callable[..., Any], keys: Array, batches: Batch, parts: int) -> Any:
    first = jax.eval_shape(of_part, keys[0], jax.tree.map(lambda a: a[0], batches))
    zero = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), first)

    def add(total: Any, part: tuple[Key, Batch]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, of_part(*part)), None

    total, _ = jax.lax.scan(add, zero, (keys, batches))
    return jax.tree.map(lambda a: a / parts, total)

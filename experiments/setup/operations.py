"""Operations of a training step, as the compiler counts them."""

import jax
from ml_collections import ConfigDict

from experiments.setup import build, dataset
from jaxflow import training
from jaxflow.draws.chain import on_host
from jaxflow.types import Batch, TrainState

__all__ = ["flops", "operations"]


def flops(config: ConfigDict, state: TrainState) -> int | None:
    """Operations of a training step without its draw; None where the draw needs the host."""
    if on_host(build.draw(config)):
        return None
    batch = dataset.example_batch(config, config.batch_size)
    batch = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), batch)
    return operations(config, state, batch)


def operations(config: ConfigDict, state: TrainState, batch: Batch) -> int:
    """Operations of a training step, for shapes of a state and of a batch that is not drawn yet."""
    single = config.copy_and_resolve_references()
    with single.unlocked():
        single.parallel.mode = "jit"
    run = build.trainer(single)
    drawn = jax.eval_shape(run.draw, jax.random.key(0), batch, training.held_by(state))
    return training.flops(run.step, state, drawn)

"""The shapes of a training state, for reading one back and for planning."""

import jax
from ml_collections import ConfigDict

from experiments.setup import build
from experiments.setup.teacher import config_of_teacher
from jaxflow.arrays import at_least_float32
from jaxflow.training import Trainer
from jaxflow.types import Batch, Params, TrainState

__all__ = ["abstract_state"]


def abstract_state(config: ConfigDict, trainer: Trainer, batch: Batch) -> TrainState:
    """Those for the shapes of a batch, with the teacher's parameters where there is one."""
    params = build.shapes(config, batch)
    return jax.eval_shape(trainer.init, params, jax.random.key(0), _frozen(config, batch))


def _frozen(config: ConfigDict, batch: Batch) -> Params:
    """The teacher's average."""
    if not config.teacher:
        return None
    params = build.shapes(config_of_teacher(config), batch)
    return jax.eval_shape(lambda params: jax.tree.map(at_least_float32, params), params)

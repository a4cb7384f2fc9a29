"""The state of a trained run, for sampling and evaluation."""

from pathlib import Path

import jax
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from experiments import build
from jaxflow import training
from jaxflow.training.checkpoint import Checkpoints
from jaxflow.types import TrainState

__all__ = ["restore"]


def restore(config: ConfigDict, workdir: Path) -> TrainState:
    """The newest whole checkpoint of a run.

    Raises:
        FileNotFoundError: where there is none yet.
    """
    trainer = build.trainer(config)
    whole = NamedSharding(training.data_mesh(), PartitionSpec())

    def initial() -> TrainState:
        key = jax.random.key(0)
        return trainer.init(build.parameters(config, key), key)

    like = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=whole), jax.eval_shape(initial)
    )
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        restored = checkpoints.restore(like)
    if restored is None:
        raise FileNotFoundError(f"{workdir}/checkpoints is empty: the run has saved nothing yet")
    return restored.state

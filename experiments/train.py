"""Train a flow.

    python -m experiments.train --config=configs/NAME.py --workdir=DIR [--config.a.b=value ...]

The same command goes on where the last one stopped. `--dry_run` says what would run.
"""

from pathlib import Path

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags

from experiments import build, command, loop, workdir
from experiments.reporting import console, table
from jaxflow import training

_CONFIG = config_flags.DEFINE_config_file("config", None, "The config file.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "The folder of the run.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Say what would run, and stop.")


def main() -> None:
    """Train, and say what was reached."""
    if _CONFIG.value is None:
        raise ValueError("--config=configs/NAME.py is needed")
    config = _CONFIG.value
    build.check(config)
    if _DRY_RUN.value:
        dry_run(config)
        return
    if _WORKDIR.value is None:
        raise ValueError("--workdir=DIR is needed: the folder that the run is written to")
    folder = Path(_WORKDIR.value)
    workdir.create(folder, config)
    trained = loop.train(config, folder)
    pictures = sorted((folder / "samples").glob("*.png"))
    taken = int(trained.state.step) - trained.start
    rows = {
        "steps": f"{int(trained.state.step):,} ({taken:,} in this run)",
        **trained.metrics,
        "seconds": round(trained.seconds, 1),
        "of those to the first step": round(trained.first_step_seconds, 1),
        "checkpoints": folder / "checkpoints",
        "loss curve": folder / "loss.png",
        "samples": pictures[-1] if pictures else "none",
        "next": f"python -m experiments.evaluate --workdir={folder}",
    }
    table("trained", rows)


def dry_run(config: ConfigDict) -> None:
    """Print the mesh, the parameters, and the operations and bytes of a step."""
    compiled = loop.program(config)
    state = jax.eval_shape(lambda: loop.initial_state(config, compiled))
    batch = build.example_batch(config, config.batch_size)
    batch = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), batch)
    single = config.copy_and_resolve_references()
    with single.unlocked():
        single.parallel.mode = "jit"
    trainer = build.trainer(single)
    drawn = jax.eval_shape(trainer.draw, jax.random.key(0), batch) if not compiled.drawn else None
    rows = {
        "mesh": f"{dict(compiled.mesh.shape)} of {jax.devices()[0].device_kind}",
        "mode": f"{config.parallel.layout} by {config.parallel.mode}",
        "parameters": f"{_count(state.params):,}",
        "state": f"{_bytes(state):,} bytes on each device",
        "batch": f"{_bytes(batch):,} bytes over all devices",
    }
    if drawn is not None:
        rows["step"] = f"{training.flops(trainer.step, state, drawn):,} operations"
    table("dry run", rows)
    console.print("nothing was written")


def _count(tree: object) -> int:
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def _bytes(tree: object) -> int:
    leaves = jax.tree.leaves(tree)
    sizes = [
        8 if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf.dtype.itemsize
        for leaf in leaves
    ]
    return sum(int(np.prod(leaf.shape)) * size for leaf, size in zip(leaves, sizes, strict=True))


if __name__ == "__main__":
    command.run(main)

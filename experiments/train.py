"""Train a flow.

    python -m experiments.train --config=configs/NAME.py --workdir=DIR [--config.a.b=value ...]
                                [--dry_run] [--profile_steps=FIRST:LAST]

The same command goes on where the last one stopped, on the same devices or on others. Started once
on each machine of a cluster it is one run: by itself on TPUs, Slurm, Open MPI and Kubernetes, and
elsewhere with --coordinator=HOST:PORT --num_processes=N --process_id=I.

`experiments.run.exits` has the exit codes, `experiments.run.workdir` what DIR holds.
"""

import jax
from absl import flags
from etils import epath
from ml_collections import ConfigDict, config_flags

from experiments.run import command, loop, workdir
from experiments.run.reporting import console, laid_out, table
from experiments.setup import build, dataset
from experiments.setup.check import check
from experiments.setup.operations import flops
from experiments.setup.states import abstract_state

_CONFIG = config_flags.DEFINE_config_file("config", None, "The config file.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "The folder of the run.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Say what would run and what lies where, and stop.")
_PROFILE = flags.DEFINE_string("profile_steps", None, "FIRST:LAST, steps to write a trace of.")


def main() -> None:
    """Train, and say what was reached."""
    if _CONFIG.value is None:
        raise ValueError("--config=configs/NAME.py is needed")
    config = _CONFIG.value
    if not hasattr(config, "to_dict"):
        raise ValueError(f"get_config() must return a ConfigDict; it gave {config!r}")
    check(config)
    if _DRY_RUN.value:
        dry_run(config)
        return
    if not _WORKDIR.value:
        raise ValueError("--workdir=DIR is needed: the folder that the run is written to")
    folder = epath.Path(_WORKDIR.value)
    profile = steps_of(_PROFILE.value)
    with workdir.held(folder):
        workdir.create(folder, config)
        trained = loop.train(config, folder, profile)
    pictures = sorted((folder / "samples").glob("*.png"))
    taken = int(trained.state.step) - trained.start
    spent = [f"{name} {value:.1f}" for name, value in trained.seconds.items() if value >= 0.05]
    rows = {
        "steps": f"{int(trained.state.step):,} ({taken:,} in this run)",
        **{name: value for name, value in trained.metrics.items() if value is not None},
        "seconds": f"{sum(trained.seconds.values()):.1f}: {', '.join(spent)}",
        "checkpoints": folder / "checkpoints",
        "loss curve": folder / "loss.png",
        "samples": pictures[-1] if pictures else "none",
        "next": f"python -m experiments.evaluate --workdir={folder}",
    }
    table("trained", rows)


def steps_of(text: str | None) -> tuple[int, int] | None:
    """First and last step of `FIRST:LAST`."""
    if text is None:
        return None
    first, _, last = text.partition(":")
    if not (first.isdecimal() and last.isdecimal() and 0 < int(first) <= int(last)):
        raise ValueError(f"--profile_steps={text} must be FIRST:LAST, as 100:105")
    return int(first), int(last)


def dry_run(config: ConfigDict) -> None:
    """Print the mesh, the parameters, the operations and bytes of a step, and what lies where."""
    compiled = build.program(config)
    batch = dataset.example_batch(config, config.batch_size)
    state = abstract_state(config, compiled.trainer, batch)
    sizes = {name: size for name, size in compiled.layout.mesh.shape.items() if size > 1}
    placed = compiled.layout.table(state)
    operations = flops(config, state)
    rows = {
        "mesh": f"{sizes or 'one'} of {jax.devices()[0].device_kind}",
        "processes": jax.process_count(),
        "mode": f"{config.parallel.layout} by {config.parallel.mode}",
        "parameters": f"{sum(leaf.size for leaf in jax.tree.leaves(state.params)):,}",
        "state": f"{sum(row.bytes_per_device for row in placed):,} bytes on each device",
        "batch": f"{sum(leaf.nbytes for leaf in jax.tree.leaves(batch)):,} bytes over all devices",
    }
    if operations is not None:
        rows["step"] = f"{operations:,} operations"
    table("dry run", rows)
    laid_out(placed)
    console.print("nothing was written")


if __name__ == "__main__":
    command.run(main)

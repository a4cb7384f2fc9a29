"""Draw pairs of noise and samples from a trained run, to train the next flow on.

    python -m experiments.pairs --workdir=RUN_DIR --num=50000 --output=DIR [--seed=0]
                                [--config.sampler.x=value ...]

DIR holds `x0.npy`, draws of the source, `x1.npy`, where the run's flow carried them, every
condition by name (`label.npy`), and `pairs.json`, which says what they were made of. Samples that
are not finite or not finished are left out, and counted. The pairs are made in parts, by every
device of every process; the same command goes on with the parts that are missing. Train on them
with `python -m experiments.train --config=FILE --config.pairs=DIR`.
"""

from absl import flags
from etils import epath

from experiments.run import command
from experiments.run.pairs import make_pairs
from experiments.run.reporting import table
from experiments.setup.check import check_parts
from experiments.setup.tokens import check_of_numbers
from jaxflow.training import processes

_CONFIG = command.config_of_run()
_WORKDIR = flags.DEFINE_string("workdir", None, "The folder of a trained run.")
_NUM = flags.DEFINE_integer("num", 50_000, "How many samples.")
_OUTPUT = flags.DEFINE_string("output", None, "The folder to write.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the samples.")


def main() -> None:
    """Draw, and say what was written."""
    if not _OUTPUT.value:
        raise ValueError("--output=DIR is needed: the folder that the pairs are written to")
    config, folder, output = _CONFIG.value, epath.Path(_WORKDIR.value), epath.Path(_OUTPUT.value)
    check_parts(config)
    check_of_numbers(config, "pairs")
    found = make_pairs(config, folder, output, num=_NUM.value, seed=_SEED.value)
    if not processes.is_first():
        return
    rows = {
        "of step": found["step"],
        "pairs": f"{found['pairs']:,}, seed {found['seed']}",
        "left out, not finite or not finished": found["left_out"],
        "calls of the velocity a sample": found["nfe"],
        "folder": output,
        "next": f"python -m experiments.train --config=FILE --config.pairs={output} --workdir=DIR",
    }
    table("paired", rows)


if __name__ == "__main__":
    command.run(main)

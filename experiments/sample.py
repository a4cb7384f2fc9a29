"""Draw samples from a trained run.

    python -m experiments.sample --workdir=DIR --num=N --output=FILE.npz [--seed=0]
                                 [--config.sampler.x=value ...]

FILE.npz holds `x`, every condition by name (`label`), `nfe`, the calls of the velocity that each
sample took, and `success`. The samples are made in parts, by every device of every process; the
same command goes on with the parts that are missing.
"""

import json
import zlib

import jax
import numpy as np
from absl import flags
from etils import epath
from ml_collections import ConfigDict

from experiments.output.generate import average, generator
from experiments.output.pictures import draw_samples
from experiments.output.shards import Shards
from experiments.run import command
from experiments.run.reporting import counting, table
from experiments.setup import build
from experiments.setup.check import check_parts
from jaxflow.training import processes
from jaxflow.training.fingerprint import fingerprint

SHAPING = (
    "source",
    "data",
    "drop",
    "network",
    "preconditioned",
    "self_condition",
    "path",
    "loss",
    "sampler",
)

_CONFIG = command.config_of_run()
_WORKDIR = flags.DEFINE_string("workdir", None, "The folder of a trained run.")
_NUM = flags.DEFINE_integer("num", 100, "How many samples.")
_OUTPUT = flags.DEFINE_string("output", None, "The file to write, FILE.npz.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the samples.")


def main() -> None:
    """Sample, and say what it cost."""
    if _OUTPUT.value is None or not _OUTPUT.value.endswith(".npz"):
        raise ValueError(f"--output=FILE.npz is needed; got {_OUTPUT.value!r}")
    config, folder, output = _CONFIG.value, epath.Path(_WORKDIR.value), epath.Path(_OUTPUT.value)
    check_parts(config)
    output.parent.mkdir(parents=True, exist_ok=True)
    run = generator(config, _NUM.value)
    read = average(folder)
    plan = {
        "seed": _SEED.value,
        "step": read.step,
        "parameters": zlib.crc32(np.asarray(fingerprint(read.params)).tobytes()),
        **{name: config[name] for name in SHAPING},
    }
    plan = json.loads(ConfigDict(plan).to_json())
    if not processes.alike(json.dumps([plan, _NUM.value, str(output)], sort_keys=True)):
        raise ValueError("the processes were told to draw different samples: start all alike")
    shards = Shards(output, plan, num=_NUM.value, size=run.size)
    processes.together("jaxflow plan of samples")
    mine = shards.missing()[jax.process_index() :: jax.process_count()]
    processes.together("jaxflow parts shared out")
    params = run.place(read.params)
    evaluations = build.flow(config, params).evaluations
    with counting("sampling", len(mine)) as update:
        for done, part in enumerate(mine):
            shards.write(part, run.rows(params, _SEED.value, *shards.rows(part)))
            update(done + 1)
    processes.together("jaxflow samples")
    if not processes.is_first():
        return
    found = shards.join()
    picture = output.with_suffix(".png")
    with output.open("rb") as file:
        x = np.load(file)["x"]
    draw_samples(picture, x[: 2_000 if x.ndim == 2 else 100])
    nfe = found["nfe"]
    rows = {
        "of step": read.step,
        "samples": f"{len(x)} of shape {x.shape[1:]}, seed {_SEED.value}",
        "calls of the velocity a sample": f"mean {nfe.mean():.1f}, from {nfe.min()} to {nfe.max()}",
        "calls of the network a sample": f"mean {nfe.mean() * evaluations:.1f}",
        "not finite or not finished": int((~found["success"]).sum()),
        "file": output,
        "picture": picture,
    }
    table("sampled", rows)


if __name__ == "__main__":
    command.run(main)

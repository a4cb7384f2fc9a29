"""Draw samples from a trained run.

    python -m experiments.sample --workdir=DIR --num=N --output=FILE.npz [--seed=0]
                                 [--config.sampler.x=value ...]

FILE.npz holds `x`, every condition by name (`label`), and `nfe`, the calls of the velocity that
each sample took.
"""

from pathlib import Path

import numpy as np
from absl import flags

from experiments import build, command
from experiments.generate import generator
from experiments.pictures import draw_samples
from experiments.reporting import counting, table
from experiments.restore import restore

_CONFIG = command.config_of_run()
_WORKDIR = flags.DEFINE_string("workdir", None, "The folder of a trained run.")
_NUM = flags.DEFINE_integer("num", 100, "How many samples.")
_OUTPUT = flags.DEFINE_string("output", None, "The file to write, FILE.npz.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the samples.")


def main() -> None:
    """Sample, and say what it cost."""
    if _OUTPUT.value is None or not _OUTPUT.value.endswith(".npz"):
        raise ValueError(f"--output=FILE.npz is needed; got {_OUTPUT.value!r}")
    config, folder, output = _CONFIG.value, Path(_WORKDIR.value), Path(_OUTPUT.value)
    build.check(config)
    output.parent.mkdir(parents=True, exist_ok=True)
    run = generator(config, _NUM.value)
    state = restore(config, folder)
    with counting("sampling", _NUM.value) as update:
        samples = run(state.ema, _SEED.value, update)
    part = output.with_name(output.name + ".part")
    with part.open("wb") as file:
        np.savez(file, x=samples.x, nfe=samples.nfe, **samples.cond)
    part.replace(output)
    picture = output.with_suffix(".png")
    draw_samples(picture, samples.x[: 2_000 if samples.x.ndim == 2 else 100])
    nfe = samples.nfe
    rows = {
        "of step": int(state.step),
        "samples": f"{len(samples.x)} of shape {samples.x.shape[1:]}, seed {_SEED.value}",
        "calls of the velocity a sample": f"mean {nfe.mean():.1f}, from {nfe.min()} to {nfe.max()}",
        "calls of the network a sample": f"mean {nfe.mean() * samples.evaluations:.1f}",
        "not finite or not finished": int((~samples.success).sum()),
        "file": output,
        "picture": picture,
    }
    table("sampled", rows)


if __name__ == "__main__":
    command.run(main)

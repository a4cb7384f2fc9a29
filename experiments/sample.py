"""Draw samples from a trained run.

    python -m experiments.sample --workdir=DIR --num=N --output=FILE.npz [--seed=0]
                                 [--prompt="the "] [--infill="the ____ of"]
                                 [--config.sampler.x=value ...]

FILE.npz holds `x`, every condition by name (`label`), `nfe`, the calls of the velocity that each
sample took, and `success`; of tokens FILE.txt has the text, a sample a line. The samples are made
in parts, by every device of every process; the same command goes on with the parts that are
missing.

A text begins as `--prompt` has it; in `--infill` each _ is a token to be drawn. What is given
stays, and the rest of the length is drawn too.
"""

from typing import Any

import numpy as np
from absl import flags
from etils import epath
from ml_collections import ConfigDict

from experiments.output.generate import Samples, average, generator
from experiments.output.pictures import draw_samples
from experiments.output.shards import joined
from experiments.output.texts import draw_text, given_of, is_tokens, texts_of
from experiments.run import command
from experiments.run.parts import completed, planned
from experiments.run.reporting import console, table
from experiments.setup import build
from experiments.setup.check import check_parts
from jaxflow.training import processes

_CONFIG = command.config_of_run()
_WORKDIR = flags.DEFINE_string("workdir", None, "The folder of a trained run.")
_NUM = flags.DEFINE_integer("num", 100, "How many samples.")
_OUTPUT = flags.DEFINE_string("output", None, "The file to write, FILE.npz.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the samples.")

_PROMPT = flags.DEFINE_string("prompt", None, "How each text begins.")
_INFILL = flags.DEFINE_string("infill", None, "How each text begins, a _ for a token to be drawn.")

SHOWN = 3


def main() -> None:
    """Sample, and say what it cost."""
    if _OUTPUT.value is None or not _OUTPUT.value.endswith(".npz"):
        raise ValueError(f"--output=FILE.npz is needed; got {_OUTPUT.value!r}")
    config, folder, output = _CONFIG.value, epath.Path(_WORKDIR.value), epath.Path(_OUTPUT.value)
    check_parts(config)
    given = given_of(config, _PROMPT.value, _INFILL.value)
    run = generator(config, _NUM.value, given)
    read = average(folder)
    params = run.place(read.params)
    evaluations = build.flow(config, params).evaluations

    def make(start: int, stop: int) -> dict[str, np.ndarray]:
        return _columns(run.rows(params, _SEED.value, start, stop))

    plan = planned(config, read, _SEED.value)
    if given is not None:
        plan["given"] = given.tolist()
    shards = completed(output, plan, make, num=_NUM.value, size=run.size)
    if not processes.is_first():
        return
    found = joined(shards)
    picture = output.with_suffix(".png")
    with output.open("rb") as file:
        x = np.load(file)["x"]
    written = _pictured(config, picture, x)
    nfe = found["nfe"]
    rows = {
        "of step": read.step,
        "samples": f"{len(x)} of shape {x.shape[1:]}, seed {_SEED.value}",
        "calls of the velocity a sample": f"mean {nfe.mean():.1f}, from {nfe.min()} to {nfe.max()}",
        "calls of the network a sample": f"mean {nfe.mean() * evaluations:.1f}",
        "not finite or not finished": int((~found["success"]).sum()),
        "file": output,
        "picture": picture,
        **written,
    }
    table("sampled", rows)


def _pictured(config: ConfigDict, picture: epath.Path, x: np.ndarray) -> dict[str, Any]:
    """Draw the samples, and write tokens as text too; what else was written."""
    if not is_tokens(x):
        draw_samples(picture, x[: 2_000 if x.ndim == 2 else 100])
        return {}
    texts, file = texts_of(config, x), picture.with_suffix(".txt")
    draw_text(picture, texts)
    file.write_text("".join(text.replace("\n", "\\n") + "\n" for text in texts))
    for text in texts[:SHOWN]:
        console.print(text + "\n")
    return {"text": file}


def _columns(samples: Samples) -> dict[str, np.ndarray]:
    return {"x": samples.x, "nfe": samples.nfe, "success": samples.success, **samples.cond}


if __name__ == "__main__":
    command.run(main)

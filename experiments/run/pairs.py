"""Pairs of noise and samples of a run, as a folder to train on."""

from typing import Any

from etils import epath
from ml_collections import ConfigDict

from experiments.output.generate import average, generator
from experiments.output.pairs import columns, stored, written
from experiments.run.parts import completed, planned
from jaxflow.training import processes

__all__ = ["make_pairs"]


def make_pairs(
    config: ConfigDict, folder: epath.Path, output: epath.Path, *, num: int, seed: int
) -> dict[str, Any]:
    """Write the pairs of a run, or go on with those that are missing; returns their record.

    Args:
        config: of the run; `sampler` says how.
        folder: of the run.
        output: the folder to write, `jaxflow.data.pairs` reads it.
        num: samples to draw; those that are not finite or not finished make no pair.
        seed: of the samples.

    Returns:
        What the pairs were made of, how many there are and how many samples were left out; of
        several processes the first knows it, and the others have nothing.

    Raises:
        ValueError: where the folder or its parts hold anything else, or no sample is good.
        FileNotFoundError: where the run has no checkpoint.
    """
    run = generator(config, num)
    read = average(folder)
    plan = {"made": "pairs", **planned(config, read, seed)}
    found = written(output, {**plan, "num": num})
    if processes.agree(found is not None) and found:
        return found
    params = run.place(read.params)

    def make(start: int, stop: int) -> Any:
        return columns(run.pairs(params, seed, start, stop))

    shards = completed(output, plan, make, num=num, size=run.size)
    if not processes.is_first():
        return {}
    return stored(shards, {"run": str(folder), **plan, "num": num})

"""Samples of a run in parts, made by every device of every process."""

import json
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from experiments.output.shards import Shards
from experiments.run.reporting import counting
from jaxflow.training import processes
from jaxflow.training.checkpoint import Read
from jaxflow.training.fingerprint import fingerprint

__all__ = ["completed", "planned"]

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


def planned(config: ConfigDict, read: Read, seed: int) -> dict[str, Any]:
    """All that samples depend on but their number: two runs with one plan make the same."""
    plan = {
        "seed": seed,
        "step": read.step,
        "parameters": zlib.crc32(np.asarray(fingerprint(read.params)).tobytes()),
        **{name: config[name] for name in SHAPING},
    }
    return json.loads(ConfigDict(plan).to_json())


def completed(
    output: epath.Path,
    plan: Mapping[str, Any],
    make: Callable[[int, int], Mapping[str, np.ndarray]],
    *,
    num: int,
    size: int,
) -> Shards:
    """The parts of an output once all are there; those that are missing are made.

    Args:
        output: the file or folder that they will be.
        plan: what they depend on.
        make: the columns of the samples `i` to `j - 1`.
        num: samples in all.
        size: samples a part.

    Raises:
        ValueError: where parts of other samples are there, or the processes differ in what they
            were told.
    """
    if not processes.alike(json.dumps([plan, num, str(output)], sort_keys=True)):
        raise ValueError("the processes were told to draw different samples: start all alike")
    output.parent.mkdir(parents=True, exist_ok=True)
    shards = Shards(output, plan, num=num, size=size)
    processes.together("jaxflow plan of samples")
    mine = shards.missing()[jax.process_index() :: jax.process_count()]
    processes.together("jaxflow parts shared out")
    with counting("sampling", len(mine)) as update:
        for done, part in enumerate(mine):
            shards.write(part, make(*shards.rows(part)))
            update(done + 1)
    processes.together("jaxflow samples")
    return shards

"""The first state of a run, and what it reads of the runs that its config names."""

from functools import partial
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from experiments.output.generate import average
from experiments.run.reporting import console
from experiments.setup import build
from experiments.setup.learns import parts_of
from experiments.setup.teacher import config_of_teacher
from jaxflow.training import Program
from jaxflow.training.checkpoint import Read
from jaxflow.types import Params, TrainState

__all__ = ["begun"]


def begun(config: ConfigDict, compiled: Program) -> TrainState:
    """The state of step 0; says what it read of other runs.

    Raises:
        FileNotFoundError: where the folder of a teacher or of a start holds no checkpoint.
        ValueError: where none of them is whole, or a start has other parameters.
    """
    reads: dict[str, Any] = {}
    if config.start:
        start = _read("start", config.start)
        reads["started"] = partial(_started, config, start)
    if config.teacher:
        read = _read("teacher", config.teacher)
        reads["frozen"] = jax.device_get(read.params)
        guidance = config_of_teacher(config).sampler.guidance
        scale = guidance.name if isinstance(guidance, ConfigDict) else f"{guidance:g}"
        console.print(
            f"taught by step {read.step} of {config.teacher}: {_count(read.params):,} parameters, "
            f"guidance {scale}"
        )
    return build.initial_state(config, compiled, **reads)


def _read(key: str, folder: str) -> Read:
    """The average of the run in a folder, at a step that every process reads."""
    try:
        return average(epath.Path(folder))
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"config.{key}: {error}") from error


def _started(config: ConfigDict, read: Read, fresh: Params) -> Params:
    """The parameters of the read run, and fresh ones where it has none of a name; in every part
    of several.
    """
    parts = parts_of(config)
    if not parts:
        return _filled(config.start, read, fresh)
    return {part: _filled(config.start, read, fresh[part]) for part in parts}


def _filled(folder: str, read: Read, fresh: Params) -> Params:
    known, wanted = _by_name(read.params), _by_name(fresh)
    _check_alike(folder, known, wanted)
    shared = [name for name in wanted if name in known]
    rest = {"fresh": wanted.keys() - known, "not read": known.keys() - wanted}
    told = "".join(f"; {what}: {', '.join(sorted(names))}" for what, names in rest.items() if names)
    console.print(
        f"started from step {read.step} of {folder}: {len(shared)} of {len(wanted)} arrays{told}"
    )
    leaves = [np.asarray(known.get(name, a), a.dtype) for name, a in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(fresh), leaves)


def _check_alike(folder: str, known: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuse parameters of other shapes, or of which none has a name that is wanted."""
    other = [
        f"{name} is {np.shape(known[name])} there and {np.shape(a)} here"
        for name, a in wanted.items()
        if name in known and np.shape(known[name]) != np.shape(a)
    ]
    remedy = "set config.network to that run's, or leave config.start out"
    if other:
        raise ValueError(
            f"config.start: the parameters in {folder} have other shapes ({'; '.join(other)}): "
            f"{remedy}"
        )
    if not known.keys() & wanted:
        raise ValueError(
            f"config.start: the parameters in {folder} share no name with those of the network "
            f"({', '.join(known)}; {', '.join(wanted)}): {remedy}"
        )


def _by_name(params: Params) -> dict[str, Any]:
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _count(params: Params) -> int:
    return sum(np.size(leaf) for leaf in jax.tree.leaves(params))

"""Whether a config is whole and of sound parts, before a run begins."""

import math
from collections.abc import Mapping
from functools import reduce
from itertools import chain
from operator import getitem
from typing import Any

from ml_collections import ConfigDict

from experiments.setup import build, dataset
from experiments.setup.components import component
from experiments.setup.labels import check_null_label
from experiments.setup.learns import learns_tokens
from experiments.setup.maps import check_groups, check_maps
from experiments.setup.pairs import check_pairs
from experiments.setup.taught import check_teacher
from experiments.setup.tokens import check_tokens
from experiments.setup.wrapped import check_wrapped
from jaxflow import training

__all__ = ["check", "check_parts"]

COMPONENTS = (
    "source",
    "coupling",
    "times",
    "path",
    "network",
    "loss",
    "spans",
    "optimizer",
    "sampler",
)
OTHERS = (
    "seed",
    "teacher",
    "start",
    "data.source",
    "data.transforms",
    "data.cond",
    "data.on_device",
    "pairs",
    "drop.rate",
    "drop.null",
    "preconditioned.sigma_data",
    "self_condition.rate",
    "optimizer.ema_decay",
    "sampler.guidance",
    "parallel.layout",
    "parallel.axes",
    "parallel.mode",
    "parallel.keep_gathered",
    "parallel.reduce_dtype",
    "checkpoint.best",
    "log.wandb_project",
    "evaluation.split",
)
STOCHASTIC = ("churn", "corrected", "euler_maruyama", "sde_dpm_solver", "stochastic_heun")
LEAST = {
    0: (
        "guided.most",
        "data.workers",
        "data.unreadable_at_most",
        "optimizer.clip",
        "optimizer.spike_deviations",
        "checkpoint.keep_every",
        "health.rollbacks",
        "health.stall_seconds",
        "evaluation.likelihoods",
    ),
    1: (
        "steps",
        "batch_size",
        "parallel.microbatches",
        "parallel.steps_per_call",
        "checkpoint.every",
        "checkpoint.keep",
        "health.abort_after",
        "log.every",
        "log.pictures_every",
        "sampler.batch_size",
        "evaluation.num",
        "evaluation.dequantisations",
    ),
}


def check(config: ConfigDict) -> None:
    """Refuse a config that lacks a key, of which a part cannot be built, or which these devices
    cannot train.

    Raises:
        ValueError: naming what is missing or wrong.
    """
    check_parts(config)
    check_pairs(config)
    check_teacher(config)
    if config.parallel.mode not in training.MODES:
        raise ValueError(
            f"config.parallel.mode is {config.parallel.mode!r}; known are "
            f"{', '.join(training.MODES)}"
        )
    compiled = build.program(config)
    training.check_divides(config.batch_size, compiled.layout, config.parallel.microbatches)
    check_groups(config, compiled.layout)


def check_parts(config: ConfigDict) -> None:
    """Refuse a config that lacks a key, or of which a part cannot be built, on any devices.

    Raises:
        ValueError: naming what is missing or wrong.
    """
    names = (*COMPONENTS, *OTHERS, *chain(*LEAST.values()))
    missing = [name for name in names if not _has(config, name)]
    if missing:
        raise ValueError(f"the config lacks {', '.join(missing)}")
    build.path(config)
    _check_numbers(config)
    _check_rate(config)
    _check_rollbacks(config)
    check_tokens(config)
    check_wrapped(config)
    check_maps(config)
    _check_score(config, build.trainer(config, taught=False))
    build.sampler(config)
    _check_guidance(config)
    _check_noise(config)
    dataset.transforms(config)
    _check_null(config)


def _tells_score(config: ConfigDict) -> bool:
    coupled = config.pairs or not component("coupling", config.coupling).independent
    return config.source.name == "normal" and not coupled


def _coupled(config: ConfigDict) -> str:
    return repr(config.coupling.name) + (" of the pairs of a flow" if config.pairs else "")


def _check_noise(config: ConfigDict) -> None:
    """Refuse a stochastic sampler where pairs tell no score."""
    if learns_tokens(config):
        return
    method = config.sampler.kwargs.get("method", {})
    is_noisy = method.get("name") in STOCHASTIC or method.get("kwargs", {}).get("eta", 0.0) > 0
    if (config.sampler.name == "sde" or is_noisy) and not _tells_score(config):
        raise ValueError(
            f"config.sampler reads a score, but none is known where config.source is "
            f"{config.source.name!r} and config.coupling {_coupled(config)}: it needs "
            "'normal' and 'independent', or a sampler without noise"
        )


def _check_score(config: ConfigDict, trainer: Any) -> None:
    """Refuse a loss that would read a score of pairs that tell none."""
    spaces = (getattr(trainer.loss, "prediction", None), getattr(trainer.loss, "regress", None))
    if "score" in spaces and not _tells_score(config):
        raise ValueError(
            "config.loss reads a score, but none is known where config.source is "
            f"{config.source.name!r} and config.coupling {_coupled(config)}: it needs "
            "'normal' and 'independent'"
        )


def _has(config: ConfigDict, name: str) -> bool:
    first, _, rest = name.partition(".")
    if first not in config or not rest:
        return first in config
    return isinstance(config[first], ConfigDict) and _has(config[first], rest)


def _check_numbers(config: ConfigDict) -> None:
    for least, names in LEAST.items():
        for name in names:
            value = reduce(getitem, name.split("."), config)
            if not (_is_number(value) and value >= least):
                raise ValueError(
                    f"config.{name} must be a finite number of at least {least}; it is {value!r}"
                )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _check_rate(config: ConfigDict) -> None:
    """A schedule checks its own."""
    kwargs = config.optimizer.kwargs
    if "learning_rate" not in kwargs or isinstance(kwargs.learning_rate, Mapping | ConfigDict):
        return
    if not (_is_number(kwargs.learning_rate) and kwargs.learning_rate > 0):
        raise ValueError(
            "config.optimizer.kwargs.learning_rate must be positive, or a schedule as {'name': "
            f"'constant', 'kwargs': {{'peak': 0.001}}}}; it is {kwargs.learning_rate!r}"
        )


def _check_guidance(config: ConfigDict) -> None:
    """A component checks its own, on a velocity without parameters."""
    guidance = config.sampler.guidance
    if isinstance(guidance, ConfigDict):
        build.velocity(config, None)
        return
    if not _is_number(guidance):
        raise ValueError(
            f"config.sampler.guidance must be a finite number; it is {guidance!r} (or a component, "
            "as {'name': 'classifier_free', 'kwargs': {'scale': 2.0}})"
        )
    if guidance != 1.0 and not config.drop.null:
        raise ValueError(
            f"config.sampler.guidance is {guidance}, but config.drop.null is empty: "
            "guidance needs the null value of a condition, as {'label': 10}"
        )


def _check_null(config: ConfigDict) -> None:
    """Of conditions that the data has, and of a label one that the network has a place for."""
    null, known = config.drop.null, config.data.cond
    unknown = [name for name in null if name not in known]
    if unknown:
        raise ValueError(
            f"config.drop.null names {unknown[0]!r}, but config.data.cond is {list(known)}"
        )
    if "label" in null:
        check_null_label(config)


def _check_rollbacks(config: ConfigDict) -> None:
    """Of steps that are not finite the first is past by so many when they are noticed."""
    noticed = config.health.abort_after + config.log.every - 2
    kept = (config.checkpoint.keep - 1) * config.checkpoint.every
    if config.health.rollbacks and kept < noticed:
        raise ValueError(
            f"config.health.rollbacks is {config.health.rollbacks}, but of steps that are not "
            f"finite the first may be {noticed} back when they are noticed (health.abort_after + "
            f"log.every - 2), and the checkpoints reach back only {kept} (checkpoint.every * "
            "(checkpoint.keep - 1)): keep more"
        )

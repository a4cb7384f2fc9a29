"""Whether a config is whole and of sound parts, before a run begins."""

from functools import reduce
from itertools import chain
from operator import getitem

from ml_collections import ConfigDict

from experiments import build
from jaxflow import training

__all__ = ["check"]

COMPONENTS = ("source", "coupling", "times", "path", "network", "loss", "optimizer", "sampler")
OTHERS = (
    "seed",
    "data.source",
    "data.transforms",
    "data.cond",
    "data.on_device",
    "drop.rate",
    "drop.null",
    "optimizer.clip",
    "optimizer.ema_decay",
    "parallel.layout",
    "parallel.axes",
    "parallel.mode",
    "checkpoint.best",
    "log.wandb_project",
    "sampler.guidance",
    "evaluation.split",
)
LEAST = {
    0: (
        "data.workers",
        "data.unreadable_at_most",
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
    ),
}


def check(config: ConfigDict) -> None:
    """Refuse a config that lacks a key, or of which a part cannot be built.

    Raises:
        ValueError: naming what is missing or wrong.
    """
    names = (*COMPONENTS, *OTHERS, *chain(*LEAST.values()))
    missing = [name for name in names if not _has(config, name)]
    if missing:
        raise ValueError(f"the config lacks {', '.join(missing)}")
    _check_numbers(config)
    _check_rollbacks(config)
    build.layout(config)
    if config.parallel.mode not in training.MODES:
        raise ValueError(
            f"config.parallel.mode is {config.parallel.mode!r}; known are "
            f"{', '.join(training.MODES)}"
        )
    build.trainer(config)
    build.sampler(config)
    build.transforms(config)


def _has(config: ConfigDict, name: str) -> bool:
    first, _, rest = name.partition(".")
    if first not in config or not rest:
        return first in config
    return isinstance(config[first], ConfigDict) and _has(config[first], rest)


def _check_numbers(config: ConfigDict) -> None:
    for least, names in LEAST.items():
        for name in names:
            value = reduce(getitem, name.split("."), config)
            if not value >= least:
                raise ValueError(f"config.{name} must be at least {least}; it is {value}")


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

"""What each method of few steps changes in the config of a data set."""

import importlib
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

DATA = ("two_moons", "digits", "fashion_mnist", "cifar10", "imagenet_latents")

# Times of the papers, mirrored: their logit-normal of mean -0.4 leans to the data as ours of +0.4.
LEANING = {"name": "logit_normal", "kwargs": {"mean": 0.4, "std": 1.0}}
UNIFORM = {"name": "uniform", "kwargs": {}}


def spans(equal: float) -> dict[str, Any]:
    return {"name": "spans", "kwargs": {"equal": equal}}


def groups(size: int, **spans: Any) -> dict[str, Any]:
    return {"name": "groups", "kwargs": {"size": size, **spans}}


DYADIC = {"name": "dyadic", "kwargs": {"equal": 0.75}}
TO_END = {"name": "to_end", "kwargs": {}}
# That of sCM, whose ratio of noise to data is log-normal of mean -1 and deviation 1.4.
LEANING_FAR = {"name": "logit_normal", "kwargs": {"mean": 1.0, "std": 1.4}}

FALLING = {"name": "falling", "kwargs": {"end": 0.005}}

# The loss and its arguments, the times, and how pairs of them are drawn.
METHODS: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "mean_flow": ("mean_flow", {}, LEANING, spans(0.75)),
    "improved_mean_flow": ("improved_mean_flow", {}, LEANING, spans(0.5)),
    "alpha_flow": ("alpha_flow", {"alpha": FALLING}, LEANING, spans(0.25)),
    "lagrangian": ("lagrangian", {}, UNIFORM, spans(0.75)),
    "eulerian": ("eulerian", {}, UNIFORM, spans(0.75)),
    "semigroup": ("semigroup", {}, UNIFORM, spans(0.75)),
    "shortcut": ("semigroup", {"by": "average"}, UNIFORM, DYADIC),
    "terminal_velocity": ("terminal_velocity", {}, UNIFORM, spans(0.0)),
    "consistency": ("consistency", {}, LEANING_FAR, TO_END),
    "discrete_consistency": ("alpha_flow", {"alpha": 0.1, "power": 0.5}, LEANING_FAR, TO_END),
    "consistency_flow_matching": ("consistency_flow_matching", {}, UNIFORM, spans(0.0)),
    "moment_matching": ("moment_matching", {}, UNIFORM, groups(4, spans=spans(0.0))),
    "drifting": ("drifting", {}, UNIFORM, groups(64)),
    "lagrangian_distillation": ("lagrangian", {}, UNIFORM, spans(0.0)),
    "eulerian_distillation": ("eulerian", {}, UNIFORM, spans(0.0)),
    "align_your_flow": ("consistency", {}, LEANING, spans(0.0)),
    "consistency_distillation": ("consistency", {}, LEANING_FAR, TO_END),
    "progressive": ("semigroup", {}, UNIFORM, spans(0.25)),
    "distribution_matching": ("distribution_matching", {}, UNIFORM, spans(0.0)),
}
# Those that learn from a trained run, which --config.teacher=DIR names.
TAUGHT = (
    "lagrangian_distillation",
    "eulerian_distillation",
    "align_your_flow",
    "consistency_distillation",
    "progressive",
    "distribution_matching",
)


def few_step(config: ConfigDict, method: str, steps: int = 1) -> ConfigDict:
    """The config with one of `METHODS`, sampled in so many steps."""
    name, kwargs, times, pairs = METHODS[method]
    if name == "consistency":
        kwargs = {**kwargs, "warmup": config.steps // 4}
    config.loss = {"name": name, "kwargs": kwargs}
    config.times, config.spans = times, pairs
    if method in TAUGHT:
        with config.ignore_type():
            config.teacher = placeholder(str)
    config.sampler.update({"name": "flow_map", "guidance": 1.0})
    config.sampler.kwargs = {
        "grid": {"name": "uniform", "kwargs": {"n": steps}},
        "precision": "network",
    }
    if pairs is TO_END:
        config.sampler.kwargs.noise = 1.0
    if name == "consistency_flow_matching":
        config.sampler.name = "fixed_step"
        config.sampler.kwargs.method = {"name": "euler", "kwargs": {}}
        config.sampler.kwargs.grid.kwargs.n = 2  # its segments
    return config


def few_step_of(data: str, method: str) -> ConfigDict:
    """The config of one of `DATA` with one of `METHODS`."""
    if data not in DATA:
        raise ValueError(f"there is no data {data!r}; known are {', '.join(DATA)}")
    return few_step(importlib.import_module(f"configs.{data}").get_config(), method)

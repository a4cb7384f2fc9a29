"""What each method of few steps changes in the config of a data set."""

from typing import Any

from ml_collections import ConfigDict

# Times of the papers, mirrored: their logit-normal of mean -0.4 leans to the data as ours of +0.4.
LEANING = {"name": "logit_normal", "kwargs": {"mean": 0.4, "std": 1.0}}
UNIFORM = {"name": "uniform", "kwargs": {}}

# The loss's arguments, the times, and how pairs of them are drawn.
METHODS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "mean_flow": ({}, LEANING, {"name": "spans", "kwargs": {"equal": 0.75}}),
    "improved_mean_flow": ({}, LEANING, {"name": "spans", "kwargs": {"equal": 0.5}}),
    "alpha_flow": ({"alpha": 0.1}, LEANING, {"name": "spans", "kwargs": {"equal": 0.25}}),
    "lagrangian": ({}, UNIFORM, {"name": "spans", "kwargs": {"equal": 0.75}}),
    "eulerian": ({}, UNIFORM, {"name": "spans", "kwargs": {"equal": 0.75}}),
    "semigroup": ({}, UNIFORM, {"name": "spans", "kwargs": {"equal": 0.75}}),
    "shortcut": ({"by": "average"}, UNIFORM, {"name": "dyadic", "kwargs": {"equal": 0.75}}),
}


def few_step(config: ConfigDict, method: str, steps: int = 1) -> ConfigDict:
    """The config with one of `METHODS`, sampled in so many steps."""
    kwargs, times, spans = METHODS[method]
    config.loss = {"name": "semigroup" if method == "shortcut" else method, "kwargs": kwargs}
    config.times, config.spans = times, spans
    config.sampler.name = "flow_map"
    config.sampler.kwargs = {
        "grid": {"name": "uniform", "kwargs": {"n": steps}},
        "precision": "network",
    }
    return config

"""Whether a config can train on the pairs that it names."""

import json
from typing import Any

from ml_collections import ConfigDict

from experiments.setup import dataset
from jaxflow import data

__all__ = ["check_pairs"]


def check_pairs(config: ConfigDict) -> None:
    """Refuse pairs that are not there, or that do not go with the rest of the config.

    Raises:
        FileNotFoundError: where their folder is missing.
        ValueError: for a folder of anything else, pairs of another shape, source or conditions, or
            a coupling that would part them.
    """
    if not config.pairs:
        return
    if config.coupling.name != "independent":
        raise ValueError(
            f"config.coupling is {config.coupling.name!r}, but config.pairs ({config.pairs}) are "
            "paired already: set it to 'independent', which leaves them as they are"
        )
    found = data.pairs(config.pairs)
    _check_source(config, found.made_of)
    _check_shapes(config, found)


def _check_source(config: ConfigDict, made_of: Any) -> None:
    """Samples start from the config's source, and must meet what the pairs start from."""
    source = json.loads(config.source.to_json())
    if made_of.get("source", source) != source:
        raise ValueError(
            f"config.source is {source}, but config.pairs ({config.pairs}) start from "
            f"{made_of['source']}: set it to that"
        )


def _check_shapes(config: ConfigDict, found: data.Pairs) -> None:
    batch = dataset.example_batch(config)
    missing = [name for name in config.data.cond if name not in found.columns]
    if missing:
        raise ValueError(
            f"config.data.cond names {missing[0]!r}, but config.pairs ({config.pairs}) have "
            f"{sorted(found.columns)}: make them by a run with that condition, or leave it out"
        )
    for name, value in {"x1": batch["x1"], **batch["cond"]}.items():
        has, wanted = list(found.columns[name].shape[1:]), list(value.shape[1:])
        if has != wanted:
            raise ValueError(
                f"config.pairs ({config.pairs}) have {name} {has}, but config.data has {wanted}: "
                "train on pairs of a run on the same data"
            )

"""Whether the network has a class for every label."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from experiments.setup.components import component

__all__ = ["check_labels", "check_null_label"]


def check_labels(config: ConfigDict, cond: Mapping[str, Any]) -> None:
    """Refuse labels that the network has no class for.

    Raises:
        ValueError: naming the label and the number of classes.
    """
    if "label" not in cond:
        return
    classes, label = _classes(config), np.asarray(cond["label"])
    if label.min() < 0 or label.max() >= classes:
        raise ValueError(
            f"labels run from {label.min()} to {label.max()}, but the network has classes 0 to "
            f"{classes - 1}: set config.network.kwargs.num_classes"
        )


def check_null_label(config: ConfigDict) -> None:
    """Refuse a null label that is none of the network's classes, nor the place behind them.

    Raises:
        ValueError: naming the label and the number of classes.
    """
    classes, null = _classes(config), config.drop.null.label
    if null not in range(classes + 1):
        raise ValueError(
            f"config.drop.null.label is {null}, but the network has classes 0 to {classes - 1}, "
            f"and {classes} for none"
        )


def _classes(config: ConfigDict) -> int:
    classes = getattr(component("network", config.network), "num_classes", None)
    if classes is None:
        raise ValueError(
            f"config.data.cond names 'label', but config.network ({config.network.name}) has no "
            "num_classes: set config.network.kwargs.num_classes, or leave the label out"
        )
    return classes

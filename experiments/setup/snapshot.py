"""The config that a run was started with, as its folder keeps it."""

import json

from etils import epath
from ml_collections import ConfigDict

__all__ = ["CONFIG", "read_config"]

CONFIG = "config.json"

# Keys that configs of earlier runs lack, with what those did.
SINCE = {
    "guided.most": 0.0,
    "pairs": "",
    "parallel.keep_gathered": False,
    "preconditioned.sigma_data": 0.0,
    "self_condition.rate": 0.0,
    "spans.name": "spans",
    "spans.kwargs": {"equal": 0.75},
    "teacher": "",
    "start": "",
}


def read_config(workdir: epath.Path) -> ConfigDict:
    """The config of the run in a folder, whole where it was written by an earlier version.

    Raises:
        FileNotFoundError: where there is no run.
    """
    snapshot = workdir / CONFIG
    if not snapshot.exists():
        raise FileNotFoundError(
            f"{workdir} holds no run (it has no {CONFIG}): train one with "
            f"python -m experiments.train --config=configs/NAME.py --workdir={workdir}"
        )
    try:
        config = ConfigDict(json.loads(snapshot.read_text()))
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{snapshot} is damaged ({error}): restore it or use a new folder"
        ) from None
    _complete(config)
    return config


def _complete(config: ConfigDict) -> None:
    for name, value in SINCE.items():
        section, _, key = name.rpartition(".")
        if section and section not in config:
            config[section] = {}
        place = config[section] if section else config
        if isinstance(place, ConfigDict) and key not in place:
            place[key] = value

"""Pairs of noise and samples: from parts to the folder that training reads.

Samples that are not finite or not finished are left out, and counted. Images are not clipped: what
a flow learns from pairs is where the flow before it ends.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from experiments.output.generate import Pairs
from experiments.output.shards import Shards, difference, folder_of, write_rows
from jaxflow.data.pairs import RECORD

__all__ = ["columns", "stored", "written"]

TOLD = ("nfe", "success")


def columns(pairs: Pairs) -> dict[str, np.ndarray]:
    """Pairs as columns of a part."""
    x0, made = pairs
    told = {"nfe": made.nfe, "success": made.success}
    return {"x0": x0, "x1": made.x, **told, **made.cond}


def written(output: epath.Path, plan: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record of pairs of this plan that are whole in their folder; None where there are none.

    Raises:
        ValueError: for a folder of other pairs, or of anything else.
    """
    record = output / RECORD
    if record.exists():
        found = json.loads(record.read_text())
        if any(found.get(name) != value for name, value in plan.items()):
            same = {name: found.get(name) for name in plan}
            raise ValueError(
                f"{output} holds other pairs ({difference(same, plan)}): delete it, or choose "
                "another --output"
            )
        return found
    begun = (folder_of(output) / "plan.json").exists()
    if output.exists() and not begun and not (output.is_dir() and not any(output.iterdir())):
        raise ValueError(f"{output} is there already and holds no pairs: choose another --output")
    return None


def stored(shards: Shards, made_of: Mapping[str, Any]) -> dict[str, Any]:
    """Make the folder of the parts, remove them, and return its record.

    Args:
        shards: whole.
        made_of: what the record says besides how many pairs there are.

    Raises:
        ValueError: where no sample is finite and finished.
    """
    good, nfe = (np.concatenate(list(shards.column(name))) for name in ("success", "nfe"))
    num = int(good.sum())
    if not num:
        raise ValueError(
            f"of {shards.num} samples none is finite and finished, so there are no pairs: sample "
            "with other --config.sampler values, into another --output"
        )
    shards.output.mkdir(parents=True, exist_ok=True)
    for name in shards.names():
        if name not in TOLD:
            _write_column(shards, name, good, num)
    record = {**made_of, "pairs": num, "left_out": shards.num - num, "nfe": float(nfe.mean())}
    part = shards.output / f"{RECORD}.part"
    part.write_text(json.dumps(record, indent=2))
    part.replace(shards.output / RECORD)
    shards.remove()
    return record


def _write_column(shards: Shards, name: str, good: np.ndarray, num: int) -> None:
    """The rows that are good, in a file that is whole or not there."""
    part = shards.output / f"{name}.npy.part"
    bounds = np.arange(shards.size, shards.num, shards.size)
    kept = zip(shards.column(name), np.split(good, bounds), strict=True)
    with part.open("wb") as file:
        write_rows(file, (rows[which] for rows, which in kept), num)
    part.replace(shards.output / f"{name}.npy")

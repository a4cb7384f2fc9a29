"""Samples as a file that is written part by part, and goes on where it stopped.

FILE.npz.parts/plan.json     which samples these are
FILE.npz.parts/00003.npz     samples 3 size .. 4 size - 1
FILE.npz                     all of them, at the end, and the folder is gone
"""

import io
import json
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from experiments.output.generate import Samples
from jaxflow.training import processes

__all__ = ["Shards"]


class Shards:
    """The parts of one file; of several processes the first writes the plan.

    Args:
        output: the file to be, `FILE.npz`.
        plan: what the samples depend on; parts of another plan are refused.
        num: samples in all.
        size: samples a part.

    Raises:
        ValueError: where the parts there belong to other samples.
    """

    def __init__(self, output: epath.Path, plan: Mapping[str, Any], *, num: int, size: int):
        self.output = output
        self.folder = output.with_name(output.name + ".parts")
        self.num, self.size = num, size
        self._plan = json.dumps({**plan, "num": num, "size": size}, sort_keys=True, indent=1)
        record = self.folder / "plan.json"
        if not record.exists():
            if processes.is_first():
                self.folder.mkdir(parents=True, exist_ok=True)
                _write(record, self._plan.encode())
        elif record.read_text() != self._plan:
            raise ValueError(
                f"{self.folder} holds a part of other samples ({_difference(record, self._plan)}): "
                "delete it, or choose another --output"
            )

    def missing(self) -> list[int]:
        """The parts that are yet to be made."""
        return [i for i in range(-(-self.num // self.size)) if not self._part(i).exists()]

    def rows(self, part: int) -> tuple[int, int]:
        """The first sample of a part, and the first after it."""
        return part * self.size, min((part + 1) * self.size, self.num)

    def write(self, part: int, samples: Samples) -> None:
        """Write a part, whole or not at all."""
        buffer = io.BytesIO()
        np.savez(buffer, **_columns(samples))
        _write(self._part(part), buffer.getvalue())

    def join(self) -> dict[str, np.ndarray]:
        """Make the file of its parts, remove them, and return all but the samples themselves."""
        parts = [self._part(i) for i in range(-(-self.num // self.size))]
        whole = self.output.with_name(self.output.name + ".part")
        small: dict[str, np.ndarray] = {}
        with whole.open("wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name in _names(parts[0]):
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    kept = _append(member, parts, name, self.num)
                if name != "x":
                    small[name] = np.concatenate(kept)
        whole.replace(self.output)
        for part in parts:  # the plan last, which says what they are
            part.unlink()
        self.folder.rmtree()
        return small

    def _part(self, part: int) -> epath.Path:
        return self.folder / f"{part:05d}.npz"


def _columns(samples: Samples) -> dict[str, np.ndarray]:
    return {"x": samples.x, "nfe": samples.nfe, "success": samples.success, **samples.cond}


def _names(part: epath.Path) -> list[str]:
    with part.open("rb") as file:
        return list(np.load(file).files)


def _append(member: Any, parts: list[epath.Path], name: str, num: int) -> list[np.ndarray]:
    """Write one array, part by part; returns the parts of all but the samples."""
    kept = []
    for i, part in enumerate(parts):
        with part.open("rb") as file:
            rows = np.load(file)[name]
        if i == 0:
            header = {
                "descr": np.lib.format.dtype_to_descr(rows.dtype),
                "fortran_order": False,
                "shape": (num, *rows.shape[1:]),
            }
            np.lib.format.write_array_header_1_0(member, header)
        member.write(np.ascontiguousarray(rows).tobytes())
        if name != "x":
            kept.append(rows)
    return kept


def _write(path: epath.Path, content: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    part.replace(path)


def _difference(record: epath.Path, plan: str) -> str:
    old, new = json.loads(record.read_text()), json.loads(plan)
    names = [name for name in sorted(old | new) if old.get(name) != new.get(name)]
    return "; ".join(f"{name} was {old.get(name)!r} and is {new.get(name)!r}" for name in names)

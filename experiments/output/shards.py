"""Columns of samples that are made part by part, so that they go on where they stopped.

OUTPUT.parts/plan.json     which samples these are
OUTPUT.parts/00003.npz     samples 3 size .. 4 size - 1
OUTPUT                     all of them, at the end, and the folder is gone
"""

import io
import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

from jaxflow.training import processes

__all__ = ["Shards", "difference", "joined", "write_rows"]


class Shards:
    """The parts of one output; of several processes the first writes the plan.

    Args:
        output: the file or folder to be.
        plan: what the samples depend on; parts of another plan are refused.
        num: samples in all.
        size: samples a part.

    Raises:
        ValueError: where the parts there belong to other samples.
    """

    def __init__(self, output: epath.Path, plan: Mapping[str, Any], *, num: int, size: int):
        self.output = output
        self.folder = folder_of(output)
        self.num, self.size = num, size
        plan = {**plan, "num": num, "size": size}
        text, record = json.dumps(plan, sort_keys=True, indent=1), self.folder / "plan.json"
        if not record.exists():
            if processes.is_first():
                self.folder.mkdir(parents=True, exist_ok=True)
                _write(record, text.encode())
        elif record.read_text() != text:
            raise ValueError(
                f"{self.folder} holds a part of other samples "
                f"({difference(json.loads(record.read_text()), plan)}): "
                "delete it, or choose another --output"
            )

    def missing(self) -> list[int]:
        """The parts that are yet to be made."""
        return [i for i in range(self._count) if not self._part(i).exists()]

    def rows(self, part: int) -> tuple[int, int]:
        """The first sample of a part, and the first after it."""
        return part * self.size, min((part + 1) * self.size, self.num)

    def write(self, part: int, columns: Mapping[str, np.ndarray]) -> None:
        """Write a part, whole or not at all."""
        buffer = io.BytesIO()
        np.savez(buffer, **columns)
        _write(self._part(part), buffer.getvalue())

    def names(self) -> list[str]:
        """Of the columns."""
        with self._part(0).open("rb") as file:
            return list(np.load(file).files)

    def column(self, name: str) -> Iterator[np.ndarray]:
        """One column, part by part."""
        for part in range(self._count):
            with self._part(part).open("rb") as file:
                yield np.load(file)[name]

    def remove(self) -> None:
        """Take the parts away."""
        for part in range(self._count):  # the plan last, which says what they are
            self._part(part).unlink()
        self.folder.rmtree()

    @property
    def _count(self) -> int:
        return -(-self.num // self.size)

    def _part(self, part: int) -> epath.Path:
        return self.folder / f"{part:05d}.npz"


def folder_of(output: epath.Path) -> epath.Path:
    """Where the parts of an output lie."""
    return output.with_name(output.name + ".parts")


def joined(shards: Shards) -> dict[str, np.ndarray]:
    """Make one file of the parts, remove them, and return all but the samples themselves."""
    output = shards.output
    whole = output.with_name(output.name + ".part")
    small: dict[str, np.ndarray] = {}
    with whole.open("wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name in shards.names():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                write_rows(member, shards.column(name), shards.num)
            if name != "x":
                small[name] = np.concatenate(list(shards.column(name)))
    whole.replace(output)
    shards.remove()
    return small


def write_rows(file: Any, parts: Iterable[np.ndarray], num: int) -> None:
    """Write `num` rows as one array, part by part."""
    for i, rows in enumerate(parts):
        if i == 0:
            header = {
                "descr": np.lib.format.dtype_to_descr(rows.dtype),
                "fortran_order": False,
                "shape": (num, *rows.shape[1:]),
            }
            np.lib.format.write_array_header_1_0(file, header)
        file.write(np.ascontiguousarray(rows).tobytes())


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """In what two plans differ."""
    names = [name for name in sorted({**old, **new}) if old.get(name) != new.get(name)]
    return "; ".join(f"{name} was {old.get(name)!r} and is {new.get(name)!r}" for name in names)


def _write(path: epath.Path, content: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    part.replace(path)

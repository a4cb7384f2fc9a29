"""The text of a compiled program, computation by computation, and how often each of them runs.

Programs are read as text since XLA's own counts take the body of a loop once where the compiler
does not tell its length, as for TPUs, and say nothing of single collectives.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Instruction", "Made", "Program", "arrays_in", "parse"]

_INSTRUCTION = re.compile(r"\s*(ROOT )?%?([\w.\-]+) = (.*?) ([\w\-]+)\((.*)$")
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\](\{[^}]*\})?")
_ON_CHIP = re.compile(r"S\([1-9]\d*\)")
_CALLED = re.compile(
    r"(?:calls|to_apply|body|condition|branch_computations|called_computations)="
    r"(?:\{([^}]*)\}|%?([\w.\-]+))"
)


class Made(NamedTuple):
    """An array that an instruction makes."""

    dtype: str
    dims: tuple[int, ...]
    layout: str

    @property
    def bytes(self) -> int:
        """Of all of it."""
        bits = re.search(r"\d+", self.dtype)
        return max(1, int(bits.group()) // 8 if bits else 1) * math.prod(self.dims)

    @property
    def in_memory(self) -> int:
        """Its bytes, or none where a TPU keeps it on the chip."""
        return 0 if _ON_CHIP.search(self.layout) else self.bytes


@dataclass(frozen=True)
class Instruction:
    """One line, `name = type operation(rest`."""

    name: str
    type: str
    operation: str
    rest: str
    root: bool

    @property
    def operands(self) -> list[str]:
        """Names of what it takes, in order."""
        return re.findall(r"%([\w.\-]+)", self.rest.partition("), ")[0])

    @property
    def made(self) -> list[Made]:
        """The arrays of the result, without those that it carries until it is done."""
        if not self.operation.endswith("-start"):
            return arrays_in(self.type)
        if self.type.startswith("(("):
            return arrays_in(self.type[_closing(self.type, 1) + 1 :])
        arrays = arrays_in(self.type)
        kept = {
            "copy-start": slice(0, 1),
            "all-gather-start": slice(len(arrays) // 2, None),
            "collective-permute-start": slice(1, 2),
        }
        return arrays[kept.get(self.operation, slice(None))]

    @property
    def called(self) -> list[str]:
        """Names of the computations that it runs, as loops, fusions and reductions do."""
        found = _CALLED.findall(self.rest)
        return [name for several, one in found for name in re.findall(r"[\w.\-]+", several or one)]


@dataclass(frozen=True)
class Program:
    """Computations by name, and how often each runs in a call of the program."""

    bodies: Mapping[str, list[Instruction]]
    times: Mapping[str, int]
    entry: str


def parse(text: str) -> Program:
    """The program that `jax.jit(...).lower(...).compile().as_text()` shows.

    Raises:
        ValueError: for a text without an entry computation.
    """
    bodies: dict[str, list[Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if line and not line[0].isspace():
            head = re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line)
            current = head.group(2) if head and not line.startswith("HloModule") else None
            if head and current:
                bodies[current] = []
                entry = current if head.group(1) else entry
        elif current and (match := _INSTRUCTION.match(line)):
            root, name, made, operation, rest = match.groups()
            bodies[current].append(Instruction(name, made, operation, rest, bool(root)))
    if not entry:
        raise ValueError("this text has no ENTRY computation: give compiled.as_text()")
    return Program(bodies, _times(bodies, entry), entry)


def arrays_in(made: str) -> list[Made]:
    """The arrays of a type, which may be a tuple of them."""
    return [
        Made(dtype, tuple(int(n) for n in dims.split(",") if n), layout)
        for dtype, dims, layout in _ARRAY.findall(made)
    ]


def _closing(text: str, start: int) -> int:
    """Where the bracket that opens at `start` closes."""
    depth = 0
    for i in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[i], 0)
        if depth == 0:
            return i
    return start


def _times(bodies: Mapping[str, list[Instruction]], entry: str) -> Mapping[str, int]:
    times: dict[str, int] = {}

    def walk(name: str, factor: int) -> None:
        times[name] = times.get(name, 0) + factor
        for instruction in bodies[name]:
            trips = _trips(instruction, bodies) if instruction.operation == "while" else 1
            for called in instruction.called:
                if called in bodies:
                    walk(called, factor * trips)

    walk(entry, 1)
    return times


def _trips(loop: Instruction, bodies: Mapping[str, list[Instruction]]) -> int:
    """Of a loop: told by the compiler, or its limit over its stride, where both are constants."""
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.rest)
    if known:
        return int(known.group(1))
    rooms = [re.search(rf"{room}=%?([\w.\-]+)", loop.rest) for room in ("condition", "body")]
    condition, body = (bodies.get(m.group(1), []) if m else [] for m in rooms)
    limits = [i.rest for i in condition if i.operation == "constant" and _is_count(i.type)]
    counters = [
        m.group(1)
        for i in condition
        if i.operation == "get-tuple-element" and (m := re.search(r"index=(\d+)", i.rest))
    ]
    if len(limits) != 1 or not counters:
        return 1
    return math.ceil(int(limits[0].partition(")")[0]) / _stride(body, int(counters[0])))


def _is_count(made: str) -> bool:
    return made.startswith(("s32[]", "u32[]"))


def _stride(body: list[Instruction], counter: int) -> int:
    """What the body of a loop adds to an entry of its state; 1 where that is not a constant."""
    known = {i.name: i for i in body}
    entries = next((i.operands for i in body if i.root and i.operation == "tuple"), [])
    if counter >= len(entries):
        return 1
    added = known.get(entries[counter])
    for name in added.operands if added and added.operation == "add" else []:
        if name in known and known[name].operation == "constant":
            return int(known[name].rest.partition(")")[0])
    return 1

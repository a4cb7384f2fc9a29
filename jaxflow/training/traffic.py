"""What the collectives of a compiled program move between devices, read from its HLO text.

(1)  bytes of a step = sum over collectives of  times * bytes of the whole array

where the whole array is what an all-gather makes, an all-reduce or a reduce-scatter takes in, and
`times` multiplies the trip counts of the loops around it. A collective that a compiler has split
over several fusions, some of them within a loop, is one, as often as it is begun.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Collective", "collectives"]

KINDS = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
_INSTRUCTION = re.compile(r"\s*(?:ROOT )?%?([\w.\-]+) = (.*?) ([\w\-]+)\((.*)$")
_SHAPE = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]")
_CALLED = re.compile(
    r"(?:calls|to_apply|body|condition|branch_computations|called_computations)="
    r"(?:\{([^}]*)\}|%?([\w.\-]+))"
)
_BITS = re.compile(r"\d+")


@dataclass(frozen=True)
class Collective:
    """One collective: its kind, the arrays that it makes, and the operation that it is part of.

    `bytes` are those of the whole arrays, once; `times` is how often it runs in a call.
    """

    kind: str
    shapes: tuple[tuple[int, ...], ...]
    bytes: int
    times: int
    operation: str


def collectives(hlo: str) -> list[Collective]:
    """The collectives of a program that is compiled for several devices, the largest traffic first.

    Args:
        hlo: of `jax.jit(...).lower(...).compile().as_text()`.

    Raises:
        ValueError: for a text without an entry computation.
    """
    bodies, entry = _computations(hlo)
    found: dict[str, Collective] = {}
    for name, times in _times(bodies, entry).items():
        types: dict[str, str] = {}
        for line in bodies[name]:
            match = _INSTRUCTION.match(line)
            if not match:
                continue
            result, made, operation, rest = match.groups()
            types[result] = made
            kind = operation.removesuffix("-start")
            if not re.fullmatch(KINDS, kind):
                continue
            channel = re.search(r"channel_id=(\d+)", rest)
            key = channel.group(1) if channel else f"{name} {result}"
            taken = [types.get(operand, "") for operand in re.findall(r"%([\w.\-]+)", rest)]
            of = re.search(r'op_name="([^"]*)"', rest)
            shapes = _made(kind, made, started=kind != operation)
            size = max(_size(shapes), _size(_SHAPE.findall(" ".join(taken))))
            dims = tuple(_dims(shape) for _, shape in shapes)
            one = Collective(kind, dims, size, times, of.group(1) if of else "")
            if key not in found or found[key].times > times:
                found[key] = one
    return sorted(found.values(), key=lambda c: -c.times * c.bytes)


def _computations(hlo: str) -> tuple[Mapping[str, list[str]], str]:
    """The lines of each computation, and the name of the entry."""
    bodies: dict[str, list[str]] = {}
    entry, current = "", None
    for line in hlo.splitlines():
        if line and not line[0].isspace():
            head = re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line)
            current = head.group(2) if head and not line.startswith("HloModule") else None
            if head and current:
                bodies[current] = []
                entry = current if head.group(1) else entry
        elif current:
            bodies[current].append(line)
    if not entry:
        raise ValueError("this text has no ENTRY computation: give compiled.as_text()")
    return bodies, entry


def _times(bodies: Mapping[str, list[str]], entry: str) -> Mapping[str, int]:
    """How often each computation runs."""
    times: dict[str, int] = {}

    def walk(name: str, factor: int) -> None:
        times[name] = times.get(name, 0) + factor
        for line in bodies[name]:
            trips = _trips(line, bodies) if " while(" in line else 1
            for several, one in _CALLED.findall(line):
                for called in re.findall(r"[\w.\-]+", several or one):
                    if called in bodies:
                        walk(called, factor * trips)

    walk(entry, 1)
    return times


def _trips(line: str, bodies: Mapping[str, list[str]]) -> int:
    """Of a loop: told by the compiler, or its limit over its stride, where both are constants."""
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', line)
    if known:
        return int(known.group(1))
    rooms = [re.search(rf"{room}=%?([\w.\-]+)", line) for room in ("condition", "body")]
    condition, body = ("\n".join(bodies.get(m.group(1), [])) if m else "" for m in rooms)
    limits = re.findall(r"[su]32\[\]\S* constant\((\d+)\)", condition)
    counter = re.search(r"get-tuple-element\(.*?\), index=(\d+)", condition)
    if len(limits) != 1 or not counter:
        return 1
    return math.ceil(int(limits[0]) / _stride(body, int(counter.group(1))))


def _stride(body: str, counter: int) -> int:
    """What the body of a loop adds to an entry of its state; 1 where that is not a constant."""
    root = re.search(r"ROOT .*? tuple\((.*?)\)", body)
    names = re.findall(r"%([\w.\-]+)", root.group(1)) if root else []
    if counter >= len(names):
        return 1
    added = re.search(rf"%{re.escape(names[counter])} = \S+ add\(([^)]*)\)", body)
    for name in re.findall(r"%([\w.\-]+)", added.group(1)) if added else []:
        constant = re.search(rf"%{re.escape(name)} = \S+ constant\((\d+)\)", body)
        if constant:
            return int(constant.group(1))
    return 1


def _made(kind: str, made: str, *, started: bool) -> list[tuple[str, str]]:
    """Dtypes and dimensions of the results; what has only started carries its operands too."""
    shapes = _SHAPE.findall(made)
    if started and kind == "collective-permute":
        return shapes[1:2]
    if started and kind == "all-gather":
        return shapes[len(shapes) // 2 :]
    return shapes


def _dims(shape: str) -> tuple[int, ...]:
    return tuple(int(n) for n in shape.split(",") if n)


def _size(shapes: list[tuple[str, str]]) -> int:
    return sum(_itemsize(dtype) * math.prod(_dims(shape)) for dtype, shape in shapes)


def _itemsize(dtype: str) -> int:
    bits = _BITS.search(dtype)
    return max(1, int(bits.group()) // 8) if bits else 1

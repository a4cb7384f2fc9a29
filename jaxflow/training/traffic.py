"""What a compiled program moves: between devices by its collectives, and to and from memory.

(1)  bytes of a step = sum over collectives of  times * bytes of the whole array

where the whole array is what an all-gather makes, an all-reduce or a reduce-scatter takes in, and
`times` multiplies the trip counts of the loops around it. A collective that a compiler has split
over several fusions, some of them within a loop, is one, as often as it is begun.

(2)  bytes touched = sum over instructions of  times * (bytes read + bytes written)

where a fusion is one instruction, a slice reads what it takes, an update in place writes what it
changes, and what a TPU keeps on the chip (memory space 1) is free.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from jaxflow.training.hlo import Instruction, arrays_in, bytes_of, parse

__all__ = ["Collective", "bytes_touched", "collectives"]

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
ON_CHIP = re.compile(r"S\([1-9]\d*\)")
FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional",
    "call", "after-all", "partition-id", "replica-id", "optimization-barrier", "domain",
}  # fmt: skip


@dataclass(frozen=True)
class Collective:
    """One collective: its kind, the arrays that it makes, and the operation that it is part of.

    `bytes` are those of the whole arrays, once; `times` is how often it runs in a call; `group` has
    the numbers of the first devices that take part with one another, where the text says it.
    """

    kind: str
    shapes: tuple[tuple[int, ...], ...]
    bytes: int
    times: int
    group: tuple[int, ...]
    operation: str


def collectives(hlo: str) -> list[Collective]:
    """The collectives of a program that is compiled for several devices, the largest traffic first.

    Args:
        hlo: of `jax.jit(...).lower(...).compile().as_text()`.

    Raises:
        ValueError: for a text without an entry computation.
    """
    program = parse(hlo)
    found: dict[str, Collective] = {}
    for name, times in program.times.items():
        types = {i.name: i.type for i in program.bodies[name]}
        for instruction in program.bodies[name]:
            kind = instruction.operation.removesuffix("-start")
            if kind not in KINDS:
                continue
            pieces = re.search(r'chain_id="(\d+)"', instruction.rest)
            key = pieces.group(1) if pieces else f"{name} {instruction.name}"
            one = _collective(kind, instruction, types, times)
            if key not in found or found[key].times > times:
                found[key] = one
    return sorted(found.values(), key=lambda c: -c.times * c.bytes)


def _collective(
    kind: str, instruction: Instruction, types: Mapping[str, str], times: int
) -> Collective:
    made = [(dtype, dims) for dtype, dims, _ in arrays_in(_made(instruction))]
    taken = " ".join(types.get(name, "") for name in instruction.operands)
    sizes = [
        sum(bytes_of(*each) for each in arrays)
        for arrays in (made, [(dtype, dims) for dtype, dims, _ in arrays_in(taken)])
    ]
    of = re.search(r'op_name="([^"]*)"', instruction.rest)
    return Collective(
        kind,
        tuple(dims for _, dims in made),
        max(sizes),
        times,
        _group(instruction.rest),
        of.group(1) if of else "",
    )


def _group(rest: str) -> tuple[int, ...]:
    """The first group that a collective runs over, by any of XLA's three ways to write groups."""
    named = re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", rest)
    if named:
        sizes = {name: int(n) for name, n in re.findall(r"'([^']+)'=(\d+)", named.group(1))}
        taking = re.findall(r"'([^']+)'", named.group(2))
        devices = np.arange(math.prod(sizes.values())).reshape(list(sizes.values()))
        picked = tuple(slice(None) if name in taking else 0 for name in sizes)
        return tuple(int(i) for i in devices[picked].ravel())
    strided = re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest)
    if strided:
        groups, each, dims, order = strided.groups()
        devices = np.arange(int(groups) * int(each)).reshape([int(n) for n in dims.split(",")])
        if order:
            devices = devices.transpose([int(n) for n in order.split(",")])
        return tuple(int(i) for i in devices.reshape(int(groups), int(each))[0])
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", rest)
    return tuple(int(n) for n in listed.group(1).split(",")) if listed else ()


def bytes_touched(hlo: str) -> int:
    """Bytes that one device reads from its memory and writes to it in a call, by (2).

    Args:
        hlo: as for `collectives`.

    Raises:
        ValueError: for a text without an entry computation.
    """
    program = parse(hlo)
    within = {
        name
        for body in program.bodies.values()
        for i in body
        if i.operation not in ("while", "conditional", "call")
        for name in i.called
    }
    total = 0.0
    for name, times in program.times.items():
        if name in within:
            continue
        types = {i.name: i.type for i in program.bodies[name]}
        for instruction in program.bodies[name]:
            if instruction.operation not in FREE and not instruction.operation.endswith("-done"):
                total += times * _touched(instruction, types, program.bodies)
    return int(total)


def _touched(
    instruction: Instruction,
    types: Mapping[str, str],
    bodies: Mapping[str, list[Instruction]],
) -> float:
    kind, made = instruction.operation, _made(instruction)
    operands = instruction.operands
    read: dict[int, float] = {i: _in_memory(types.get(name, "")) for i, name in enumerate(operands)}
    written = _in_memory(made)
    kind = kind.removesuffix("-start")
    if kind == "fusion":
        body = bodies.get(next(iter(instruction.called), ""), [])
        for place in read:
            read[place] = min(read[place], _read(body, place, bodies))
        updated = list(_updates(body))
        for place, whole, changed in updated:
            read[place] = 0
            written += changed - whole
        # What is handed through in place, as the buffers of a collective under way.
        made_arrays = [f"{d}[{','.join(map(str, n))}]{at}" for d, n, at in arrays_in(made)]
        for out, place in _handed_through(instruction.rest):
            if place not in {place for place, _, _ in updated}:
                written -= _in_memory(made_arrays[out])
                read[place] = 0
        return max(0, written) + sum(read.values())
    if kind == "copy":
        return (read.get(0, 0) + written) if operands else 0
    if kind == "slice":
        return min(read.get(0, 0), _size(made)) + written
    if kind in ("dynamic-slice", "gather"):
        return 2 * written
    if kind == "dynamic-update-slice":
        return 2 * read.get(1, 0)
    return (written if operands else 0) + sum(read.values())


def _handed_through(rest: str) -> Iterator[tuple[int, int]]:
    """Which result of a fusion is which operand, in place."""
    told = re.search(r"output_to_operand_aliasing=\{(.*?\))\}", rest)
    for out, place in re.findall(r"\{(\d*)\}: \((\d+),", told.group(1) if told else ""):
        yield int(out or 0), int(place)


def _made(instruction: Instruction) -> str:
    """The type of the result; what has only started carries its operands beside it."""
    made = instruction.type
    if not instruction.operation.endswith("-start"):
        return made
    if made.startswith("(("):
        return made[_closing(made, 1) + 1 :]
    arrays = [f"{d}[{','.join(map(str, n))}]{at}" for d, n, at in arrays_in(made)]
    kept = {
        "copy-start": slice(0, 1),
        "all-gather-start": slice(len(arrays) // 2, None),
        "collective-permute-start": slice(1, 2),
    }.get(instruction.operation, slice(None))
    return " ".join(arrays[kept])


def _closing(text: str, start: int) -> int:
    """Where the bracket that opens at `start` closes."""
    depth = 0
    for i in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[i], 0)
        if depth == 0:
            return i
    return start


def _in_memory(made: str) -> int:
    return sum(
        bytes_of(dtype, dims) for dtype, dims, layout in arrays_in(made)
        if not ON_CHIP.search(layout)
    )  # fmt: skip


def _size(made: str) -> int:
    return sum(bytes_of(dtype, dims) for dtype, dims, _ in arrays_in(made))


def _read(body: list[Instruction], place: int, bodies: Mapping[str, list[Instruction]]) -> float:
    """Bytes that a fusion reads of an operand: of one that it only slices, those of the slices."""
    own = next((i for i in body if i.operation == "parameter" and _place(i) == place), None)
    if own is None:
        return math.inf
    total: float = 0
    for name, user in _users(own.name, body):
        if user.operation in ("dynamic-slice", "slice"):
            total += _size(user.type)
        elif user.operation == "fusion":
            inner = bodies.get(next(iter(user.called), ""), [])
            total += _read(inner, user.operands.index(name), bodies)
        else:
            return math.inf
    return total


def _updates(body: list[Instruction]) -> Iterator[tuple[int, int, int]]:
    """Operands that are updated in place: which, their bytes, and the bytes of the update."""
    known = {i.name: i for i in body}
    for instruction in body:
        if instruction.operation != "dynamic-update-slice" or len(instruction.operands) < 2:
            continue
        first, update = (known.get(name) for name in instruction.operands[:2])
        while first is not None and first.operation == "bitcast":
            first = known.get(first.operands[0])
        if first is not None and update is not None and first.operation == "parameter":
            yield _place(first), _in_memory(first.type), _in_memory(update.type)


def _users(name: str, body: list[Instruction]) -> Iterator[tuple[str, Instruction]]:
    """What takes a value, and by which name, since bitcasts are seen through."""
    for instruction in body:
        if name in instruction.operands:
            if instruction.operation == "bitcast":
                yield from _users(instruction.name, body)
            else:
                yield name, instruction


def _place(parameter: Instruction) -> int:
    return int(parameter.rest.partition(")")[0])

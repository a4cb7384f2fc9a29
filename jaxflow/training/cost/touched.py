"""Bytes that a device reads from its memory and writes to it in a call of a compiled program.

(1)  bytes touched = sum over instructions of  times * (bytes read + bytes written)

where a fusion is one instruction, a slice reads what it takes, an update in place writes what it
changes, what is handed through in place is free, and so is what a TPU keeps on the chip.
"""

import math
import re
from collections.abc import Iterator, Mapping

from jaxflow.training.cost.hlo import Instruction, arrays_in, parse

__all__ = ["bytes_touched"]

Bodies = Mapping[str, list[Instruction]]

FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional",
    "call", "after-all", "partition-id", "replica-id", "optimization-barrier", "domain",
}  # fmt: skip


def bytes_touched(hlo: str) -> int:
    """The bytes (1).

    Args:
        hlo: of `jax.jit(...).lower(...).compile().as_text()`.

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


def _touched(instruction: Instruction, types: Mapping[str, str], bodies: Bodies) -> float:
    kind, operands, made = instruction.operation, instruction.operands, instruction.made
    taken = [_in_memory(types.get(name, "")) for name in operands]
    written = sum(array.in_memory for array in made)
    kind = kind.removesuffix("-start")
    if kind == "fusion":
        return _of_fusion(instruction, dict(enumerate(taken)), written, bodies)
    if kind == "slice":
        return min(taken[0], sum(array.bytes for array in made)) + written
    if kind in ("dynamic-slice", "gather"):
        return 2 * written
    if kind == "dynamic-update-slice":
        return 2 * taken[1]
    return written + sum(taken) if operands else 0


def _of_fusion(fusion: Instruction, read: dict[int, float], written: int, bodies: Bodies) -> float:
    body = bodies.get(next(iter(fusion.called), ""), [])
    for place in read:
        read[place] = min(read[place], _read(body, place, bodies))
    changes = [(place, changed - whole) for place, whole, changed in _updates(body)]
    updated = {place for place, _ in changes}
    changes += [
        (place, -fusion.made[out].in_memory)
        for out, place in _handed_through(fusion.rest)
        if place not in updated
    ]
    for place, change in changes:
        read[place] = 0
        written += change
    return max(0, written) + sum(read.values())


def _handed_through(rest: str) -> Iterator[tuple[int, int]]:
    """Which result of a fusion is which operand, in place."""
    told = re.search(r"output_to_operand_aliasing=\{(.*?\))\}", rest)
    for out, place in re.findall(r"\{(\d*)\}: \((\d+),", told.group(1) if told else ""):
        yield int(out or 0), int(place)


def _in_memory(made: str) -> int:
    return sum(array.in_memory for array in arrays_in(made))


def _read(body: list[Instruction], place: int, bodies: Bodies) -> float:
    """Bytes that a fusion reads of an operand: of one that it only slices, those of the slices."""
    own = next((i for i in body if i.operation == "parameter" and _place(i) == place), None)
    if own is None:
        return math.inf
    total: float = 0
    for name, user in _users(own.name, body):
        if user.operation in ("dynamic-slice", "slice"):
            total += sum(array.bytes for array in user.made)
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

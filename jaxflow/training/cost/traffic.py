"""What the collectives of a compiled program move between devices, read from its text.

(1)  bytes of a step = sum over collectives of  times * bytes of the whole array

where the whole array is what an all-gather makes, an all-reduce or a reduce-scatter takes in, and
`times` multiplies the trip counts of the loops around it. A collective that a compiler has split
over several fusions, some of them within a loop, is one, as often as it is begun. What a TPU's
runtime takes over the network between slices stands in the text as what it is sent and gives back;
the larger of the two is the whole array, as each device has it.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from jaxflow.training.cost.hlo import Instruction, arrays_in, parse

__all__ = ["Collective", "collectives"]

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


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
            one = _between_slices(instruction, times, hlo) or _within(instruction, types, times)
            if one is None:
                continue
            pieces = re.search(r'(?:chain_id|transfer_rendezvous)="([^"]*)"', instruction.rest)
            key = pieces.group(1) if pieces else f"{name} {instruction.name}"
            known = found.get(key, one)
            if known.times > times or (known.times, known.bytes) <= (times, one.bytes):
                found[key] = one
    return sorted(found.values(), key=lambda c: -c.times * c.bytes)


def _within(instruction: Instruction, types: Mapping[str, str], times: int) -> Collective | None:
    kind = instruction.operation.removesuffix("-start")
    if kind not in KINDS:
        return None
    made = instruction.made
    taken = [array for name in instruction.operands for array in arrays_in(types.get(name, ""))]
    return Collective(
        kind,
        tuple(array.dims for array in made),
        max(sum(array.bytes for array in arrays) for arrays in (made, taken)),
        times,
        _group(instruction.rest),
        _operation(instruction.rest),
    )


def _between_slices(instruction: Instruction, times: int, hlo: str) -> Collective | None:
    """The sending or receiving end of what goes between slices of TPUs; `1:2,4` are 1, 2 and 4."""
    told = dict(re.findall(r'_xla_megascale_(\w+)="([^"]*)"', instruction.rest))
    if instruction.operation not in ("send", "recv") or "transfer_type" not in told:
        return None
    kind = told["transfer_type"].lower().replace("_", "-")
    taking = re.findall(r"(\d+)(?::(\d+))?", told["target"].partition("x")[0])
    slices = sum(int(last or first) - int(first) + 1 for first, last in taking)
    devices = re.search(r"num_partitions=(\d+)", hlo)  # of one slice
    each = int(devices.group(1)) if devices else 1
    array = instruction.made[0]
    return Collective(
        kind if kind in KINDS else "collective-permute",
        (array.dims,),
        array.bytes,
        times,
        tuple(range(0, each * slices, each)),
        _operation(instruction.rest),
    )


def _operation(rest: str) -> str:
    of = re.search(r'op_name="([^"]*)"', rest)
    return of.group(1) if of else ""


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

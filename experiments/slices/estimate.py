"""What a run compiles to on devices that are not here, and what that costs."""

import math
import re
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from experiments.setup import build, dataset
from experiments.setup.operations import operations as count_operations
from experiments.setup.states import abstract_state
from experiments.slices.roofline import Roofline, roofline
from experiments.slices.topology import Slice
from jaxflow import training
from jaxflow.draws.chain import on_host
from jaxflow.training.cost import Collective, bytes_touched, collectives
from jaxflow.types import Batch

__all__ = ["Estimate", "Memory", "estimate", "example_shapes"]

# The fields of a state, as they are named to people.
PARTS = {
    "params": "parameters",
    "averages": "averages",
    "opt_state": "optimiser",
    "frozen": "frozen",
}


# How compilers say that a program needs more memory than there is, both in GiB.
OUT_OF_MEMORY = (
    r"Used ([\d.]+G) of ([\d.]+G) hbm",
    r"\(([\d.]+G)\) exceeds .*?\(([\d.]+G)\)",
)


class Memory(NamedTuple):
    """Bytes that a device needs: `total` by the compiler, of those that it `has`."""

    state: dict[str, int]
    batch: int
    work: int
    total: int
    has: float


class Estimate(NamedTuple):
    """A step of a config on a slice; `refused` says why there is none.

    `needed` are the bytes of a device, as far as a compiler that refuses tells them.
    """

    config: ConfigDict
    devices: int
    kind: str
    parameters: int
    operations: int
    memory: Memory | None
    moved: list[Collective]
    bounds: Roofline | None
    compiled_in: float
    refused: str
    needed: float

    @property
    def fits(self) -> bool:
        """Whether a device has the memory."""
        return self.memory is not None and self.memory.total <= self.memory.has

    @property
    def samples_a_second(self) -> float:
        """At the slower end of the roofline."""
        return self.config.batch_size / self.bounds.slowest if self.bounds else 0.0


def example_shapes(config: ConfigDict, event: Sequence[int] | None) -> Batch:
    """Shapes of a batch of two: of the data, or of examples of shape `event` where it is not here.

    Raises:
        ValueError: for a condition other than a label, whose shape only the data tells.
        FileNotFoundError: where neither data nor shape is given.
    """
    if event is None:
        batch = dataset.example_batch(config, 2)
        return jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(jnp.shape(a), jnp.asarray(a).dtype), batch
        )
    others = [name for name in config.data.cond if name != "label"]
    if others:
        raise ValueError(
            f"the shape of the condition {others[0]!r} is that of the data: leave --x1 out, and "
            "give the data set"
        )
    cond = {name: jax.ShapeDtypeStruct((2,), jnp.int32) for name in config.data.cond}
    return {"x1": jax.ShapeDtypeStruct((2, *event), jnp.float32), "cond": cond}


def estimate(config: ConfigDict, devices: Slice, shapes: Batch) -> Estimate:
    """Compile a step of a config for a slice, and read off what it costs.

    Args:
        config: of the run.
        devices: of `devices_of`.
        shapes: of a batch, by `example_shapes`.

    Raises:
        ValueError: where the config does not fit the slice, or its mode or its draw needs devices
            or a host that are there.
    """
    chip = training.chip(devices[0])
    if chip is None or chip.bandwidth is None:
        raise ValueError(f"nothing is known of {devices[0].device_kind}: see training.CHIPS")
    if config.parallel.mode == "pmap":
        raise ValueError("mode 'pmap' compiles where it runs: plan by parallel.mode=shard_map")
    run = build.program(config, devices)
    over = run.layout
    training.check_divides(config.batch_size, over, config.parallel.microbatches)
    if on_host(run.trainer.draw):
        raise ValueError(
            "a part of this draw runs on the host, which no compiler plans: take another coupling"
        )
    state = over.like(abstract_state(config, run.trainer, shapes))
    batch = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(
            (config.batch_size, *a.shape[1:]), a.dtype, sharding=over.batch
        ),
        shapes,
    )
    operations = count_operations(config, state, batch)
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    begin = time.monotonic()
    about = (config, len(devices), devices[0].device_kind, count, operations)
    try:
        compiled = run.step.lower(state, batch).compile()
    except jax.errors.JaxRuntimeError as error:
        return Estimate(*about, None, [], None, time.monotonic() - begin, *_why(error))
    text = compiled.as_text()
    moved = collectives(text) if len(devices) > 1 else []
    bounds = roofline(
        chip, operations, bytes_touched(text), moved, devices=len(devices), node=_node(devices)
    )
    memory = _memory(compiled.memory_analysis(), over, state, batch, chip.memory or 0)
    return Estimate(*about, memory, moved, bounds, time.monotonic() - begin, "", memory.total)


def _memory(told: Any, over: training.Layout, state: Any, batch: Batch, has: float) -> Memory:
    parts = dict.fromkeys((*PARTS.values(), "rest"), 0)
    for row in over.table(state):
        parts[PARTS.get(re.split(r"\W", row.path)[0], "rest")] += row.bytes_per_device
    each = sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(batch)) // over.batch_parts
    kept = told.output_size_in_bytes - told.alias_size_in_bytes
    work = told.temp_size_in_bytes + told.generated_code_size_in_bytes + kept
    return Memory(parts, each, work, told.argument_size_in_bytes + work, has)


def _node(devices: Slice) -> int:
    """Devices that share links: of GPUs those of a node, of TPUs the slice."""
    nodes = len({getattr(device, "slice_index", 0) or 0 for device in devices})
    return len(devices) // nodes


def _why(error: Exception) -> tuple[str, float]:
    """What a compiler says of a program that does not fit, and the bytes that it needs."""
    text = " ".join(str(error).split())
    for pattern in OUT_OF_MEMORY:
        used = re.search(pattern, text)
        if used:
            needs, has = used.groups()
            return f"its work alone needs {needs} of a memory of {has}", float(needs[:-1]) * 2**30
    return text[:200], math.inf

"""Plan a run on a slice that is not here: compile its step for it, and say what it would take.

    python -m experiments.plan --config=configs/NAME.py --topology=v5e:16x16 [--x1=32,32,3]
                               [--config.a.b=value ...] [--slices=2] [--price=DOLLARS] [--search]

Says whether the run fits and what takes the memory, what travels between devices and why, and how
long a step takes at least. Topologies are v4, v5e, v5p and v6e by chips a side (needs `plan-tpu`),
and a100, h100, h200 and b200 by nodes and GPUs a node, as h100:8 and h100:2x8 (needs `plan-gpu`).
`--slices` are equal slices of TPUs, joined by the network.
`--x1` is the shape of an example, where the data is not here; `--price` is of a device and an hour.
"""

import math
from collections.abc import Mapping
from itertools import groupby

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags
from rich.table import Table

from experiments.run import command
from experiments.run.reporting import console, table
from experiments.setup.check import check_parts
from experiments.setup.taught import check_teacher
from experiments.slices.estimate import Estimate, estimate, example_shapes
from experiments.slices.search import candidates, describe, ranked, refined
from experiments.slices.topology import Slice, devices_of
from jaxflow.training.cost import Collective
from jaxflow.types import Batch

# A plan needs no device, and compilers for those that are not here would look for one.
jax.config.update("jax_platforms", "cpu")

_CONFIG = config_flags.DEFINE_config_file("config", None, "The config file.", lock_config=True)
_TOPOLOGY = flags.DEFINE_string("topology", None, "The slice, as v5e:16x16 or h100:8.")
_SLICES = flags.DEFINE_integer("slices", 1, "Slices of TPUs that a network joins.", lower_bound=1)
_X1 = flags.DEFINE_list("x1", None, "Shape of an example, as 32,32,3, where the data is not here.")
_PRICE = flags.DEFINE_float("price", None, "Of one device and hour.", lower_bound=0.0)
_SEARCH = flags.DEFINE_bool("search", False, "Try layouts, and rank those that fit.")


def main() -> None:
    """Compile, and print."""
    if _CONFIG.value is None or _TOPOLOGY.value is None:
        raise ValueError("--config=configs/NAME.py and --topology=v5e:4x4 are needed")
    config = _CONFIG.value
    check_parts(config)
    check_teacher(config)
    shapes = example_shapes(config, _event(_X1.value))
    devices = devices_of(_TOPOLOGY.value, _SLICES.value)
    if _SEARCH.value:
        best = _searched(config, devices, shapes)
    else:
        best = estimate(config, devices, shapes)
    _report(best)


def _event(given: list[str] | None) -> tuple[int, ...] | None:
    if given is None:
        return None
    if not all(each.isdecimal() and int(each) for each in given):
        raise ValueError(f"--x1={','.join(given)} must be sizes, as 32,32,3")
    return tuple(int(each) for each in given)


def _searched(config: ConfigDict, devices: Slice, shapes: Batch) -> Estimate:
    """The best of the layouts, and of what memory may be saved by in the two best of them."""
    tried: list[Estimate] = []

    def attempt(changed: ConfigDict) -> None:
        try:
            tried.append(estimate(changed, devices, shapes))
        except ValueError as error:
            console.print(f"{describe(changed)}: left out, {error}")
            return
        console.print(f"{describe(changed)}: {_in_short(tried[-1])}")

    for changed in candidates(config, len(devices)):
        attempt(changed)
    for one in ranked(tried)[:2]:
        for changed in refined(one.config):
            attempt(changed)
    if not tried:
        raise ValueError(
            f"no layout takes a batch of {config.batch_size} over {len(devices)} devices"
        )
    shown = Table(title="layouts, the best first")
    for name in ("layout", "samples a second", "step", "memory", ""):
        shown.add_column(name, justify="left" if name in ("layout", "") else "right")
    for one in ranked(tried):
        needed = _bytes(one.needed) if one.needed < math.inf else "?"
        speed = f"{one.samples_a_second:,.0f}" if one.bounds else ""
        step = _seconds(one.bounds.slowest) if one.bounds else ""
        shown.add_row(describe(one.config), speed, step, needed, "" if one.fits else "does not fit")
    console.print(shown)
    return ranked(tried)[0]


def _in_short(one: Estimate) -> str:
    if one.refused:
        return f"does not fit, {one.refused}"
    assert one.memory is not None
    assert one.bounds is not None
    fits = "" if one.fits else ", does not fit"
    return (
        f"{_seconds(one.bounds.slowest)} a step, {_bytes(one.memory.total)} a device{fits} "
        f"(compiled in {one.compiled_in:.0f} s)"
    )


def _report(one: Estimate) -> None:
    config = one.config
    if one.memory is None or one.bounds is None:
        raise ValueError(
            f"{describe(config)} does not fit {one.devices} x {one.kind}: {one.refused}. Take a "
            "smaller batch_size, more parallel.microbatches, remat, the layout fsdp, or --search"
        )
    state = {name: _bytes(n) for name, n in one.memory.state.items() if n > 1e4}
    fits = "fits" if one.fits else "DOES NOT FIT"
    memory = {
        **state,
        "batch": _bytes(one.memory.batch),
        "work": f"{_bytes(one.memory.work)} (activations, gradients, gathered parameters)",
        "total": f"{_bytes(one.memory.total)} of {_bytes(int(one.memory.has))}: {fits}",
    }
    table(f"{one.devices} x {one.kind}, {describe(config)}: memory of a device", memory)
    _print_moved(one)
    bounds, days = one.bounds, config.steps * one.bounds.slowest / 86_400
    rows = {
        "parameters": f"{one.parameters:,}",
        "operations": f"{one.operations:,} a step of {config.batch_size:,}",
        "compute": _seconds(bounds.compute),
        "memory": _seconds(bounds.memory),
        "links": _seconds(bounds.links),
        "step": f"{_seconds(bounds.fastest)} where all overlaps, {_seconds(bounds.slowest)} where "
        "the links overlap nothing",
        "utilisation": f"{bounds.utilisation:.0%} of the bfloat16 peak at the slower",
        "samples": f"{one.samples_a_second:,.0f} a second",
        "run": f"{config.steps:,} steps in {days:.2f} days",
        **_cost(days, one.devices),
    }
    table("roofline of a step", rows)
    console.print("a roofline is a lower bound: no device has run this")


def _cost(days: float, devices: int) -> Mapping[str, str]:
    if _PRICE.value is None:
        return {}
    return {
        "cost": f"{days * 24 * devices * _PRICE.value:,.0f} at {_PRICE.value:g} a device and hour"
    }


def _print_moved(one: Estimate) -> None:
    """What travels, summed by kind and reason."""

    def key(c: Collective) -> tuple[str, str]:
        return c.kind, _reason(c, one.config.parallel)

    shown = Table(title="what travels between devices in a step")
    for name in ("collective", "of", "arrays", "bytes"):
        shown.add_column(name, justify="left" if name in ("collective", "of") else "right")
    sums = [
        (kind, reason, sum(c.times for c in found), sum(c.times * c.bytes for c in found))
        for (kind, reason), group in groupby(sorted(one.moved, key=key), key)
        for found in [list(group)]
    ]
    for kind, reason, times, size in sorted(sums, key=lambda row: -row[3]):
        shown.add_row(kind, reason, f"{times:,}", _bytes(size))
    if sums:
        console.print(shown)


def _reason(one: Collective, parallel: ConfigDict) -> str:
    """What a collective carries, by the devices that it joins and where in the step it stands."""
    tensor, cuts = parallel.axes.tensor, parallel.layout == "fsdp" or parallel.axes.fsdp > 1
    backward = "transpose(" in one.operation
    if one.bytes < 4096:
        return "metrics, norms"
    if tensor > 1 and one.group == tuple(range(tensor)):
        return "activations of shared layers"
    if one.kind in ("all-gather", "collective-permute") and cuts and not backward:
        return "parameters"
    if one.kind == "all-gather" and cuts:
        return "parameters, again for the gradient"
    return "gradients"


def _bytes(n: float) -> str:
    return f"{n / 1e9:.2f} GB" if n >= 1e8 else f"{n / 1e6:.2f} MB"


def _seconds(s: float) -> str:
    if s >= 1:
        return f"{s:.2f} s"
    return f"{s * 1e3:.2f} ms" if s >= 1e-4 else f"{s * 1e6:.2f} us"


if __name__ == "__main__":
    command.run(main)

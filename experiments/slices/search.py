"""Which layout suits a config on a slice: those that may, compiled one by one, and ranked."""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from experiments.setup.components import component
from experiments.slices.estimate import Estimate

__all__ = ["candidates", "describe", "ranked", "refined"]


def candidates(config: ConfigDict, devices: int) -> Iterator[ConfigDict]:
    """The config in every layout: groups of 4, 16, ... and tensor axes where there are rules."""
    powers = [4**i for i in range(1, 9)]
    yield _laid(config, "data")
    if devices > 1:
        yield _laid(config, "fsdp")
    for k in (k for k in powers if k < devices and devices % k == 0):
        yield _laid(config, "hybrid", fsdp=k)
    rules = getattr(component("network", config.network), "tensor_axes", {})
    for k in (2, 4):
        whole = [units for _, units in rules.values()]
        if whole and devices % k == 0 and all(units % k == 0 for units in whole):
            yield _laid(config, "tensor", tensor=k)


def refined(config: ConfigDict) -> Iterator[ConfigDict]:
    """A config with less kept for the backward pass, in more microbatches, and with gradients that
    travel in float32 where its network computes in less.
    """
    module = component("network", config.network)
    known = {"DiT": (None, "dots", "full"), "UNet": (False, True)}.get(type(module).__name__, ())
    for remat in known:
        if remat != module.remat:
            yield _changed(config, ("network", "kwargs", "remat"), remat)
    for microbatches in (2 * config.parallel.microbatches, 4 * config.parallel.microbatches):
        yield _changed(config, ("parallel", "microbatches"), microbatches)
    short = jnp.finfo(config.network.kwargs.get("dtype", "float32")).bits < 32
    if short and not config.parallel.reduce_dtype:
        yield _changed(config, ("parallel", "reduce_dtype"), "float32")


def ranked(tried: list[Estimate]) -> list[Estimate]:
    """Those that fit first, the fastest of them first; then the others by the memory they need."""

    def order(one: Estimate) -> tuple[bool, float]:
        return not one.fits, -one.samples_a_second if one.fits else one.needed

    return sorted(tried, key=order)


def describe(config: ConfigDict) -> str:
    """The layout of a config in a few words."""
    parallel = config.parallel
    axes = "".join(f" {name}={n}" for name, n in parallel.axes.items() if n > 1)
    remat = config.network.kwargs.get("remat")
    more = f", remat {remat}" if remat else ""
    parts = f", {parallel.microbatches} microbatches" if parallel.microbatches > 1 else ""
    sent = f", gradients in {parallel.reduce_dtype}" if parallel.reduce_dtype else ""
    return f"{parallel.layout}{axes}{parts}{more}{sent}"


def _laid(config: ConfigDict, name: str, **axes: int) -> ConfigDict:
    laid = _changed(config, ("parallel", "layout"), name)
    for axis in ("fsdp", "tensor"):
        laid = _changed(laid, ("parallel", "axes", axis), axes.get(axis, 1))
    return laid


def _changed(config: ConfigDict, path: tuple[str, ...], value: Any) -> ConfigDict:
    changed = config.copy_and_resolve_references()
    section = changed
    with changed.unlocked():
        for name in path[:-1]:
            section = section[name]
        with section.ignore_type():
            section[path[-1]] = value
    return changed

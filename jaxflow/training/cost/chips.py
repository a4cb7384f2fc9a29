"""What one device can do, by the makers' data sheets.

TPUs: docs.cloud.google.com/tpu/docs, the page of each version, read in November 2026; links are
half of the bidirectional figure, and the network that of a host (v5e, v6e) over its chips, or of a
chip. GPUs: the data sheets of the SXM modules; links are NVLink in one direction, and the network
one port of 400 Gbit/s a GPU (200 for an A100), as in NVIDIA's DGX. The V100 has no bfloat16: its
figure is that of float16.
"""

from typing import Any, NamedTuple

__all__ = ["CHIPS", "Chip", "chip", "peak_flops"]


class Chip(NamedTuple):
    """One device.

    `flops` are dense bfloat16 operations a second, `memory` bytes, `bandwidth` bytes a second of
    that memory, `links` bytes a second that it sends within its slice or node, and `network` those
    beyond; None where they are not known here.
    """

    flops: float
    memory: float | None = None
    bandwidth: float | None = None
    links: float | None = None
    network: float | None = None


CHIPS = {
    "TPU v2": Chip(22.5e12),
    "TPU v3": Chip(61.5e12),
    "TPU v4": Chip(275e12, 32 * 2**30, 1228e9, 300e9, 6.25e9),
    "TPU v5 lite": Chip(197e12, 16 * 2**30, 819e9, 200e9, 3.125e9),
    "TPU v5e": Chip(197e12, 16 * 2**30, 819e9, 200e9, 3.125e9),
    "TPU v5": Chip(459e12, 95 * 2**30, 2765e9, 600e9, 6.25e9),
    "TPU v5p": Chip(459e12, 95 * 2**30, 2765e9, 600e9, 6.25e9),
    "TPU v6 lite": Chip(918e12, 32 * 2**30, 1600e9, 400e9, 12.5e9),
    "TPU v6e": Chip(918e12, 32 * 2**30, 1600e9, 400e9, 12.5e9),
    "NVIDIA V100": Chip(125e12),
    "NVIDIA A100": Chip(312e12, 80e9, 2039e9, 300e9, 25e9),
    "NVIDIA H100 PCIe": Chip(756e12),
    "NVIDIA H100": Chip(989e12, 80e9, 3350e9, 450e9, 50e9),
    "NVIDIA H200": Chip(989e12, 141e9, 4800e9, 450e9, 50e9),
    "NVIDIA L4": Chip(121e12),
    "NVIDIA B200": Chip(2250e12, 180e9, 7700e9, 900e9, 50e9),
}


def chip(device: Any) -> Chip | None:
    """The entry of `CHIPS` that the device's kind begins with, the longest; None without one."""
    kind = device.device_kind.replace("Tesla ", "NVIDIA ")
    found = [name for name in CHIPS if kind.startswith(name)]
    return CHIPS[max(found, key=len)] if found else None


def peak_flops(device: Any) -> float | None:
    """Dense bfloat16 operations a second of a device; None where its kind is not known."""
    found = chip(device)
    return None if found is None else found.flops

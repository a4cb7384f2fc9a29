"""How much of what a device can do a step makes use of."""

from typing import Any

__all__ = ["PEAK_FLOPS", "peak_flops"]

PEAK_FLOPS = {
    "TPU v2": 22.5e12,
    "TPU v3": 61.5e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "NVIDIA V100": 125e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA L4": 121e12,
    "NVIDIA B200": 2250e12,
}
"""Dense bfloat16 operations a second of one device, by the makers' data sheets."""


def peak_flops(device: Any) -> float | None:
    """The entry of `PEAK_FLOPS` that the device's kind begins with, the longest; None without one.

    (The V100 has no bfloat16: its figure is that of float16.)
    """
    kind = device.device_kind.replace("Tesla ", "NVIDIA ")
    found = [name for name in PEAK_FLOPS if kind.startswith(name)]
    return PEAK_FLOPS[max(found, key=len)] if found else None

"""Peaks are found by the longest name that a device's kind begins with."""

from types import SimpleNamespace

import pytest

from jaxflow.training import peak_flops


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("TPU v5 lite", 197e12),
        ("TPU v5", 459e12),
        ("TPU v5p", 459e12),
        ("TPU v4", 275e12),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("Tesla V100-SXM2-16GB", 125e12),
        ("cpu", None),
    ],
)
def test_peaks(kind, peak):
    assert peak_flops(SimpleNamespace(device_kind=kind)) == peak

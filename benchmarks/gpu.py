"""The training steps on a GPU, in bfloat16 against `torch.compile`: `python -m benchmarks.gpu`.

Imports nothing beyond jax, flax, optax, diffrax and numpy, and torch for the peer. Model FLOP
utilisation counts the matrix products and convolutions of one loss and its gradient, as ours is
traced, on both sides, against the dense bfloat16 peak of the device.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import report
from benchmarks.timing import Case, Effort, Setting, Side, measure

PEAK_TFLOPS = {
    "B200": 2250.0, "H200": 989.0, "H100 PCIe": 756.0, "H100": 989.0, "A100": 312.0,
    "L40S": 362.0, "L4": 121.0, "A10": 125.0, "RTX 4090": 165.0,
}  # fmt: skip
HEADER = (*report.HEADER, "TFLOP/s", "model FLOP utilisation")
GOAL = 1.2


def cases(*, tiny: bool = False) -> list[Case]:
    """DiT-B/2 on latents of 32x32x4, and the CIFAR-10 U-Net; `tiny` shrinks both for a test."""
    dit = {"patch": 2, "width": 768, "depth": 12, "heads": 12}
    unet = {
        "channels": 128, "multipliers": (1, 2, 2, 2), "blocks": 2, "attention": (16,),
        "head_channels": 64,
    }  # fmt: skip
    batch, size = 256, 32
    if tiny:
        dit |= {"width": 32, "depth": 2, "heads": 2}
        unet |= {"channels": 32, "multipliers": (1, 2), "blocks": 1, "attention": (4,)}
        batch, size = 2, 8
    of_dit = _peer("dit", (batch, 4, size, size), dit)
    of_unet = _peer("unet", (batch, 3, size, size), unet, channels_last=True)
    rows = [
        ("DiT-B/2", "dit", 4, dit, of_dit),
        ("CIFAR-10 U-Net", "unet", 3, unet, of_unet),
        ("DiT-B/2, cuDNN attention", "dit", 4, dit | {"attention": "cudnn"}, of_dit),
    ]
    return [
        Case(
            name,
            "step",
            _ours(network, (batch, size, size, channels), fields),
            peer,
            None if tiny else GOAL,
        )
        for name, network, channels, fields, peer in (rows[:2] if tiny else rows)
    ]


def _ours(network: str, shape: tuple[int, ...], fields: Mapping[str, Any]) -> Side:
    options = {"shape": shape, "fields": fields, "dtype": "bfloat16", "count": True}
    return Side(f"benchmarks.ours.steps:{network}", options)


def _peer(network: str, shape: tuple[int, ...], fields: Mapping[str, Any], **options: Any) -> Side:
    options |= {"shape": shape, "fields": fields, "half": True, "compiled": True}
    return Side(f"benchmarks.peers.steps:{network}", options)


def utilisation(row: Mapping[str, Any], peak: float | None) -> dict[str, dict[str, float | None]]:
    """TFLOP/s and their share of the peak, of each side that ran, by ours' count of operations."""
    count = row["ours"].get("facts", {}).get("flops")
    seconds = {side: row[side]["seconds"]["median"] for side in _ran(row)}
    rates = {side: count / s / 1e12 for side, s in seconds.items()} if count else {}
    return {side: {"tflops": r, "share": r / peak if peak else None} for side, r in rates.items()}


def peak_of(row: Mapping[str, Any]) -> float | None:
    """The peak of the device that our side ran on, in TFLOP/s, where it is known."""
    device = row["ours"].get("facts", {}).get("device", "")
    return next((peak for name, peak in PEAK_TFLOPS.items() if name in device), None)


def _ran(row: Mapping[str, Any]) -> list[str]:
    return [side for side in ("ours", "peer") if "seconds" in row[side]]


def _cells(row: Mapping[str, Any]) -> list[str]:
    sides = row["utilisation"].values()
    rates = " / ".join(f"{side['tflops']:.3g}" for side in sides)
    shares = " / ".join(f"{side['share']:.1%}" for side in sides if side["share"] is not None)
    return [*report.cells(row), rates, shares or "peak unknown"]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table in Markdown, and write it."""
    parser = argparse.ArgumentParser("python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="cases whose name contains this")
    parser.add_argument("--output", metavar="FILE.json", help="where to write what was measured")
    parser.add_argument("--tiny", action="store_true", help="tiny networks: does it run?")
    parser.add_argument("--peak", type=float, help="of the device in TFLOP/s, where it is unknown")
    parser.add_argument("--peer", default=sys.executable, help="the Python that has torch")
    options = parser.parse_args(argv)
    environment = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.45"}
    setting = Setting(peer=options.peer, environment=environment)
    effort = Effort(2, 0.02) if options.tiny else Effort(9, 2.0)
    rows = []
    for case in cases(tiny=options.tiny):
        if options.only and not any(name in case.name for name in options.only):
            continue
        row = measure(case, setting, effort)
        rows.append({**row, "utilisation": utilisation(row, options.peak or peak_of(row))})
        print(*_cells(rows[-1]), sep=" | ", flush=True)
    print(report.markdown(HEADER, [_cells(row) for row in rows]))
    if options.output:
        report.write(options.output, report.document(rows, setting))


if __name__ == "__main__":
    main()

"""What was measured, as rows of text, and as JSON with all that is needed to repeat it."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.timing import Setting

__all__ = ["HEADER", "cells", "document", "markdown", "spread", "write"]

HEADER = (
    "case", "jaxflow", "peer", "ratio (quartiles)", "goal", "first call, jaxflow / peer",
    "told by both, jaxflow / peer",
)  # fmt: skip
TOLD = ("loss", "trained loss", "largest error", "median error", "calls", "cost over exact")
EXTRAS = {
    "torch": "peers", "torchcfm": "peers", "flow_matching": "peers",
    "stix": "rivals", "hackable_diffusion": "rivals", "ott": "rivals",
}  # fmt: skip


def spread(values: Sequence[float]) -> str:
    """Mean and standard error."""
    if len(values) == 1:
        return f"{values[0]:.3g}"
    return f"{np.mean(values):.3g} ± {np.std(values, ddof=1) / len(values) ** 0.5:.1g}"


def cells(row: Mapping[str, Any]) -> list[str]:
    """One row of the table as text, in the order of `HEADER`."""
    ratio = row["ratio"]
    shown = "" if ratio is None else "{median:.2f}x ({low:.2f} to {high:.2f})".format(**ratio)
    goal = "" if row["goal"] is None else f">= {row['goal']:g}x {_verdict(row)}"
    firsts = " / ".join(_first(row[side]) for side in ("ours", "peer"))
    times = [_time(row[side], row["unit"]) for side in ("ours", "peer")]
    return [row["name"], *times, shown, goal, firsts, _told(row)]


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The rows as a table in Markdown, with columns aligned."""
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    rule = ["-" * width for width in widths]
    padded = [
        [text.ljust(width) for text, width in zip(line, widths, strict=True)]
        for line in (header, rule, *rows)
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def document(rows: Sequence[Mapping[str, Any]], setting: Setting) -> dict[str, Any]:
    """What was measured, when, where and on which commit; versions stand with each side."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": setting.threads,
            "system": platform.platform(),
            "load": list(os.getloadavg()),
            "environment": dict(setting.environment),
        },
        "rows": list(rows),
    }


def write(path: str, content: Mapping[str, Any]) -> None:
    """As JSON, with the folders that it needs."""
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2) + "\n")


def _verdict(row: Mapping[str, Any]) -> str:
    if row["ratio"] is None:
        return ""
    return "reached" if row["ratio"]["median"] >= row["goal"] else "missed"


def _time(side: Mapping[str, Any], unit: str) -> str:
    if "missing" in side:
        return f"{side['missing']} is not installed{_remedy(side['missing'])}"
    if "error" in side:
        return side["error"]
    return f"{_scaled(side['seconds']['median'])}/{unit}"


def _remedy(package: str) -> str:
    extra = EXTRAS.get(package.split(".")[0])
    return f": make bench, or pip install -e '.[{extra}]'" if extra else ""


def _told(row: Mapping[str, Any]) -> str:
    """What the two sides say of their results, and how far apart their first points lie."""
    facts = [row[side].get("facts", {}) for side in ("ours", "peer")]
    pairs = [(name, [f"{f[name]:.5g}" if name in f else "-" for f in facts]) for name in TOLD]
    told = [f"{name} {' / '.join(pair)}" for name, pair in pairs if pair != ["-", "-"]]
    points = [np.asarray(f["points"]) for f in facts if "points" in f]
    if len(points) == 2:
        told.append(f"points within {np.max(np.abs(points[0] - points[1])):.1g}")
    return ", ".join(told)


def _first(side: Mapping[str, Any]) -> str:
    return _scaled(side["phases"]["first"]) if "phases" in side else "-"


def _scaled(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{1e3 * seconds:.3g} ms" if seconds >= 1e-3 else f"{1e6 * seconds:.3g} us"


def _commit() -> str | None:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent)
    except FileNotFoundError:
        return None
    return found.stdout.strip() or None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()

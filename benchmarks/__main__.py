"""The table of all cases on the CPU: `python -m benchmarks`.

Cases beside JAX libraries run on both sides under the Python of `--rivals`, on one jax.

PyTorch's OpenMP threads wait for each other by spinning, which beside any other busy process makes
it 10 to 100 times slower; so they sleep here, unless OMP_WAIT_POLICY says otherwise. Both sides
take their memory in large pages, unless GLIBC_TUNABLES says otherwise: without them each call pays
for its page faults.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks import report
from benchmarks.cases import cases
from benchmarks.timing import Case, Effort, Setting, measure

WIDTH = 200


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description="Measure jaxflow beside its peers."
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="cases whose name contains this")
    parser.add_argument("--output", metavar="FILE.json", help="where to write what was measured")
    parser.add_argument("--quick", action="store_true", help="small and short: does it run?")
    parser.add_argument("--ours", default=sys.executable, help="the Python that has jaxflow")
    parser.add_argument("--peer", default=sys.executable, help="the Python that has the peers")
    parser.add_argument(
        "--rivals", default=sys.executable, help="the Python that has jaxflow and the JAX libraries"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of either side")
    parser.add_argument("--rounds", type=int, default=9, help="pairs of measurements a case")
    parser.add_argument("--seconds", type=float, default=1.0, help="about how long each takes")
    return parser.parse_args(argv)


def chosen(every: Sequence[Case], names: Sequence[str] | None) -> list[Case]:
    """The cases that contain one of the names, or all.

    Raises:
        SystemExit: where a name is in no case.
    """
    for name in names or ():
        if not any(name in case.name for case in every):
            sys.exit(f"no case contains {name!r}; known are {[case.name for case in every]}")
    return [case for case in every if not names or any(name in case.name for name in names)]


def _warn_if_busy(console: Console) -> None:
    load = os.getloadavg()[0]
    if load > 0.25 * (os.cpu_count() or 1):
        console.print(
            f"The machine is busy (load {load:.1f}): measure when it is idle, for both sides wait "
            "for a core now."
        )


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table, and write it."""
    options = arguments(argv)
    environment = {
        "JAX_PLATFORMS": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
        "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"),
    }
    setting = Setting(options.ours, options.peer, options.rivals, options.threads, environment)
    effort = Effort(3, 0.02) if options.quick else Effort(options.rounds, options.seconds)
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    _warn_if_busy(console)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        wanted = chosen(cases(str(Path(folder) / "weights.npz"), quick=options.quick), options.only)
        for case in wanted:
            with console.status(case.name):
                rows.append(measure(case, setting, effort))
            console.print(" | ".join(report.cells(rows[-1])), highlight=False, markup=False)
    table = Table(*report.HEADER)
    for row in rows:
        table.add_row(*map(escape, report.cells(row)))
    console.print(table)
    if options.output:
        report.write(options.output, report.document(rows, setting))


if __name__ == "__main__":
    main()

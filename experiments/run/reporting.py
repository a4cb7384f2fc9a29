"""What a person sees of a run, and what is written down of it."""

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from etils import epath
from ml_collections import ConfigDict
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from experiments.run import workdir as workdirs
from jaxflow.training import Placed, processes

__all__ = ["Writers", "console", "counting", "laid_out", "table", "training_bar"]

console = Console(width=None if sys.stdout.isatty() else 120, markup=False, emoji=False)


class Writers:
    """Metrics into `metrics.jsonl`, TensorBoard and, where a project is named, wandb.

    Of several processes the first writes.
    """

    def __init__(self, workdir: epath.Path, config: ConfigDict, step: int):
        from tensorboardX import SummaryWriter

        self._lines = workdir / "metrics.jsonl"
        self._writes = processes.is_first()
        if not self._writes:
            return
        workdirs.forget_after(self._lines, step)
        self._events = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)
        self._wandb = None
        if config.log.wandb_project:
            try:
                import wandb
            except ImportError:
                raise ValueError(
                    "config.log.wandb_project is set, but wandb is not installed: "
                    "pip install 'jaxflow[wandb]'"
                ) from None
            self._wandb = wandb.init(
                project=config.log.wandb_project, dir=str(workdir), config=config.to_dict()
            )

    def scalars(self, step: int, values: Mapping[str, float | None]) -> None:
        """Write one line at a step."""
        if not self._writes:
            return
        workdirs.append_line(self._lines, {"step": step, **values})
        for name, value in values.items():
            if value is None:
                continue
            self._events.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(dict(values), step=step)

    def lines(self) -> list[dict[str, Any]]:
        """All that was written so far."""
        return workdirs.read_lines(self._lines)

    def last(self, step: int) -> dict[str, float | None]:
        """The metrics of the line of a step, where it is the last."""
        line = next(iter(reversed(self.lines())), {"step": None})
        if line["step"] != step:
            return {}
        return {k: v for k, v in line.items() if k != "step" and not k.startswith("seconds/")}

    def close(self) -> None:
        """Flush everything."""
        if not self._writes:
            return
        self._events.close()
        if self._wandb is not None:
            self._wandb.finish()


@contextmanager
def training_bar(steps: int, start: int) -> Iterator[Any]:
    """A bar with steps/s, loss and time left; yields `update(step, loss, rate)`."""
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[told]}"),
        TimeRemainingColumn(),
    )
    shown = -1
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=steps, completed=start, told="")

        def update(step: int, loss: float | None, rate: float | None) -> None:
            nonlocal shown
            told = f"loss {math.nan if loss is None else loss:.4f}"
            told += "" if rate is None else f"  {rate:.1f} steps/s"
            progress.update(task, completed=step, told=told)
            tenth = 10 * step // steps
            if not console.is_terminal and tenth > shown:
                shown = tenth
                console.print(f"step {step}/{steps}  {told}")

        yield update


@contextmanager
def counting(what: str, total: int) -> Iterator[Any]:
    """A bar over `total`; yields `update(done)`."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=total)
        yield lambda done: progress.update(task, completed=done)


def table(title: str, rows: Mapping[str, Any]) -> None:
    """Print names and values."""
    shown = Table(title=title, show_header=False)
    for name, value in rows.items():
        shown.add_row(name, f"{value:,.5g}" if isinstance(value, float) else str(value))
    console.print(shown)


def laid_out(placed: Sequence[Placed], most: int = 12) -> None:
    """Print where the largest arrays of a state lie."""
    shown = Table(title="what lies where")
    for column in ("array", "shape", "split over", "bytes a device"):
        shown.add_column(column, justify="right" if column == "bytes a device" else "left")
    for row in placed[:most]:
        spec = ", ".join(str(axis) if axis else "-" for axis in row.spec)
        where = spec or f"whole{': ' + row.whole if row.whole else ''}"
        shown.add_row(row.path, str(row.shape), where, f"{row.bytes_per_device:,}")
    rest = placed[most:]
    if rest:
        total = sum(row.bytes_per_device for row in rest)
        shown.add_row(f"and {len(rest)} more", "", "", f"{total:,}")
    console.print(shown)

"""Pictures of samples and of the loss."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from PIL import Image, ImageDraw

from jaxflow.data.transforms import pixels

__all__ = [
    "draw_frontier",
    "draw_loss",
    "draw_panels",
    "draw_samples",
    "draw_ways",
    "grid_of",
    "is_image",
]

SMALLEST_SIDE = 32
WAYS = 300
TITLE = 16  # pixels in height
ACROSS = 5  # panels


def is_image(x: np.ndarray) -> bool:
    """Whether samples are images `[n, height, width, 1 or 3]`."""
    return x.ndim == 4 and x.shape[-1] in (1, 3)


def draw_samples(path: epath.Path, x: np.ndarray, columns: int = 10) -> None:
    """A grid of images in [-1, 1], or a scatter of points; other shapes as a line a sample."""
    if is_image(x):
        with path.open("wb") as file:
            grid_of(x, columns).save(file, "PNG")
        return
    figure, axes = _figure(5, 5)
    _plot(axes, x, columns)
    _save(figure, path)


def draw_panels(path: epath.Path, panels: Mapping[str, np.ndarray], columns: int = 10) -> None:
    """Samples side by side, each panel as `draw_samples` has it, under its title."""
    if all(map(is_image, panels.values())):
        with path.open("wb") as file:
            _sheet_of(panels, columns).save(file, "PNG")
        return
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(panels), 4), layout="constrained")
    row = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (title, x) in zip(row, panels.items(), strict=True):
        _plot(axes, x, columns)
        axes.set_title(title)
    _save(figure, path)


def _plot(axes: Any, x: np.ndarray, columns: int) -> None:
    """Points in the plane, or a line a sample."""
    if x.ndim == 2 and x.shape[1] == 2:
        axes.scatter(*x.T, s=2)
        axes.set_aspect("equal")
    else:
        axes.plot(x.reshape(len(x), -1)[:columns].T, linewidth=0.7)


def _sheet_of(panels: Mapping[str, np.ndarray], columns: int) -> Image.Image:
    """Grids of images beside each other, `ACROSS` a row at most, a title above each."""
    grids = {title: grid_of(x, columns) for title, x in panels.items()}
    first = next(iter(grids.values()))
    width, height = first.width + TITLE, first.height + TITLE
    across, down = min(len(grids), ACROSS), -(-len(grids) // ACROSS)
    sheet = Image.new(first.mode, (width * across - TITLE, height * down), "white")
    for i, (title, grid) in enumerate(grids.items()):
        left, top = i % ACROSS * width, i // ACROSS * height
        ImageDraw.Draw(sheet).text((left, top + 2), title, fill="black")
        sheet.paste(grid, (left, top + TITLE))
    return sheet


def grid_of(x: np.ndarray, columns: int) -> Image.Image:
    """Images in [-1, 1], row by row, with a white pixel between; small images enlarged."""
    n = len(x) // columns * columns or len(x)
    columns = min(columns, n)
    levels = pixels(x[:n])
    scale = -(-SMALLEST_SIDE // x.shape[1])
    levels = levels.repeat(scale, axis=1).repeat(scale, axis=2)
    levels = np.pad(levels, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=255)
    _, height, width, channels = levels.shape
    rows = levels.reshape(-1, columns, height, width, channels).swapaxes(1, 2)
    sheet = rows.reshape(-1, columns * width, channels)
    return Image.fromarray(sheet[..., 0] if channels == 1 else sheet)


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # a second, and only a process that draws needs it

    figure = Figure(figsize=(width, height))
    return figure, figure.add_subplot()


def _save(figure: Any, path: epath.Path) -> None:
    with path.open("wb") as file:
        figure.savefig(file, format="png", dpi=120, bbox_inches="tight")


def draw_ways(path: epath.Path, xs: np.ndarray) -> None:
    """Points in the plane: the ways of some of them, from black dots to blue ones."""
    figure, axes = _figure(5, 5)
    some = xs[:, :WAYS]
    axes.plot(some[..., 0], some[..., 1], color="0.75", linewidth=0.4, zorder=0)
    axes.scatter(*some[0].T, s=4, color="black")
    axes.scatter(*some[-1].T, s=4, color="tab:blue")
    axes.set_aspect("equal")
    _save(figure, path)


def draw_loss(path: epath.Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """The loss over steps."""
    figure, axes = _figure(6, 3.5)
    losses = [math.nan if line.get("loss") is None else line["loss"] for line in lines]
    axes.plot([line["step"] for line in lines], losses, linewidth=1)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.grid(alpha=0.3)
    _save(figure, path)


def draw_frontier(path: epath.Path, quality: str, points: Sequence[Any], best: Any) -> None:
    """Quality against calls of the network, a line a method and grid; the chosen one ringed."""
    figure, axes = _figure(6, 4)
    lines: dict[Any, list[Any]] = {}
    for point in points:
        if math.isfinite(point.quality):
            lines.setdefault((point.setting._replace(n=0)), []).append(point)
    scales = {line.guidance for line in lines}
    for line, found in lines.items():
        named = f"{line.method}, {line.grid}"
        named += f", guidance {line.guidance:g}" if len(scales) > 1 else ""
        found = sorted(found, key=lambda point: point.calls)
        axes.errorbar(
            [point.calls for point in found],
            [point.quality for point in found],
            np.nan_to_num([point.standard_error for point in found]),
            marker="o",
            markersize=3,
            capsize=2,
            label=named,
        )
    axes.plot(best.calls, best.quality, "o", markersize=11, fillstyle="none", color="black")
    axes.set(xscale="log", yscale="log", xlabel="calls of the network a sample", ylabel=quality)
    ticks = sorted({point.calls for point in points})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
    axes.set_xticks([], minor=True)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    _save(figure, path)

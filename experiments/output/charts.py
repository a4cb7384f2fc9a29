"""Curves of a report as SVG, without ground and in grey, to be read on light and dark."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.output.buckets import Bin, Estimate, Losses, Norms

__all__ = ["draw_bins", "draw_curves", "draw_norms"]

GREY = "#808080"
MUTED = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), GREY)


def draw_curves(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> bytes:
    """`name: (steps, values)`, a panel each, two beside each other."""
    across = min(2, len(curves))
    down = -(-len(curves) // across)
    panels, save = _panels(down, across)
    for (name, (steps, values)), axes in zip(curves.items(), panels, strict=False):
        axes.plot(steps, values, linewidth=1.2, marker="." if len(steps) < 2 else None)
        axes.set(title=name, xlabel="step")
        positive = [v for v in values if math.isfinite(v) and v > 0]
        if len(positive) == len(values) and max(positive) > 20 * min(positive):
            axes.set_yscale("log")
    for axes in panels[len(curves) :]:
        axes.set_axis_off()
    return save()


def draw_bins(losses: Losses) -> bytes:
    """The loss in bins of time, with standard errors; a Gaussian model's beside it."""
    (axes, *_), save = _panels(1, 1)
    _plot_bins(axes, losses.network, "the network", "o")
    if losses.gaussian is not None:
        _plot_bins(axes, losses.gaussian, "a Gaussian model", "s")
    axes.set(xlabel="t (0 noise, 1 data)", ylabel="loss")
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    axes.legend(frameon=False)
    return save()


def draw_norms(norms: Norms) -> bytes:
    """The root mean square by time, of samples and of the path of training."""
    (axes, *_), save = _panels(1, 1)
    for name, found, style in (("samples", norms.samples, "o"), ("the path", norms.path, "s")):
        _plot(axes, norms.t, found, name, style)
    axes.set(xlabel="t (0 noise, 1 data)", ylabel="root mean square of the state")
    axes.legend(frameon=False)
    return save()


def _plot_bins(axes: Any, bins: Sequence[Bin], name: str, marker: str) -> None:
    found = [b for b in bins if b.count]
    middles = [(b.low + b.high) / 2 for b in found]
    _plot(axes, middles, [Estimate(b.mean, b.standard_error) for b in found], name, marker)


def _plot(axes: Any, t: Sequence[float], of: Sequence[Estimate], name: str, marker: str) -> None:
    errors = [0.0 if math.isnan(e.standard_error) else e.standard_error for e in of]
    values = [e.mean for e in of]
    axes.errorbar(t, values, errors, marker=marker, markersize=3.5, capsize=2, label=name)


def _panels(down: int, across: int) -> tuple[list[Any], Any]:
    """Empty axes, and what gives the figure's SVG once they are filled."""
    from matplotlib import rc_context  # a second, and only a process that draws needs it
    from matplotlib.figure import Figure

    with rc_context({**MUTED, "axes.edgecolor": GREY, "font.size": 9}):
        figure = Figure(figsize=(4.4 * across, 2.8 * down), layout="constrained")
        panels = list(figure.subplots(down, across, squeeze=False).flat)
    for axes in panels:
        axes.grid(alpha=0.3)
        axes.patch.set_alpha(0)

    def save() -> bytes:
        file = io.BytesIO()
        with rc_context({**MUTED, "svg.hashsalt": "report"}):
            figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
        return file.getvalue()

    return panels, save

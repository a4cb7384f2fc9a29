"""Draw quality against cost for a trained run, and name the cheapest sampler that is good enough.

    python -m experiments.frontier --workdir=DIR [--methods=euler,heun,ab2] [--grids=uniform]
                                   [--calls=4,8,16,32,64] [--guidance=1] [--seeds=3] [--num=N]
                                   [--within=0.05]

A setting is a method, a grid, a number of calls of the velocity and a scale of guidance; each draws
`--num` samples for every seed. The table and the picture, DIR/frontier.json and DIR/frontier.png,
have means and standard errors over the seeds; the last line is ready to paste behind a command.
"""

import jax
from absl import flags
from etils import epath
from rich.table import Table

from experiments.output.frontier import Point, cheapest, measure, quality_of, settings
from experiments.output.generate import average
from experiments.output.pictures import draw_frontier
from experiments.run import command, workdir
from experiments.run.reporting import console, counting
from experiments.setup import build, dataset
from experiments.setup.check import check_parts
from experiments.setup.tokens import check_of_numbers

_CONFIG = command.config_of_run()
_WORKDIR = flags.DEFINE_string("workdir", None, "The folder of a trained run.")
_METHODS = flags.DEFINE_list("methods", ["euler", "heun", "ab2"], "Methods of fixed steps.")
_GRIDS = flags.DEFINE_list("grids", ["uniform"], "Grids of times.")
_CALLS = flags.DEFINE_list("calls", ["4", "8", "16", "32", "64"], "Calls of the velocity.")
_GUIDANCE = flags.DEFINE_list("guidance", ["1"], "Scales of guidance.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "How often samples are drawn.", lower_bound=1)
_NUM = flags.DEFINE_integer("num", 0, "Samples a seed; config.evaluation.num where 0.")
_WITHIN = flags.DEFINE_float("within", 0.05, "What is good enough, over the best.", lower_bound=0.0)


def main() -> None:
    """Measure, draw and name."""
    config, folder = _CONFIG.value, epath.Path(_WORKDIR.value)
    check_parts(config)
    check_of_numbers(config, "frontier")
    if jax.process_count() > 1:
        raise ValueError("the frontier is drawn by one process: start it on one machine")
    dataset.check_held_out(config)
    num = _NUM.value or config.evaluation.num
    calls, guidance = _numbers("calls", _CALLS.value, int), _numbers("guidance", _GUIDANCE.value)
    path = build.path(config)
    planned = list(settings(path, _METHODS.value, _GRIDS.value, [int(n) for n in calls], guidance))
    if not planned:
        raise ValueError(
            f"no method of --methods={','.join(_METHODS.value)} has steps that make up "
            f"--calls={','.join(_CALLS.value)}: a step of heun's takes 2 calls, of rk4's 4"
        )
    read = average(folder)
    name, quality = quality_of(config, num)
    points = []
    with counting("settings", len(planned)) as update:
        for i, setting in enumerate(planned):
            seeds = range(_SEEDS.value)
            points.append(
                measure(config, read.params, setting, quality, num=num, seeds=list(seeds))
            )
            update(i + 1)
    best = cheapest(points, _WITHIN.value)
    _print(name, points, best)
    found = {"quality": name, "num": num, "step": read.step, "points": [_row(p) for p in points]}
    workdir.write_json(folder / "frontier.json", found)
    draw_frontier(folder / "frontier.png", name, points, best)
    console.print(f"written to {folder / 'frontier.json'} and {folder / 'frontier.png'}")
    console.print(f"the cheapest within {_WITHIN.value:.0%} of the best:")
    console.print(best.setting.overrides, soft_wrap=True, highlight=False)


def _numbers(flag: str, given: list[str], kind: type = float) -> list[float]:
    try:
        found = [kind(each) for each in given]
    except ValueError:
        found = []
    if not found or (kind is int and min(found) < 1):
        raise ValueError(f"--{flag}={','.join(given)} must be numbers, as 4,8,16") from None
    return found


def _row(point: Point) -> dict[str, object]:
    rest = {name: value for name, value in point._asdict().items() if name != "setting"}
    return {**point.setting._asdict(), **rest}


def _print(name: str, points: list[Point], best: Point) -> None:
    shown = Table(title=f"{name}, the less the better")
    for column in ("method", "grid", "steps", "guidance", "calls", name, "standard error", ""):
        shown.add_column(column, justify="left" if column in ("method", "grid", "") else "right")
    for point in sorted(points, key=lambda p: (p.calls, p.quality)):
        method, grid, n, guidance = point.setting
        shown.add_row(
            method, grid, str(n), f"{guidance:g}", f"{point.calls:.0f}", f"{point.quality:.4g}",
            f"{point.standard_error:.2g}", "chosen" if point is best else "",
        )  # fmt: skip
    console.print(shown)


if __name__ == "__main__":
    command.run(main)

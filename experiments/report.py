"""Write one page of a run: curves, samples, its flow by time, figures, and what to try.

    python -m experiments.report --workdir=DIR [--output=DIR/report.html] [--num=2000]

The page is one file that needs no server and asks no other host. What `evaluate` and `frontier`
found is shown where it is there. `--num` draws of held-out data give the loss by time; ways of
samples are followed for 256 samples, or for `--num` where that is less. Tokens have no ways.
"""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from absl import flags
from etils import epath
from ml_collections import ConfigDict

from experiments.output import buckets
from experiments.output.found import Commands, Found
from experiments.output.frontier import Point, Setting
from experiments.output.generate import average
from experiments.output.report import chosen, document
from experiments.run import command, workdir
from experiments.run.reporting import console, counting
from experiments.setup import build, dataset
from experiments.setup.check import check_parts
from experiments.setup.components import component
from experiments.setup.learns import block_of, learns_tokens, learns_velocity
from jaxflow.types import Path

_CONFIG = command.config_of_run()
_WORKDIR = flags.DEFINE_string("workdir", None, "The folder of a trained run.")
_OUTPUT = flags.DEFINE_string("output", None, "The file to write; DIR/report.html where None.")
_NUM = flags.DEFINE_integer("num", 2000, "Draws of held-out data.", lower_bound=20)

CALLS = (4, 8, 16, 32, 64)


def main() -> None:
    """Read, measure, and write the page."""
    config, folder = _CONFIG.value, epath.Path(_WORKDIR.value)
    output = epath.Path(_OUTPUT.value or folder / "report.html")
    if output.suffix != ".html":
        raise ValueError(f"--output={output} must end in .html")
    check_parts(config)
    if jax.process_count() > 1:
        raise ValueError("the report is written by one process: start it on one machine")
    dataset.check_held_out(config)
    page = document(_found(config, folder, _NUM.value))
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(page)
    console.print(f"written to {output}, {len(page) / 1e6:.1f} MB: open it in a browser")


def _found(config: ConfigDict, folder: epath.Path, num: int) -> Found:
    own = _own(config)
    commands = _commands(folder, own, build.guidance_scale(config), build.path(config))
    lines = workdir.read_lines(folder / "metrics.jsonl")
    frontier = _json(folder / "frontier.json", commands.frontier)
    return Found(
        name=folder.name,
        config=json.loads(config.to_json()),
        commands=commands,
        lines=lines,
        learning_rate=_learning_rate(config, lines),
        pictures=_pictures(folder / "samples"),
        evaluation=_json(folder / "evaluation.json", commands.evaluate),
        frontier=frontier,
        points=_points(folder / "frontier.json", frontier, commands.frontier),
        frontier_picture=_bytes(folder / "frontier.png"),
        own=own,
        starts=_json(folder / "starts.json", commands.train),
        diagnosis=_json(folder / "diagnosis.json", commands.train),
        endless=dataset.is_distribution(config),
        of_tokens=learns_tokens(config),
        **_measured(config, folder, num),
    )


def _measured(config: ConfigDict, folder: epath.Path, num: int) -> dict[str, Any]:
    """What the newest parameters do; nothing where there are none yet."""
    names = ("losses", "norms", "straightness", "saturation")
    try:
        read = average(folder)
    except FileNotFoundError:
        return dict.fromkeys(("step", "parameters", *names))
    found: dict[str, Any] = {
        "step": read.step,
        "parameters": sum(a.size for a in jax.tree.leaves(read.params)),
    }
    few = min(num, buckets.SAMPLES)
    measures = {
        "losses": lambda: buckets.losses_by_time(config, read.params, num),
        "norms": lambda: buckets.norms_by_time(config, read.params, few),
        "straightness": lambda: buckets.straightness(config, read.params, few),
        "saturation": lambda: buckets.saturation(config, read.params, few),
    }
    known = _known(config, names)
    with counting("measuring", len(names)) as update:
        for done, (name, measure) in enumerate(measures.items()):
            found[name] = measure() if name in known else None
            update(done + 1)
    return found


def _known(config: ConfigDict, names: Sequence[str]) -> Sequence[str]:
    """What there is to measure of what the run learns."""
    if learns_tokens(config):
        apart = block_of(config) or config.loss.name == "discrete_consistency"
        return () if apart else ("losses",)
    return names if learns_velocity(config) else names[3:]


def _commands(folder: epath.Path, own: Setting | None, guidance: float, path: Path) -> Commands:
    def of(module: str, *rest: str) -> str:
        return " ".join(
            [
                "python",
                "-m",
                f"experiments.{module}",
                f"--workdir={shlex.quote(str(folder))}",
                *rest,
            ]
        )

    frontier = of("frontier")
    guided = of("frontier", f"--guidance=1,{guidance:g}")
    if own is None:
        return Commands(_train(of), of("evaluate"), frontier, frontier, guided)
    each = component(
        "sampler.method", {"name": own.method, "kwargs": {}}, table="method", path=path
    ).calls
    calls = ",".join(map(str, sorted({*CALLS, own.n * each, 2 * own.n * each})))
    scales = "1" if own.guidance == 1 else f"1,{own.guidance:g}"
    rest = (f"--methods={own.method}", f"--grids={own.grid}", f"--calls={calls}")
    return Commands(
        _train(of), of("evaluate"), frontier, of("frontier", *rest, f"--guidance={scales}"), guided
    )


def _train(of: Any) -> str:
    return of("train", "--config=configs/NAME.py")


def _own(config: ConfigDict) -> Setting | None:
    """The run's sampler as the frontier names it, where it can."""
    kwargs = config.sampler.kwargs.to_dict()
    grid, method = kwargs.get("grid"), kwargs.get("method", {"name": "heun", "kwargs": {}})
    if config.sampler.name != "fixed_step" or not isinstance(grid, Mapping):
        return None
    plainly = not isinstance(config.sampler.guidance, ConfigDict)
    if set(grid["kwargs"]) != {"n"} or method["kwargs"] or not plainly:
        return None
    return Setting(method["name"], grid["name"], grid["kwargs"]["n"], config.sampler.guidance)


def _learning_rate(config: ConfigDict, lines: list[dict[str, Any]]) -> list[float]:
    """The config's schedule at the steps of the log, which does not hold it."""
    rate = config.optimizer.kwargs.to_dict().get("learning_rate")
    if isinstance(rate, float | int):
        return [float(rate)] * len(lines)
    if rate is None:
        return []
    where = "optimizer.kwargs.learning_rate"
    schedule = component(where, rate, table="learning_rate", steps=config.steps)
    return [float(schedule(line["step"] - (line.get("skipped") or 0))) for line in lines]


def _pictures(folder: epath.Path) -> list[tuple[int, bytes]]:
    if not folder.exists():
        return []
    named = [(re.fullmatch(r"step_(\d+)\.png", file.name), file) for file in folder.iterdir()]
    found = sorted((int(match[1]), file) for match, file in named if match)
    return [(step, file.read_bytes()) for step, file in chosen(found)]


def _json(path: epath.Path, made_by: str) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text())
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise _damaged(path, made_by)
    return found


def _points(path: epath.Path, found: Mapping[str, Any] | None, made_by: str) -> list[Point]:
    try:
        return [
            Point(
                Setting(**{name: row[name] for name in Setting._fields}),
                *(float(row[name]) for name in Point._fields[1:]),
            )
            for row in (found or {}).get("points", ())
        ]
    except (KeyError, TypeError, ValueError):
        raise _damaged(path, made_by) from None


def _damaged(path: epath.Path, made_by: str) -> ValueError:
    return ValueError(f"{path} is damaged: delete it, or make it again with {made_by}")


def _bytes(path: epath.Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


if __name__ == "__main__":
    command.run(main)

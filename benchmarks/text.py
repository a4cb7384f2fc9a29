"""A run of text by the minute, and every sampler of it by the number of its calls.

    python -m benchmarks.text curve    --workdir=runs/text8 [--minutes 1 5 20 60]
    python -m benchmarks.text samplers --workdir=runs/text8 [--calls 8 16 32 64] [--num=400]

`curve` reads the checkpoints that a run has kept (`--config.checkpoint.keep_every=300`), those
nearest to so many minutes of training, and says of each the bound on held-out text, in bits a
character, and a sample. `samplers` draws from the last one, by every leap that its source allows:
the divergence of triples of letters from those of held-out text, in bits, and the share of words
that the training text has, with their standard errors over ten parts of the samples. A leap of two
calls a step takes half the steps.
"""

import argparse
import bisect
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from ml_collections import ConfigDict
from rich.console import Console

from benchmarks.report import markdown
from experiments.output import bounds, texts
from experiments.output.generate import generator
from experiments.run import workdir
from experiments.setup import dataset
from experiments.setup.snapshot import read_config
from experiments.setup.tokens import vocabulary_of
from jaxflow import metrics
from jaxflow.training.checkpoint import Checkpoints, read_params

PARTS = 10
ENTROPIES = (0.5, 1.0, 2.0, 4.0)


class Row(NamedTuple):
    """A sampler, by its section of a config."""

    title: str
    name: str
    kwargs: dict[str, Any]
    calls_a_step: int = 1


def _leap(title: str, name: str, calls: int = 1, **kwargs: Any) -> Row:
    return Row(title, "jumps", {"method": {"name": name, "kwargs": kwargs}}, calls)


EVERY = (
    _leap("Euler", "euler"),
    _leap("tau-leaping", "tau_leaping"),
    _leap("trapezoidal", "trapezoidal", 2),
    _leap("forth and back, churn 0.5", "forth_and_back", churn=0.5),
    _leap("forth and back, churn 2", "forth_and_back", churn=2.0),
    _leap("Euler, corrected", "corrected", 2, method={"name": "euler", "kwargs": {}}),
)
OF_OTHERS = (_leap("ancestral", "ancestral"),)
OF_MASKS = (
    _leap("remasking, eta 0.2", "remasking", eta=0.2),
    _leap("confident", "confident"),
    _leap("confident, doubt 1", "confident", doubt=1.0),
)


def curve(folder: epath.Path, minutes: Sequence[float]) -> None:
    """Print the bound and a sample at each of these minutes of training."""
    config = read_config(folder)
    lines = workdir.read_lines(folder / "metrics.jsonl")
    spent = [sum(v for k, v in line.items() if k.startswith("seconds/")) / 60 for line in lines]
    with Checkpoints(folder / "checkpoints") as checkpoints:
        kept = checkpoints.steps()
    at = {
        step: spent[min(bisect.bisect_left([line["step"] for line in lines], step), len(lines) - 1)]
        for step in kept
    }
    run, rows = generator(config, 1), []
    for step in sorted({min(kept, key=lambda s, m=m: abs(at[s] - m)) for m in minutes}):
        params = read_params(folder / "checkpoints", step=step).params
        found = bounds.bound(config, params)
        sample = texts.texts_of(config, run.rows(params, 0, 0, 1).x)[0]
        bits = (found["bits_per_character"], found["bits_per_token_standard_error"])
        rows.append((f"{at[step]:.1f}", str(step), "{:.3f} ± {:.3f}".format(*bits), f"`{sample}`"))
    _print(("minutes", "step", "bits a character", "a sample"), rows)


def samplers(folder: epath.Path, calls: Sequence[int], num: int) -> None:
    """Print the table of samplers, by their calls of the network."""
    config = read_config(folder)
    params = read_params(folder / "checkpoints").params
    train = dataset.examples(config, config.data.source.kwargs.split)["x1"].ravel()
    known = metrics.words_of(vocabulary_of(config).decode(train))
    held = dataset.examples(config, config.evaluation.split)["x1"]
    size = config.network.kwargs.vocabulary

    def told(x: np.ndarray) -> tuple[str, str]:
        parts = np.array_split(x, PARTS)
        apart = [metrics.ngram_kl(part, held, 3, vocabulary=size) for part in parts]
        right = [metrics.spelling_rate(texts.texts_of(config, part), known) for part in parts]
        whole = metrics.ngram_kl(x, held, 3, vocabulary=size)
        return f"{whole:.3f} ± {_error(apart):.3f}", f"{np.mean(right):.3f} ± {_error(right):.3f}"

    rows = []
    for title, section in _sections(config, calls):
        own = config.copy_and_resolve_references()
        own.sampler.name, own.sampler.kwargs = section["name"], ConfigDict(section["kwargs"])
        found = generator(own, num).rows(params, 0, 0, num)
        rows.append((title, f"{found.nfe.mean():.1f}", *told(found.x)))
    rows.append(("held-out text", "", *told(held[-num:])))
    _print(("sampler", "calls", "triples, bits", "spelled"), rows)


def _sections(config: ConfigDict, calls: Sequence[int]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The samplers' sections: those of grids, and of masks those without one."""
    if config.sampler.name not in ("jumps", "first_hitting", "entropy_bounded"):
        raise ValueError(
            f"config.sampler.name is {config.sampler.name!r}: what is compared here are leaps of "
            "whole sequences of tokens, those of 'jumps'"
        )
    held = config.path.name != "gidd"  # whose rates may be held over a step
    masks = held and config.source.name == "mask"
    for row in (*(EVERY if held else ()), *(OF_MASKS if masks else OF_OTHERS)):
        for n in calls:
            grid = {"name": "uniform", "kwargs": {"n": (n - 1) // row.calls_a_step + 1}}
            yield row.title, {"name": row.name, "kwargs": {"grid": grid, **row.kwargs}}
    if masks:
        yield "first hitting", {"name": "first_hitting", "kwargs": {}}
        for bound in ENTROPIES:
            section = {"name": "entropy_bounded", "kwargs": {"bound": bound}}
            yield f"entropy-bounded, {bound:g} nats", section


def _error(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1) / len(values) ** 0.5)


def _print(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    Console(width=200).print(markdown(header, rows), markup=False, highlight=False)


def main(argv: Sequence[str] | None = None) -> None:
    """Print one of the two tables."""
    parser = argparse.ArgumentParser("python -m benchmarks.text", description=__doc__)
    parser.add_argument("table", choices=("curve", "samplers"))
    parser.add_argument("--workdir", required=True, type=epath.Path)
    parser.add_argument("--minutes", type=float, nargs="+", default=(1, 5, 20, 60))
    parser.add_argument("--calls", type=int, nargs="+", default=(8, 16, 32, 64))
    parser.add_argument("--num", type=int, default=400)
    options = parser.parse_args(argv)
    if options.table == "curve":
        curve(options.workdir, options.minutes)
    else:
        samplers(options.workdir, options.calls, options.num)


if __name__ == "__main__":
    main()

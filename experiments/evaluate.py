"""Compare samples of a trained run with held-out data, and with two baselines.

    python -m experiments.evaluate --workdir=DIR [--seed=0] [--config.evaluation.num=N ...]
                                   [--reference=MODULE:FUNCTION]

`figures` says what is compared with what, `texts` of tokens, where a reference gives the perplexity
of samples: `MODULE:FUNCTION`, as `metrics.perplexity` takes one. All goes to `DIR/evaluation.json`.
"""

from collections.abc import Mapping
from typing import Any

import jax
from absl import flags
from etils import epath
from ml_collections import ConfigDict
from rich.table import Table

from experiments.output import bounds, figures, texts
from experiments.output.figures import LIKELIHOODS_IN, Row
from experiments.output.generate import average, generator, spread
from experiments.run import command, workdir
from experiments.run.reporting import console, counting
from experiments.setup import build, dataset
from experiments.setup.check import check_parts
from experiments.setup.learns import learns_tokens
from experiments.setup.tokens import vocabulary_of
from jaxflow.training import processes

_CONFIG = command.config_of_run()
_WORKDIR = flags.DEFINE_string("workdir", None, "The folder of a trained run.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the samples.")
_REFERENCE = flags.DEFINE_string("reference", None, "MODULE:FUNCTION, of a text's perplexity.")


def main() -> None:
    """Evaluate, print the table, and write it down."""
    config, folder = _CONFIG.value, epath.Path(_WORKDIR.value)
    check_parts(config)
    if config.evaluation.num < 4:
        raise ValueError(f"config.evaluation.num must be at least 4; it is {config.evaluation.num}")
    dataset.check_held_out(config)
    judged = {} if _REFERENCE.value is None else {"reference": _reference_for(config)}
    run = generator(config, config.evaluation.num)
    read = average(folder)
    mine = -(-config.evaluation.num // jax.process_count())
    with counting("sampling", mine) as update:
        samples = spread(run, read.params, _SEED.value, config.evaluation.num, update)
    if not processes.is_first():
        return
    of_tokens = learns_tokens(config)
    rows = (texts if texts.is_tokens(samples.x) else figures).compare(config, samples, **judged)
    cost = {
        "nfe": float(samples.nfe.mean()),
        "network_calls": float(samples.nfe.mean() * samples.evaluations),
        "failed": int((~samples.success).sum()),
    }
    bits = (bounds.bound if of_tokens else figures.likelihood)(config, read.params)
    _print(rows, {**cost, **bits})
    computed = {
        "samples": build.precision(config),
        **({"log_prob": LIKELIHOODS_IN} if bits and not of_tokens else {}),
    }
    console.print("computed in  " + "  ".join(f"{k}: {v}" for k, v in computed.items()))
    found = {"step": read.step, "seed": _SEED.value, "rows": rows, **cost, **bits}
    found["precision"] = computed
    workdir.write_json(folder / "evaluation.json", found)
    console.print(f"written to {folder / 'evaluation.json'}")


def _reference_for(config: ConfigDict) -> Any:
    """The reference that the flag names, for a run of text.

    Raises:
        ValueError: for another run, or a name of nothing.
    """
    if vocabulary_of(config) is None:
        raise ValueError("--reference judges texts, and the data of this run is none")
    return texts.reference_of(_REFERENCE.value)


def _print(rows: Mapping[str, Row], rest: Mapping[str, Any]) -> None:
    columns = list(next(iter(rows.values())))
    shown = Table(title="against held-out data")
    shown.add_column("")
    for column in columns:
        shown.add_column(column, justify="right")
    for name, row in rows.items():
        shown.add_row(name, *(f"{row[c]:.4g}" if c in row else "" for c in columns))
    console.print(shown)
    console.print("  ".join(f"{name} {value:,.4g}" for name, value in rest.items()))


if __name__ == "__main__":
    command.run(main)

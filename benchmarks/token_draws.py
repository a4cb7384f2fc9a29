"""What a draw of tokens costs beside JAX's own, and what a sampler of tokens holds.

    python -m benchmarks.token_draws [--batch=8] [--length=1024] [--vocabulary=50257] [--rounds=3]

Memory is the compiler's count of what a program holds beside its arguments, over one array of
logits in float32. The draw is timed beside `jax.random.categorical`, one after the other, on an
eighth of the length; the network is a product of a table with itself, so that what is held is the
sampler's.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from jaxflow import paths, sampling, sources, tokens
from jaxflow.sampling import leaps
from jaxflow.types import Array

LEAPS = {
    "euler": leaps.euler(),
    "ancestral": leaps.ancestral(),
    "tau_leaping": leaps.tau_leaping(),
    "forth_and_back": leaps.forth_and_back(0.5),
    "remasking": leaps.remasking(0.5),
    "confident": leaps.confident(),
    "trapezoidal": leaps.trapezoidal(),
}
WIDTH = 16


def held(batch: int, length: int, vocabulary: int) -> dict[str, float]:
    """What each sampler holds, over one array of logits."""
    masked = paths.mixture(source=sources.mask(vocabulary))
    even = paths.mixture(source=sources.uniform_tokens(vocabulary))
    one = 4 * batch * length * vocabulary
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), batch))
    x0 = jax.ShapeDtypeStruct((batch, length), jnp.int32)
    table = jax.ShapeDtypeStruct((vocabulary + 1, WIDTH), jnp.float32)
    grid = [0.0, 0.4, 0.8, 1.0]

    def size_of(sample: Callable[..., Any], path: Any = masked) -> float:
        def run(table: Array, keys: Any, x0: Array) -> Array:
            return sample(lambda t, x: table[x] @ table[:-1].T, x0, keys=keys, path=path).x

        compiled = jax.jit(run).lower(table, keys, x0).compile()
        analysis: Any = compiled.memory_analysis()
        return analysis.temp_size_in_bytes / one

    def by(method: Any) -> Callable[..., Any]:
        return lambda logits, x0, **kwargs: sampling.jumps(
            logits, x0, grid, method=method, **kwargs
        )

    found = {name: size_of(by(method)) for name, method in LEAPS.items()}
    found["first_hitting"] = size_of(sampling.first_hitting)
    for name in ("euler", "ancestral", "tau_leaping", "forth_and_back", "trapezoidal"):
        found[f"{name}, an even source"] = size_of(by(LEAPS[name]), even)
    return found


def seconds(batch: int, length: int, vocabulary: int, rounds: int) -> dict[str, list[float]]:
    """Of a draw, round by round, in alternation."""
    keys = jax.random.split(jax.random.key(0), batch)
    logits = jax.random.normal(jax.random.key(1), (batch, length, vocabulary))
    runs = {
        "tokens.drawn": jax.jit(tokens.drawn),
        "jax.random.categorical": jax.jit(jax.vmap(jax.random.categorical)),
    }
    spent: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            jax.block_until_ready(run(keys, logits))
            if i:
                spent[name].append(time.perf_counter() - start)
    return spent


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser("python -m benchmarks.token_draws", description=__doc__)
    for name, value in {"batch": 8, "length": 1024, "vocabulary": 50_257, "rounds": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args(argv)
    table = Table(title=f"held beside the arguments, batch {given.batch}, length {given.length}")
    table.add_column("sampler")
    table.add_column("arrays of logits", justify="right")
    for name, share in held(given.batch, given.length, given.vocabulary).items():
        table.add_row(name, f"{share:.2f}")
    Console().print(table)
    spent = seconds(given.batch, max(1, given.length // 8), given.vocabulary, given.rounds)
    ours, theirs = (np.asarray(values) for values in spent.values())
    for name, values in spent.items():
        print(f"{name}: {np.median(values):.3f} s")
    print(f"ratio: {np.median(theirs / ours):.1f}")


if __name__ == "__main__":
    sys.exit(main())

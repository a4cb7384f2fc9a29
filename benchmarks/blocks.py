"""Block by block with keys and values kept, beside the same network called anew for each block.

    python -m benchmarks.blocks [--length=256] [--block=16] [--steps=4] [--batch=8] [--rounds=3]

Both draw the same tokens, which is checked; seconds are those of whole batches, in alternation.
"""

import argparse
import statistics
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow import networks, paths, sampling, sources, velocities

VOCABULARY = 256


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser("python -m benchmarks.blocks", description=__doc__)
    sizes = {"length": 256, "block": 16, "steps": 4, "batch": 8, "rounds": 3, "width": 256}
    for name, value in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args(argv)
    module = networks.BlockTransformer(VOCABULARY, given.block, width=given.width)
    network, path = networks.linen(module), paths.mixture(source=sources.mask(VOCABULARY))
    x = jnp.zeros((1, given.block), int)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda a: a + 0.05 * rng.standard_normal(a.shape, np.float32),
        network.init(jax.random.key(0), jnp.zeros(1), x, clean=x),
    )
    kept = velocities.from_network(network, params)
    contenders = {"kept": kept, "anew": jax.tree_util.Partial(_told, kept)}
    keys = jax.random.split(jax.random.key(1), given.batch)
    x0 = path.source.sample(keys, (given.length,))
    grid = sampling.grids.uniform(given.steps)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    found = {}
    for i in range(given.rounds + 1):
        for name, logits in contenders.items():
            start = time.perf_counter()
            solution = sampling.by_block(logits, x0, grid, keys=keys, path=path, block=given.block)
            found[name] = np.asarray(solution.x)
            if i:
                seconds[name].append(time.perf_counter() - start)
    alike = np.mean(found["kept"] == found["anew"])
    for name, spent in seconds.items():
        print(
            f"{name}: {statistics.median(spent):.2f} s for {given.batch} of {given.length} tokens"
        )
    ratios = [b / a for a, b in zip(seconds["kept"], seconds["anew"], strict=True)]
    print(f"ratio: {statistics.median(ratios):.1f}; tokens alike: {alike:.4f}")


def _told(velocity, t, x, clean):  # type: ignore[no-untyped-def]
    return velocity(t, x, clean=clean)


if __name__ == "__main__":
    main()

"""What the training loop adds to the steps: the loop of `experiments.train` beside bare calls.

    python -m benchmarks.loop [--rounds=7]

The model is that of `configs/two_moons.py`, small enough that the loop shows. One step a call is
held against the same compiled step called in a bare loop; a hundred steps a call against one
`lax.scan` over all of them. Both sides alternate in one process, and the ratio is the median over
the rounds of bare time by loop time (1 means that the loop costs nothing).
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable

import jax
from etils import epath
from ml_collections import ConfigDict

from configs import two_moons
from experiments.run import loop, reporting, workdir
from experiments.setup import build, dataset

STEPS = 5_000


def config_of(steps_per_call: int) -> ConfigDict:
    """Log lines as usual; nothing saved or drawn before the end."""
    config = two_moons.get_config()
    config.steps = STEPS
    config.parallel.steps_per_call = steps_per_call
    config.checkpoint.every = STEPS
    config.log.update({"every": STEPS // 10, "pictures_every": STEPS})
    return config


def by_loop(config: ConfigDict) -> float:
    """Seconds a step of the loop after its first call, the log included."""
    with tempfile.TemporaryDirectory() as folder:
        place = epath.Path(folder)
        workdir.create(place, config)
        seconds = loop.train(config, place).seconds
    calls = STEPS // config.parallel.steps_per_call
    return (seconds["steps"] + seconds["data"]) / (STEPS * (1 - 1 / calls))


def bare(config: ConfigDict, stride: int) -> Callable[[], float]:
    """Seconds a step of compiled calls of `stride` steps, one after another."""
    compiled = build.program(config)
    stream = jax.device_put(dataset.batches(config, 0), compiled.layout.whole)

    def run() -> float:
        state = build.initial_state(config, compiled)
        state, _ = compiled.steps(state, stream, stride)
        jax.block_until_ready(state)
        began = time.perf_counter()
        for _ in range(STEPS // stride):
            state, _ = compiled.steps(state, stream, stride)
        jax.block_until_ready(state)
        return (time.perf_counter() - began) / STEPS

    run()
    return run


def main() -> None:
    """Measure, and print one line a case."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    reporting.console.quiet = True
    for name, per_call, stride in [
        ("one step a call beside a bare loop", 1, 1),
        ("a hundred steps a call beside one lax.scan", 100, STEPS),
    ]:
        config = config_of(per_call)
        alone = bare(config, stride)
        pairs = [(by_loop(config), alone()) for _ in range(rounds)]
        ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
        ratio = statistics.median(b / a for a, b in pairs)
        print(f"{name}: {1e6 * ours:.0f} us, {1e6 * theirs:.0f} us a step, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()

"""One of several processes that take gradients, or keep a state, together; run by test_processes.

python -m tests.processes.worker --layout=NAME --output=FILE.npz --coordinator=...
python -m tests.processes.worker --checkpoints=FOLDER --coordinator=...
"""

import argparse
import importlib
from typing import Any

import jax
import numpy as np

from jaxflow.training import processes
from jaxflow.training.checkpoint import Checkpoints


def gradient(cases: Any, name: str, dtype: str) -> dict[str, np.ndarray]:
    """Of one step on rows that each process brings its own part of."""
    over = cases.laid(name, jax.device_count())
    run = cases.compiled(over)
    index, count = over.share
    rows = slice(index * 16 // count, (index + 1) * 16 // count)
    batch = jax.tree.map(lambda a: np.asarray(a)[rows], cases.batch(dtype))
    state = run.init(cases.parameters(dtype), jax.random.key(5))
    state, metrics = run.step(state, run.place(batch))
    found = processes.local((state.opt_state[0].mu, metrics["loss"]), over.whole)
    paths = jax.tree_util.tree_flatten_with_path(found)[0]
    return {jax.tree_util.keystr(p, simple=True, separator="/"): np.asarray(a) for p, a in paths}


FROZEN = {"kernel": np.arange(32 * 64, dtype=np.float32).reshape(32, 64)}


def keep(cases: Any, folder: str) -> None:
    """Save two steps with what is frozen, each process its part, and read the last one back."""
    over = cases.laid("fsdp", jax.device_count())
    run = cases.compiled(over)
    state = run.init(cases.parameters("float32"), jax.random.key(5), FROZEN)
    index, count = over.share
    rows = slice(index * 16 // count, (index + 1) * 16 // count)
    batch = jax.tree.map(lambda a: np.asarray(a)[rows], cases.batch("float32"))
    with Checkpoints(folder) as kept:
        for _ in range(2):
            state, _ = run.step(state, run.place(batch))
            kept.save(state)
    with Checkpoints(folder) as kept:
        restored = kept.restore(over.like(state))
    found = processes.local(restored.state.frozen, over.whole)
    np.testing.assert_array_equal(found["kernel"], FROZEN["kernel"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--layout")
    parser.add_argument("--output")
    parser.add_argument("--checkpoints")
    parser.add_argument("--coordinator")
    parser.add_argument("--num_processes", type=int)
    parser.add_argument("--process_id", type=int)
    given = parser.parse_args()
    processes.connect(given.coordinator, given.num_processes, given.process_id)
    # Not before: it builds paths whose ends are sought, and that touches a device.
    cases = importlib.import_module("tests.training.test_layouts")
    if given.checkpoints:
        keep(cases, given.checkpoints)
        return
    found = {}
    for name in given.layout.split(","):
        for dtype in ("float32", "float64"):
            with jax.enable_x64(dtype == "float64"):
                got = gradient(cases, name, dtype)
            found |= {f"{name}|{dtype}|{path}": a for path, a in got.items()}
    if processes.is_first():
        np.savez(given.output, **found)


if __name__ == "__main__":
    main()

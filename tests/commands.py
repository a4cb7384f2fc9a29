"""The project's commands as processes: one or several, watched, signalled and ended."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

ROOT = Path(__file__).parents[1]
DIGITS = (
    "--config=configs/digits.py",
    "--config.batch_size=16",
    "--config.network.kwargs.width=16",
    "--config.network.kwargs.depth=1",
    "--config.data.on_device=False",
    "--config.parallel.steps_per_call=1",
    "--config.optimizer.kwargs={'learning_rate': {'name': 'constant', 'kwargs': {'peak': 0.01}}}",
    "--config.sampler.kwargs.grid.kwargs.n=2",
    "--config.log.pictures_every=100000",
    "--config.evaluation.num=40",
    "--config.evaluation.likelihoods=0",
)


def environment(**more: str | None) -> dict[str, str]:
    """That of a child: CPU, one device unless said otherwise, and the tests' compiled programs.

    A variable that is None is left out. Programs of several devices are not to be loaded again:
    see `experiments.run.compiled`.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("XLA_", "JAX_"))}
    several = more.get("JAX_NUM_CPU_DEVICES", "1") != "1"
    ours = {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "1",
        "JAX_COMPILATION_CACHE_DIR": None if several else jax.config.jax_compilation_cache_dir,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.05",
    }
    return kept | {k: v for k, v in (ours | more).items() if v is not None}


class Child:
    """A running command, its output in files beside `folder`."""

    def __init__(self, arguments: Sequence[str], log: Path, **env: str | None):
        self.log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=ROOT,
                env=environment(**env),
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def wait(self, seconds: float = 120) -> int:
        return self.process.wait(seconds)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def running(self) -> bool:
        return self.process.poll() is None

    def failed(self) -> bool:
        return self.process.poll() not in (None, 0)

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait(30)


@contextlib.contextmanager
def started(module: str, *arguments: str, log: Path, **env: str | None) -> Iterator[Child]:
    """`python -m MODULE ARGUMENTS`, which does not outlive the block."""
    child = Child(["-m", module, *arguments], log, **env)
    try:
        yield child
    finally:
        child.kill()


@contextlib.contextmanager
def several(
    n: int,
    module: str,
    *arguments: str,
    log: Path,
    devices: int = 2,
    apart: Sequence[str] = (),
    **env: str | None,
) -> Iterator[list[Child]]:
    """The same command as `n` processes that find each other; `apart` is a flag more for each."""
    port = free_port()
    children = []
    try:
        for i in range(n):
            joined = (
                f"--coordinator=127.0.0.1:{port}",
                f"--num_processes={n}",
                f"--process_id={i}",
                *apart[i : i + 1],
            )
            children.append(
                Child(
                    ["-m", module, *arguments, *joined],
                    log.with_name(f"{log.name}.{i}"),
                    **{"JAX_NUM_CPU_DEVICES": str(devices), **env},
                )
            )
        yield children
    finally:
        for child in children:
            child.kill()


def finish(module: str, *arguments: str, log: Path, n: int = 1, **env: Any) -> str:
    """Run a command to its good end; its output (of the first process)."""
    if n == 1:
        with started(module, *arguments, log=log, **env) as child:
            code = child.wait(280)
            assert code == 0, child.output()
            return child.output()
    with several(n, module, *arguments, log=log, **env) as children:
        end = time.monotonic() + 280
        while any(child.running() for child in children) and time.monotonic() < end:
            # One that failed leaves the others waiting for it.
            assert not any(child.failed() for child in children), outputs(children)
            time.sleep(0.1)
        assert all(child.process.poll() == 0 for child in children), outputs(children)
        return children[0].output()


def outputs(children: Sequence[Child]) -> str:
    return "\n".join(f"[{i}] {child.output()}" for i, child in enumerate(children))


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def until(condition: Callable[[], bool], child: Child, seconds: float = 120) -> None:
    """Wait for something that a running command does."""
    end = time.monotonic() + seconds
    while not condition():
        assert child.running(), child.output()
        assert time.monotonic() < end, child.output()
        time.sleep(0.01)


def steps_saved(folder: Path) -> list[int]:
    return sorted(int(p.name) for p in folder.glob("checkpoints/*") if p.name.isdecimal())


def lines(folder: Path) -> list[dict[str, Any]]:
    """The log, without what differs between any two runs."""
    file = folder / "metrics.jsonl"
    text = file.read_text().splitlines() if file.exists() else []
    found = [json.loads(line) for line in text]
    return [{k: v for k, v in line.items() if "second" not in k} for line in found]


def state_of(folder: Path, step: int) -> dict[str, np.ndarray]:
    """Every array of a checkpoint by its path, as Orbax reads it, with no part of ours."""
    import orbax.checkpoint as ocp

    handler = ocp.StandardCheckpointer()
    path = folder.absolute() / "checkpoints" / str(step) / "state"
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    described: Any = handler.metadata(path).item_metadata
    like = jax.tree.map(
        lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype, sharding=place), described.tree
    )
    read = handler.restore(path, like)
    return arrays_of(read)


def arrays_of(tree: Any) -> dict[str, np.ndarray]:
    """The leaves by their paths, keys by their data."""

    def plain(leaf: Any) -> np.ndarray:
        is_key = jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf)

    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(p, simple=True, separator="/"): plain(a) for p, a in leaves}


def assert_same_run(a: Path, b: Path, step: int) -> None:
    """Bitwise: parameters, average, optimiser, counters and metrics."""
    left, right = state_of(a, step), state_of(b, step)
    assert left.keys() == right.keys()
    for name, array in left.items():
        np.testing.assert_array_equal(array, right[name], err_msg=name)
    assert lines(a) == lines(b)

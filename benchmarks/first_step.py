"""How long a run takes to its first step: without compiled programs, and with those of another run.

    python -m benchmarks.first_step [--config=configs/fashion_mnist.py] [--set a.b=value ...]

`python -m experiments.train` is run twice, each time in a new folder, with one folder for compiled
programs that is empty at first. One step is taken, on one CPU device or on any others there are
(of several CPU devices in one process no programs are kept).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["first_step", "main"]

ROOT = Path(__file__).parents[1]
ONE_STEP = ("steps=1", "log.every=1", "checkpoint.every=1", "log.pictures_every=1")


def first_step(
    config: str, settings: Sequence[str], folder: Path, cache: Path
) -> Mapping[str, float]:
    """Seconds from the command to the first line of its log, by what they went to, and to its end.

    Args:
        config: the config file.
        settings: of keys of the config, as `a.b=value`.
        folder: a new folder for the run.
        cache: the folder that holds the folder of compiled programs.

    Raises:
        RuntimeError: with what the run said, where it failed.
    """
    given = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    command = [
        *(sys.executable, "-m", "experiments.train", f"--config={config}", f"--workdir={folder}"),
        *(f"--config.{setting}" for setting in (*ONE_STEP, *settings)),
    ]
    began = time.time()
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**given, "XDG_CACHE_HOME": str(cache), "JAX_NUM_CPU_DEVICES": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    ended = time.time()
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    log = folder / "metrics.jsonl"
    line = json.loads(log.read_text().splitlines()[0])
    whole = log.stat().st_mtime - began
    start, compiling = line["seconds/start"], line["seconds/compile"]
    return {
        "first step": whole,
        "imports": whole - start - compiling,
        "start": start,
        "compile": compiling,
        "end": ended - began,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and print a line for each run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--config", default="configs/fashion_mnist.py")
    parser.add_argument("--set", nargs="+", default=[], metavar="a.b=value")
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        cold, warm = (
            first_step(given.config, given.set, folder / name, folder / "cache")
            for name in ("cold", "warm")
        )
    for name, seconds in (("without compiled programs", cold), ("with them", warm)):
        print(
            f"{name}: first step after {seconds['first step']:.1f} s (imports and flags "
            f"{seconds['imports']:.1f}, parameters and data {seconds['start']:.1f}, tracing, "
            f"compiling or loading, and the step {seconds['compile']:.1f}); saved and drawn after "
            f"{seconds['end']:.1f} s"
        )
    print(f"ratio to the first step: {warm['first step'] / cold['first step']:.2f}")


if __name__ == "__main__":
    main()

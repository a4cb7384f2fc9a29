"""Compiled programs, kept in one folder for all runs, so that the next one begins sooner.

| a run | keeps them in |
|---|---|
| of one process | `$XDG_CACHE_HOME/jaxflow/compiled`, by default `~/.cache/jaxflow/compiled` |
| of several, or at `gs://` | `.compiled` beside its own folder, which all of its machines see |

JAX drops those that were not used for longest where they would take more than `BYTES`, under a lock
that runs share. A bucket has no such lock, so what is kept there is not bounded: let the bucket
delete objects by age. Of several processes the first alone writes.
"""

import os
from pathlib import Path

import filelock
import jax
from etils import epath

from experiments.run.reporting import console

__all__ = ["BYTES", "folder_for", "keep_compiled"]

BYTES = 2 * 2**30
SECONDS = 0.1  # each one kept is looked at whenever another is added, so not the smallest
LOCK = ".lockfile"  # as JAX calls it


def folder_for(workdir: str) -> epath.Path:
    """Where the programs of a run are kept."""
    if "://" in workdir or jax.process_count() > 1:
        return epath.Path(workdir).parent / ".compiled"
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return epath.Path(base).expanduser() / "jaxflow" / "compiled"


def keep_compiled(workdir: str) -> None:
    """Keep the programs of a run, where JAX was told no other folder.

    Not those of several CPU devices in one process, which hang when they are loaded again: each
    device may take a program's collectives in another order (seen with jax 0.10).
    """
    if jax.default_backend() == "cpu" and jax.local_device_count() > 1:
        jax.config.update("jax_enable_compilation_cache", False)
        return
    told = jax.config.jax_compilation_cache_dir is not None
    if told or not jax.config.jax_enable_compilation_cache:
        return
    folder = folder_for(workdir)
    bounded = "://" not in str(folder)
    if bounded:
        try:
            _tidy(Path(folder))
        except (OSError, NotImplementedError) as error:
            console.print(f"compiled programs are not kept, since {folder} cannot be had: {error}")
            return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", BYTES if bounded else -1)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", SECONDS)


def _tidy(folder: Path) -> None:
    """Remove what a process that was killed left half written: a program without its time.

    With one such file JAX keeps nothing more, as it cannot tell when that was used.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder / LOCK, timeout=10):
        for program in folder.glob("*-cache"):
            if not program.with_name(program.name.removesuffix("-cache") + "-atime").exists():
                program.unlink()

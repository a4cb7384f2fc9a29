"""Compiled programs are kept in one bounded folder, by several processes at once."""

import subprocess
import sys
from pathlib import Path

import jax
import pytest

from experiments.run import compiled
from tests.commands import ROOT, environment

KEEP = """
import sys
import jax, jax.numpy as jnp
from jax import monitoring
from experiments.run import compiled
compiled.BYTES, compiled.SECONDS = int(sys.argv[1]), 0.0
compiled.keep_compiled("run")
hits = []
monitoring.register_event_listener(lambda name, **kwargs: hits.append(name))
for i in range(int(sys.argv[2]), int(sys.argv[3])):
    jax.jit(lambda x: jnp.sin(x) * i + jnp.cos(x))(jnp.ones(8)).block_until_ready()
print("hits", hits.count("/jax/compilation_cache/cache_hits"))
"""


def start(cache: Path, most: int, first: int, stop: int, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error::UserWarning", "-c", KEEP, str(most), str(first), str(stop)],
        cwd=ROOT,
        env=environment(XDG_CACHE_HOME=str(cache), JAX_COMPILATION_CACHE_DIR=None, **env),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def hits(process: subprocess.Popen[str]) -> int:
    said, error = process.communicate(timeout=100)
    assert process.returncode == 0, error
    return int(said.split()[-1])


def kept(cache: Path) -> list[Path]:
    return sorted((cache / "jaxflow" / "compiled").glob("*-cache"))


def test_processes_share_a_folder_that_is_bounded(tmp_path: Path) -> None:
    """Three at once leave no more than the bound; what is kept is loaded by the next."""
    bound = 40_000
    first = [start(tmp_path, bound, 0, 30) for _ in range(3)]
    for process in first:
        hits(process)
    assert sum(p.stat().st_size for p in kept(tmp_path)) <= bound
    assert len(kept(tmp_path)) > 4
    assert hits(start(tmp_path, bound, 29, 30)) > 0
    assert hits(start(tmp_path, bound, 0, 1)) < hits(start(tmp_path, bound, 0, 1))


def test_a_program_that_a_kill_has_torn_is_removed(tmp_path: Path) -> None:
    hits(start(tmp_path, 10**6, 0, 1))
    before = kept(tmp_path)
    for program in before:
        program.write_bytes(program.read_bytes()[:100])
        program.with_name(program.name.replace("-cache", "-atime")).unlink()
    assert hits(start(tmp_path, 10**6, 0, 1)) == 0
    assert kept(tmp_path) == before
    assert hits(start(tmp_path, 10**6, 0, 1)) == len(before)


def test_several_devices_keep_nothing(tmp_path: Path) -> None:
    hits(start(tmp_path, 10**6, 0, 1, JAX_NUM_CPU_DEVICES="2"))
    assert not kept(tmp_path)


def test_where_they_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    own = str(tmp_path / "jaxflow" / "compiled")
    assert str(compiled.folder_for("runs/a")) == own
    assert str(compiled.folder_for("gs://bucket/runs/a")) == "gs://bucket/runs/.compiled"
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert str(compiled.folder_for("/shared/runs/a")) == "/shared/runs/.compiled"
    monkeypatch.undo()
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert str(compiled.folder_for("runs/a")) == str(Path.home() / ".cache/jaxflow/compiled")


def test_a_folder_that_cannot_be_had_costs_the_programs_alone(tmp_path: Path) -> None:
    (tmp_path / "jaxflow").touch()
    process = start(tmp_path, 10**6, 0, 1)
    said, _ = process.communicate(timeout=100)
    assert "compiled programs are not kept" in said
    assert process.returncode == 0

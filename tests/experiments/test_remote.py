"""A run's folder in an object store, with a file system in memory in its place."""

from typing import Any

import fsspec
import jax
import numpy as np
import pytest
from etils import epath
from fsspec.implementations.memory import MemoryFileSystem
from jax.experimental.compilation_cache import compilation_cache
from ml_collections import ConfigDict

from experiments.output.pictures import draw_loss, draw_samples
from experiments.output.shards import Shards, joined
from experiments.run import workdir
from jaxflow.data import datasets


class Bucket(MemoryFileSystem):
    """Answers to gs://."""

    protocol = ("gs", "gcs")
    store: dict = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012

    def glob(self, path: str, **kwargs: Any) -> list[str]:
        """Paths that begin with the bucket, as those of gcsfs do."""
        return [found.split("gs:/")[-1].lstrip("/") for found in super().glob(path, **kwargs)]


@pytest.fixture
def remote() -> epath.Path:
    Bucket.store.clear()
    Bucket.pseudo_dirs[:] = [""]
    for name in ("gs", "gcs"):
        fsspec.register_implementation(name, Bucket, clobber=True)
    return epath.Path("gs://bucket/run")


def test_data_sets_are_found_there(remote: epath.Path) -> None:
    for version in ("1.0.0", "1.10.0", "1.9.0"):
        (remote / "pets" / version).mkdir(parents=True)
        (remote / "pets" / version / "dataset_info.json").write_text("{}")
    for name, data_dir in [("pets", str(remote)), (str(remote / "pets" / "1.10.0"), None)]:
        assert str(datasets._directory(name, data_dir)) == "gs://bucket/run/pets/1.10.0"
    with pytest.raises(FileNotFoundError, match=r"in gs://bucket/run \(did you mean 'pets'"):
        datasets._directory("pet", remote)


def test_everything_but_checkpoints_lands_there(remote: epath.Path, config: ConfigDict) -> None:
    workdir.create(remote, config)
    log = remote / "metrics.jsonl"
    for step in (1, 2, 3):
        workdir.append_line(log, {"step": step, "loss": 1.0 / step})
    workdir.forget_after(log, 2)
    assert [line["step"] for line in workdir.read_lines(log)] == [1, 2]
    draw_samples(remote / "samples.png", np.zeros((4, 8, 8, 1)))
    draw_loss(remote / "loss.png", workdir.read_lines(log))
    shards = Shards(remote / "x.npz", {"seed": 0}, num=4, size=2)
    for part in shards.missing():
        shards.write(part, {"x": np.full((2, 3), part), "label": np.arange(2)})
    joined(shards)
    assert {p.name for p in remote.iterdir()} == {
        "checkpoints", "config.json", "loss.png", "metrics.jsonl", "samples", "samples.png",
        "x.npz",
    }  # fmt: skip
    with (remote / "x.npz").open("rb") as file:
        np.testing.assert_array_equal(np.load(file)["x"], [[0] * 3] * 2 + [[1] * 3] * 2)
    config.seed = 1
    (remote / "checkpoints" / "1").mkdir()
    with pytest.raises(ValueError, match="seed was 0 and is 1"):
        workdir.create(remote, config)


def test_compiled_programs_are_kept_there(
    remote: epath.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And loaded again, as `experiments.run.compiled` has JAX do."""
    place = str(remote.parent / ".compiled")
    settings = {
        "jax_compilation_cache_dir": place,
        "jax_compilation_cache_max_size": -1,
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    hits = []
    note = lambda name, **kwargs: hits.append(name.endswith("/cache_hits"))  # noqa: E731
    try:
        for name, value in settings.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        jax.monitoring.register_event_listener(note)
        for _ in range(2):
            jax.jit(lambda x: 3 * x)(np.float32(2)).block_until_ready()
    finally:
        jax.monitoring.unregister_event_listener(note)
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
    assert list(epath.Path(place).glob("*-cache"))
    assert any(hits)

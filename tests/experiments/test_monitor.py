"""What a run that learns a flow map logs and draws of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict
from PIL import Image

from configs.few_step.methods import few_step
from experiments.output import maps
from experiments.output.pictures import draw_panels, grid_of
from experiments.run import loop, workdir
from experiments.run.duties import pictured
from experiments.setup import build, dataset
from jaxflow import draws, metrics, networks, paths, sampling, times, velocities
from jaxflow.training.checkpoint import read_params
from tests.experiments.conftest import shared_programs, tiny_digits
from tests.sampling.test_residuals import average


def mapped() -> ConfigDict:
    """A tiny run of MeanFlow on digits, with a picture at every other line."""
    config = few_step(tiny_digits(), "mean_flow")
    config.batch_size = 32
    config.log.pictures_every = 4
    config.steps = 8
    return config


def run(config: ConfigDict, folder: Path) -> list[dict]:
    workdir.create(epath.Path(folder), config)
    loop.train(config, epath.Path(folder))
    return lines(folder)


def lines(folder: Path) -> list[dict]:
    """Of the log, without what differs between any two runs."""
    found = workdir.read_lines(epath.Path(folder) / "metrics.jsonl")
    return [{name: v for name, v in line.items() if "second" not in name} for line in found]


def measured(of: list[dict]) -> dict[int, dict]:
    """By step, of the lines that have any."""
    found = {line["step"]: {k: v for k, v in line.items() if k in maps.NAMES} for line in of}
    return {step: values for step, values in found.items() if values}


@pytest.fixture(scope="module", autouse=True)
def sharing_all() -> Iterator[None]:
    """Programs are shared by all tests here."""
    with shared_programs():
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of `mapped`, which no test may change."""
    folder = tmp_path_factory.mktemp("mapped")
    run(mapped(), folder)
    return folder


def test_it_is_measured_at_every_picture(finished: Path) -> None:
    found = measured(lines(finished))
    assert list(found) == [4, 8]
    for values in found.values():
        assert tuple(values) == maps.NAMES
        assert all(np.isfinite(value) and value > 0 for value in values.values())
    assert found[4] != found[8]


@pytest.mark.parametrize(
    ("log", "pictures", "steps", "at"),
    [
        (2, 4, 8, [4, 8]),
        (4, 3, 10, [4, 8, 10]),
        (3, 7, 20, [9, 15, 20]),
        (5, 100, 12, [12]),
    ],
)
def test_it_is_the_first_line_at_a_picture_or_after(
    log: int, pictures: int, steps: int, at: list[int]
) -> None:
    config = ConfigDict({"log": {"every": log, "pictures_every": pictures}, "steps": steps})
    written = {*range(log, steps + 1, log), steps}
    assert [step for step in sorted(written) if pictured(config, step)] == at


def test_it_is_what_python_composes(finished: Path) -> None:
    """Of the parameters that were saved, on the same draws of the test split."""
    config, found = mapped(), measured(lines(finished))[8]
    network = networks.linen(networks.MLP(16, 1, num_classes=10))
    params = read_params(finished / "checkpoints").params
    learned = velocities.flow_map(network, params, path=paths.linear())
    held = dataset.examples(config, "test", 2_000)
    leaning = times.logit_normal(0.4, 1.0)
    draw = draws.standard(paths.linear(), times=leaning)
    errors = []
    for i in range(8):
        keys = [jax.random.fold_in(jax.random.key(seed), i) for seed in (0, 6)]
        rows = slice(32 * i, 32 * i + 32)
        batch = {"x1": held["x1"][rows], "cond": {"label": held["label"][rows]}}
        at = draws.spans(times.uniform(), equal=0.0)(keys[1], draw(keys[0], batch))
        x = paths.linear()(at["t"], at["x0"], at["x1"]).x
        given = {"x": x, "cond": at["cond"]}
        errors.append(
            [
                sampling.semigroup_residual(learned, at["t"], at["s"], at["r"], **given),
                sampling.lagrangian_residual(learned, at["t"], at["r"], **given),
            ]
        )
    whole = jax.tree.map(lambda *parts: jnp.concatenate(parts), *errors)
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(0), i))(np.arange(360))
    x0 = jax.vmap(lambda key: jax.random.normal(key, (8, 8, 1)))(keys)
    distances = []
    for n in (1, 2, 4):
        grid, cond = sampling.grids.uniform(n), {"label": np.arange(360) % 10}
        x = np.clip(sampling.flow_map(learned, x0, grid, cond=cond).x, -1, 1)
        distances.append(metrics.sliced_wasserstein(jax.random.key(0), x, held["x1"]))
    expected = [*(of.relative for of in whole), *distances]
    np.testing.assert_allclose(list(found.values()), expected, rtol=1e-4)


def test_a_run_that_stops_and_goes_on_writes_and_draws_the_same(
    finished: Path, tmp_path: Path
) -> None:
    """Between its pictures, and between saving and drawing; beside the last checkpoint it keeps
    the best of those that were measured.
    """
    found, config = measured(lines(finished)), mapped()
    best = next(name for name in maps.NAMES if found[4][name] < found[8][name])
    config.checkpoint.update({"keep": 1, "best": best})
    config.steps = 6
    run(config, tmp_path)
    config.steps = 8
    again = run(config, tmp_path)
    assert again[:2] + again[3:] == lines(finished)[:2] + lines(finished)[3:]
    values = {step: line[best] for step, line in measured(again).items()}
    kept = {int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdecimal()}
    assert kept == {8, min(values, key=values.__getitem__)} != {8}
    pictures = [folder / "samples" / "step_0000008.png" for folder in (finished, tmp_path)]
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
    pictures[1].unlink()
    assert run(config, tmp_path) == again
    assert pictures[0].read_bytes() == pictures[1].read_bytes()


def test_an_exact_map_is_measured_as_one(config: ConfigDict, monkeypatch: Any) -> None:
    """Of a Gaussian: no residual but that of rounding, the same samples in any number of steps,
    and nothing is traced twice.
    """
    traces = []

    def network(params: Any, t: Any, x: Any, *, r: Any, key: Any = None, label: Any = None) -> Any:
        traces.append(None)
        return average(params, t, x, r=r)

    monkeypatch.setattr(build, "network", lambda config: network)
    seen = maps.monitor(few_step(config, "lagrangian"), 8)
    exact, moved = (seen.measured(jnp.float32(w)) for w in (0.0, 0.5))
    panels = seen.panels(jnp.float32(0.0), 8)
    once = len(traces)
    assert seen.measured(jnp.float32(0.0)) == exact
    assert len(traces) == once
    for name in ("map/semigroup", "map/lagrangian"):
        assert exact[name] < 1e-5 < 0.05 < moved[name]
    assert list(panels) == ["1 step", "2 steps", "4 steps", "8 steps"]
    for x in panels.values():
        np.testing.assert_allclose(x, panels["1 step"], atol=1e-5)


def test_a_network_without_forward_mode_lacks_one_residual(
    config: ConfigDict, monkeypatch: Any
) -> None:
    """Which the semigroup loss takes."""

    @jax.custom_vjp
    def identity(x: Any) -> Any:
        return x

    identity.defvjp(lambda x: (x, None), lambda _, g: (g,))

    def network(params: Any, t: Any, x: Any, *, r: Any, key: Any = None, label: Any = None) -> Any:
        return identity(average(params, t, x, r=identity(r)))

    monkeypatch.setattr(build, "network", lambda config: network)
    found = maps.monitor(few_step(config, "semigroup"), 8).measured(jnp.float32(0.0))
    assert [name for name, value in found.items() if np.isnan(value)] == ["map/lagrangian"]


def test_data_without_a_split_to_hold_against_is_refused(config: ConfigDict) -> None:
    config.evaluation.split = "none"
    with pytest.raises(ValueError, match=r"samples are held against the split 'none': name one"):
        maps.monitor(few_step(config, "mean_flow"), 8)


def test_panels_stand_side_by_side(tmp_path: Path) -> None:
    file = epath.Path(tmp_path / "x.png")
    x = np.random.default_rng(0).uniform(-1, 1, (20, 8, 8, 1))
    draw_panels(file, {"1 step": x, "2 steps": -x})
    sheet, grid = Image.open(file), grid_of(x, 10)
    assert sheet.size == (2 * grid.width + 16, grid.height + 16)
    for left, part in ((0, grid), (grid.width + 16, grid_of(-x, 10))):
        found = sheet.crop((left, 16, left + grid.width, sheet.height))
        np.testing.assert_array_equal(found, part)
    title = np.asarray(sheet.crop((0, 0, sheet.width, 16)))
    assert (title[:, : grid.width] < 128).any()
    assert (title[:, grid.width + 16 :] < 128).any()
    draw_panels(file, {str(i): x if i % 2 else -x for i in range(7)})  # two rows, of five and two
    sheet, height = Image.open(file), grid.height + 16
    assert sheet.size == (5 * (grid.width + 16) - 16, 2 * height)
    last = sheet.crop((grid.width + 16, height + 16, 2 * grid.width + 16, 2 * height))
    np.testing.assert_array_equal(last, grid_of(-x, 10))
    draw_panels(file, {"1 step": x[:, 0, :2, 0], "2 steps": x[:, 0, :2, 0]})
    points = Image.open(file)
    assert points.width > 1.5 * points.height

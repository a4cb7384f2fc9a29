"""Configs that learn a flow map and sample by it."""

import functools
import importlib
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict

from configs.few_step import mean_flow
from configs.few_step.methods import DATA, METHODS, TAUGHT, few_step
from experiments.output.generate import average, generator
from experiments.run import loop, workdir
from experiments.setup import build, dataset
from experiments.setup.check import check, check_parts
from experiments.setup.components import TABLES
from experiments.setup.learns import parts_of
from jaxflow import draws, losses, networks, paths, sampling, times, velocities
from tests.experiments.conftest import tiny_digits


@pytest.mark.parametrize("method", METHODS)
def test_every_method_builds(method: str, config: ConfigDict) -> None:
    """Its loss has a gradient everywhere, and a step of what it learns is one call."""
    config = few_step(config, method)
    taught = method in TAUGHT
    config.teacher = ""
    check_parts(config)
    key, parts = jax.random.key(0), parts_of(config)
    batch = build.draw(config)(key, dataset.example_batch(config, 128))
    params = build.parameters(config, key)
    frozen = params[parts[0]] if parts else params
    state = build.trainer(config, taught=False).init(params, key, frozen if taught else None)
    loss = build.loss(config, build.network(config) if taught else None)
    look = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (value, told), gradient = look(params, None, batch, build.training.held_by(state))
    assert np.isfinite(value)
    assert told.get("masked", 0) == 0
    assert all(np.all(np.isfinite(a)) for a in jax.tree.leaves(gradient))
    x0 = jax.random.normal(key, (8, 8, 8, 1))
    cond = {"label": np.arange(8)}
    noise = {"keys": jax.random.split(key, 8)} if "noise" in config.sampler.kwargs else {}
    solution = build.sampler(config)(build.flow(config, params), x0, cond=cond, **noise)
    np.testing.assert_array_equal(solution.nfe, 2 if "consistency_flow" in method else 1)


def test_every_method_has_a_config_of_every_data_set() -> None:
    """Reached by `--config=configs/few_step/METHOD.py:DATA`, and refused in one sentence."""
    files = (Path(__file__).parents[2] / "configs" / "few_step").glob("[!_]*.py")
    assert {file.stem for file in files} - {"methods"} == set(METHODS)
    for method in METHODS:
        module = importlib.import_module(f"configs.few_step.{method}")
        for data in DATA:
            config = module.get_config(data)
            assert (config.teacher is None) == (method in TAUGHT)
            check_parts(config)
        assert module.get_config().data.source.name == "moons"
        with pytest.raises(ValueError, match=r"^there is no data 'digit'; known are two_moons, "):
            module.get_config("digit")


def test_every_loss_of_flow_maps_has_a_name() -> None:
    made = {few_step(tiny_digits(), method).loss.name for method in METHODS}
    assert made == {*losses.flow_maps.__all__, "consistency_flow_matching"} <= set(TABLES["loss"])


@pytest.mark.usefixtures("sharing")
def test_it_trains_and_samples(tmp_path: Path) -> None:
    """As Python composes it, to the last bit; and by any sampler of velocities."""
    config = few_step(tiny_digits(), "mean_flow")
    config.batch_size = 32
    check(config)
    workdir.create(epath.Path(tmp_path), config)
    trained = loop.train(config, epath.Path(tmp_path))
    assert int(trained.state.step) == 4
    assert (tmp_path / "samples" / "step_0000004.png").exists()
    params = average(epath.Path(tmp_path)).params
    made = generator(config, 8).rows(params, 0, 0, 8)
    assert set(made.nfe) == {1}
    network = networks.linen(networks.MLP(16, 1, num_classes=10))
    learned = velocities.flow_map(network, params, path=paths.linear())
    flow = build.flow(config, params)
    x0 = jax.random.normal(jax.random.key(0), (8, 8, 8, 1))
    cond = {"label": np.arange(8)}
    grid = sampling.grids.uniform(1)
    got = sampling.flow_map(flow, x0, grid, cond=cond).x
    np.testing.assert_array_equal(got, sampling.flow_map(learned, x0, grid, cond=cond).x)
    again = workdir.read_config(epath.Path(tmp_path))
    with again.unlocked():
        again.sampler = tiny_digits().sampler
    check_parts(again)
    assert np.all(generator(again, 8).rows(params, 0, 0, 8).nfe == 2)


def test_the_draw_is_what_python_composes() -> None:
    config = mean_flow.get_config("digits")
    batch, key = dataset.example_batch(config, 8), jax.random.key(0)
    leaning = times.logit_normal(0.4, 1.0)
    usual = draws.standard(paths.linear(), times=leaning, drop=draws.drop(0.1, {"label": 10}))
    expected = draws.chain(usual, draws.spans(leaning, equal=0.75))(key, batch)
    jax.tree.map(np.testing.assert_array_equal, build.draw(config)(key, batch), expected)


def test_guidance_reads_the_null_of_the_drop() -> None:
    config = mean_flow.get_config("digits")
    config.loss.kwargs.scale = 2.0
    assert build.loss(config).condition.guidance.null == {"label": 10}
    config.drop.null = {}
    with pytest.raises(
        ValueError, match=r"^config\.loss: mean_flow with scale=2\.0 .* needs the null"
    ):
        build.loss(config)


def test_a_batch_that_does_not_divide_into_groups() -> None:
    config = few_step(tiny_digits(), "mean_flow")
    config.batch_size = 24
    with pytest.raises(ValueError, match=r"batch_size is 24: a batch of 6 groups of 4 .* 8 dev"):
        check(config)
    few_step(config, "drifting")
    with pytest.raises(ValueError, match=r"batch_size is 24: .* not divide into groups of 64"):
        check(config)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"loss.name": "flow_matching", "loss.kwargs": {}}, r"teaches no flow map: name one of "),
        ({"sampler.guidance": 2.0}, r"guidance is 2\.0, but a flow map is guided as it learns"),
        ({"self_condition.rate": 0.5}, r"rate is 0\.5, but config\.loss \(mean_flow\) "),
        ({"spans.name": "span"}, r"config\.spans\.name is 'span' \(did you mean 'spans'\?\)"),
        ({"spans.kwargs": {"equal": 2.0}}, r"config\.spans: spans needs 0 <= equal <= 1"),
        ({"spans": {"name": "to_end", "kwargs": {}}}, r"start anew from it, .*noise=1\.0"),
        (
            {"loss": {"name": "drifting", "kwargs": {}}, "spans": {"name": "groups", "kwargs": {}}},
            r"takes 2 steps, but config\.loss \(drifting\) teaches one",
        ),
        (
            {"loss": {"name": "drifting", "kwargs": {}}, "sampler.name": "fixed_step"},
            r"teaches no velocity: set --config\.sampler\.name=flow_map",
        ),
        ({"loss.kwargs": {"powr": 1.0}}, r"mean_flow takes no 'powr' \(did you mean 'power'\?\)"),
    ],
)
def test_what_it_refuses(change: dict, told: str) -> None:
    config = few_step(tiny_digits(), "mean_flow", steps=2)
    with config.unlocked():
        for name, value in change.items():
            *sections, key = name.split(".")
            functools.reduce(getattr, sections, config)[key] = value
    with pytest.raises(ValueError, match=told):
        check_parts(config)

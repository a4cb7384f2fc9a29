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
from experiments.setup.learns import parts_of
from experiments.setup.tables import TABLES
from jaxflow import draws, losses, networks, paths, sampling, times, velocities
from tests.experiments.conftest import tiny_digits
from tests.networks.small import perturbed


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


def test_guidance_as_a_condition_is_sampled_at_any_scale(config: ConfigDict) -> None:
    """As the network says when it is told so; without guidance it is that of no condition."""
    config = few_step(config, "improved_mean_flow")
    config.guided.most = 4.0
    config.drop.rate = 0.1
    check_parts(config)
    key = jax.random.key(0)
    params = perturbed(build.parameters(config, key))
    drawn = build.draw(config)(key, dataset.example_batch(config, 8))
    gradient = jax.jit(jax.grad(build.loss(config), has_aux=True))(params, None, drawn)[0]
    assert all(np.all(np.isfinite(a)) and np.any(a) for a in jax.tree.leaves(gradient))
    x0 = jax.random.normal(key, (4, 8, 8, 1))
    cond, grid = {"label": np.arange(4)}, sampling.grids.uniform(2)
    whole = {"name": "classifier_free", "kwargs": {"scale": 3.0, "interval": (0.2, 0.9)}}
    for guidance, told in ((1.0, None), (3.0, (3.0, 0.0, 1.0)), (whole, (3.0, 0.2, 0.9))):
        with config.ignore_type():
            config.sampler.guidance = guidance
        check_parts(config)
        plain = velocities.flow_map(build.network(config), params)
        given = {} if told is None else {"guidance": np.tile(np.float32(told), (4, 1))}
        want = sampling.flow_map(plain, x0, grid, cond={**cond, **given}).x
        flow = build.flow(config, params)
        got = sampling.flow_map(flow, x0, grid, cond=cond)
        np.testing.assert_allclose(got.x, want, rtol=1e-5, atol=1e-6)
        assert int(got.nfe[0]) * flow.evaluations == 2
        assert (told is None) == np.allclose(want, sampling.flow_map(plain, x0, grid, cond=cond).x)
        velocity = build.velocity(config, params)(np.zeros(4), x0, **cond)
        want = plain.velocity(np.zeros(4), x0, **cond, **given)
        np.testing.assert_allclose(velocity, want, rtol=1e-5, atol=1e-6)


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
        ({"guided.most": 0.5}, r"guided\.most is 0\.5: it is the largest scale .* or 0 for none"),
        (
            {"guided.most": 4.0, "loss.name": "lagrangian"},
            r"loss \(lagrangian\) learns no guidance: name one of mean_flow, improved_mean_flow",
        ),
        ({"guided.most": 4.0, "loss.kwargs": {"scale": 2.0}}, "leave scale and mix out"),
        ({"guided.most": 4.0, "drop.rate": 0.0}, r"met the null, as --config\.drop\.rate=0\.1"),
        (
            {"guided.most": 4.0, "sampler.guidance": 5.0},
            r"guidance is 5\.0, but the network learns scales from 1 to config\.guided\.most, 4\.0",
        ),
        (
            {"guided.most": 4.0, "sampler.guidance": {"name": "thresholded", "kwargs": {}}},
            "guidance that was learned has a scale and an interval alone",
        ),
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
        (
            {
                "loss": {
                    "name": "alpha_flow",
                    "kwargs": {"alpha": {"name": "falling", "kwargs": {"end": 0.0}}},
                }
            },
            r"loss\.kwargs\.alpha: end must be in \(0, 1\]; got 0\.0",
        ),
        ({"loss.kwargs": {"powr": 1.0}}, r"mean_flow takes no 'powr' \(did you mean 'power'\?\)"),
    ],
)
def test_what_it_refuses(change: dict, told: str) -> None:
    config = few_step(tiny_digits(), "mean_flow", steps=2)
    with config.unlocked(), config.ignore_type():
        for name, value in change.items():
            *sections, key = name.split(".")
            functools.reduce(getattr, sections, config)[key] = value
    with pytest.raises(ValueError, match=told):
        check_parts(config)

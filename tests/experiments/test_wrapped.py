"""Networks that a config preconditions, or lets read their own estimate."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict

from configs import two_moons
from experiments.output import buckets
from experiments.output.generate import average
from experiments.run import duties, loop, workdir
from experiments.setup import build, dataset
from experiments.setup.check import check
from jaxflow import draws, losses, networks, paths, velocities
from jaxflow.types import TrainState

DATA = 0.7
PATH = paths.linear()


def wrapped(config: ConfigDict, sigma_data: float, rate: float) -> ConfigDict:
    """As a command says it."""
    config.preconditioned.sigma_data, config.self_condition.rate = sigma_data, rate
    if sigma_data:
        config.loss.kwargs.prediction = "data"
    check(config)
    return config


def composed(module, sigma_data, rate):
    network = networks.linen(module)
    if sigma_data:
        network = velocities.preconditioned(network, PATH, sigma_data)
    return networks.self_conditioned(network) if rate else network


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize(("sigma_data", "rate"), [(0.0, 0.0), (DATA, 0.0), (0.0, 0.5), (DATA, 0.5)])
def test_a_config_builds_what_python_composes(
    config: ConfigDict, sigma_data: float, rate: float
) -> None:
    """The same parameters, batch, loss and velocity, to the last bit, and the shapes of a plan."""
    wrapped(config, sigma_data, rate)
    network = composed(networks.MLP(16, 1, num_classes=10), sigma_data, rate)
    batch = jax.tree.map(jnp.asarray, dataset.example_batch(config, 8))
    t, x, cond = jnp.linspace(0.1, 0.9, 8), batch["x1"], batch["cond"]
    key = jax.random.key(0)
    params = build.parameters(config, key)
    one = dataset.example_batch(config)
    equal(params, network.init_on_host(key, jnp.zeros(1), one["x1"], **one["cond"]))
    shapes = jax.tree.map(jnp.shape, build.shapes(config, batch))
    assert shapes == jax.tree.map(jnp.shape, params)

    params = jax.tree.map(lambda a: a + 0.1 * jnp.ones_like(a), params)
    draw = draws.standard(PATH, drop=draws.drop(0.1, {"label": 10}))
    if rate:
        draw = draws.chain(draw, draws.self_condition(rate))
    drawn = draw(key, batch)
    equal(build.draw(config)(key, batch), drawn)
    assert ("estimated" in drawn["cond"]) == bool(rate)

    prediction = "data" if sigma_data else "velocity"
    loss = losses.flow_matching(network, PATH, prediction=prediction)
    for seed in (None, key):
        equal(build.loss(config)(params, seed, drawn), loss(params, seed, drawn))
    velocity = velocities.from_network(network, params, path=PATH, prediction=prediction)
    ours = build.velocity(config, params)
    equal(ours(t, x, **cond), velocity(t, x, **cond))
    assert ours.evaluations == velocity.evaluations == (2 if rate else 1)


@pytest.mark.usefixtures("sharing")
@pytest.mark.parametrize(
    ("sigma_data", "rate", "layout", "mode"),
    [
        (DATA, 0.5, "fsdp", "jit"),
        pytest.param(DATA, 0.0, "data", "jit", marks=pytest.mark.slow),
        pytest.param(0.0, 0.5, "data", "pmap", marks=pytest.mark.slow),
    ],
)
def test_it_trains_resumes_and_samples(
    config: ConfigDict, tmp_path: Path, sigma_data: float, rate: float, layout: str, mode: str
) -> None:
    config.parallel.update({"layout": layout, "mode": mode})
    config.sampler.guidance = 2.0
    wrapped(config, sigma_data, rate)

    def trained(steps: int, name: str) -> TrainState:
        config.steps = steps
        workdir.create(epath.Path(tmp_path / name), config)
        return loop.train(config, epath.Path(tmp_path / name)).state

    straight = trained(4, "straight")
    trained(2, "resumed")
    resumed = trained(4, "resumed")
    equal(straight.params, resumed.params)
    equal(straight.opt_state, resumed.opt_state)
    folder = epath.Path(tmp_path / "resumed")
    draw = duties.generator(workdir.read_config(folder), duties.PICTURED)
    samples = draw(average(folder).params, 0, duties.PICTURED)
    assert samples.success.all()
    assert np.isfinite(samples.x).all()
    assert samples.evaluations == (4 if rate else 2)


def test_the_weight_of_edm_is_of_the_same_data() -> None:
    """And all of the paper's training is a matter of names."""
    config = two_moons.get_config()
    config.path = {"name": "edm", "kwargs": {}}
    config.times = {"name": "log_normal", "kwargs": {}}
    config.preconditioned.sigma_data = DATA
    config.loss.kwargs = {"prediction": "data", "weight": {"name": "edm", "kwargs": {}}}
    check(config)
    assert build.loss(config).weight == losses.weights.edm(paths.edm(), DATA)
    config.loss.kwargs.weight.kwargs = {"sigma_data": 0.3}
    assert build.loss(config).weight == losses.weights.edm(paths.edm(), 0.3)


def test_a_report_samples_without_coins(config: ConfigDict) -> None:
    wrapped(config, 0.0, 0.5)
    rows = buckets._held(config, 8)
    coins = [
        "estimated" in next(buckets.drawn_of(of, rows, 8))["cond"]
        for of in (config, buckets.undropped(config))
    ]
    assert coins == [True, False]


def test_the_contrastive_loss_by_name(config: ConfigDict) -> None:
    """With coins before its pairs, which come last."""
    config.loss = {"name": "contrastive", "kwargs": {}}
    for rate in (0.0, 0.5):
        wrapped(config, 0.0, rate)
        batch = build.draw(config)(jax.random.key(0), dataset.example_batch(config, 8))
        assert ("estimated" in batch["cond"]) == bool(rate)
        params = build.parameters(config, jax.random.key(0))
        value, told = build.loss(config)(params, None, batch)
        assert np.isfinite(value)
        assert set(told) == {"per_example", "attraction", "repulsion"}

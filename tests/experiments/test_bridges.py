"""Bridges and interpolants by name, in a config."""

import jax
import pytest
from ml_collections import ConfigDict

from experiments.setup import build, dataset
from experiments.setup.check import check
from experiments.setup.components import component
from experiments.setup.tables import TABLES
from jaxflow import paths
from jaxflow.paths import gammas, schedules


def spec(name, **kwargs):
    return {"name": name, "kwargs": kwargs}


def test_an_interpolant_is_named_with_its_parts():
    found = component(
        "path", spec("interpolant", schedule=spec("cosine"), gamma=spec("sine_squared", scale=0.5))
    )
    assert found == paths.interpolant(schedules.Cosine(), gamma=gammas.sine_squared(0.5))
    assert component("path", spec("interpolant", gamma=spec("brownian"))) == paths.bridge(1.0)
    assert set(TABLES["gamma"]) == {n for n in gammas.__all__ if n.islower()} - {"custom"}
    with pytest.raises(ValueError, match=r"^config\.path: brownian needs a positive, finite sigma"):
        component("path", spec("bridge", sigma=0.0))
    with pytest.raises(ValueError, match=r"^config\.path: interpolant needs 'gamma'"):
        component("path", spec("interpolant"))


def test_a_run_on_a_bridge_draws_and_samples():
    from configs.two_moons import get_config

    config: ConfigDict = get_config()
    config.path = spec("bridge", sigma=0.5)
    check(config)
    batch = build.draw(config)(jax.random.key(0), dataset.example_batch(config))
    assert batch["z"].shape == batch["x1"].shape
    params = build.parameters(config, jax.random.key(0))
    value, _ = build.loss(config)(params, None, batch)
    assert value > 0
    velocity = build.velocity(config, params)
    solution = build.sampler(config)(velocity, batch["x0"])
    assert solution.success.all()

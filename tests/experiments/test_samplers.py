"""Every method, grid and diffusion that a config may name makes a sampler on the config's path."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import two_moons
from experiments.output.generate import generator
from experiments.setup import build
from experiments.setup.check import check_parts
from experiments.setup.tables import TABLES
from jaxflow import paths, sampling
from jaxflow.velocities import gaussian_mixture

NEEDS = {
    "shifted": {"shift": 2.0},
    "flux": {"tokens": 64},
    "churn": {"gamma": 0.1},
    "corrected": {"method": {"name": "ddim", "kwargs": {}}, "steps": 2},
    "euler_maruyama": {"diffusion": {"name": "sigma", "kwargs": {}}},
    "stochastic_heun": {"diffusion": 0.5},
}
X = jnp.array([[0.5, -1.0], [0.2, 0.3]])
KEYS = jax.random.split(jax.random.key(0), 2)
VP = paths.vp()
FLOW = gaussian_mixture(VP, weights=np.ones(1), means=np.ones((1, 2)), covariances=np.ones(1))


def config_of(sampler="fixed_step", **parts):
    config = two_moons.get_config()
    with config.unlocked():
        config.path = {"name": "vp", "kwargs": {}}
        config.sampler.name = sampler
        config.sampler.kwargs = {
            key: {"name": name, "kwargs": NEEDS.get(name, {}) | ({"n": 4} if key == "grid" else {})}
            for key, name in parts.items()
        }
    return config


@pytest.mark.parametrize("name", TABLES["method"])
def test_methods(name):
    config = config_of(grid="uniform", method=name)
    check_parts(config)
    assert bool(build.sampler(config)(FLOW, X, keys=KEYS).success.all())


@pytest.mark.parametrize("name", TABLES["grid"])
def test_grids(name):
    sampler = build.sampler(config_of(grid=name, method="heun"))
    assert len(sampler.keywords["grid"]) == 5


def test_the_path_is_the_configs_own_unless_another_is_named():
    config = config_of(grid="uniform", method="dpm_solver")
    ours = build.sampler(config)(FLOW, X)
    given = {"method": sampling.dpm_solver(VP)}
    expected = sampling.fixed_step(FLOW, X, sampling.grids.uniform(4), **given)
    np.testing.assert_array_equal(ours.x, expected.x)
    with config.unlocked():
        config.sampler.kwargs.method.kwargs = {"path": {"name": "cosine", "kwargs": {}}}
    assert np.all(build.sampler(config)(FLOW, X).x != ours.x)


@pytest.mark.parametrize("name", TABLES["diffusion"])
def test_the_sde(name):
    config = config_of("sde", grid="uniform", diffusion=name, solver="sra1")
    check_parts(config)
    assert bool(build.sampler(config)(FLOW, X, keys=KEYS).success.all())


@pytest.mark.parametrize(
    "parts",
    [{"method": "churn"}, {"method": "corrected"}, {"sampler": "sde", "diffusion": "sigma"}],
)
def test_no_noise_where_no_score_is_known(parts):
    config = config_of(grid="uniform", **parts)
    with config.unlocked():
        config.coupling = {"name": "optimal_transport", "kwargs": {}}
    with pytest.raises(ValueError, match=r"^config\.sampler reads a score, .* 'optimal_transport'"):
        check_parts(config)


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_ddim_reads_a_score_where_it_draws_noise(eta):
    config = config_of(grid="uniform", method="ddim")
    with config.unlocked():
        config.coupling = {"name": "optimal_transport", "kwargs": {}}
        config.sampler.kwargs.method.kwargs = {"eta": eta}
    if eta == 0:
        check_parts(config)
    else:
        with pytest.raises(ValueError, match=r"^config\.sampler reads a score"):
            check_parts(config)


def test_samples_have_noise_of_their_own():
    """By the commands' sampler too: in any batches, and not that of the start."""
    config = config_of(grid="uniform", method="sde_dpm_solver")
    params = build.parameters(config, jax.random.key(0))
    made = []
    for size in (8, 16):
        with config.unlocked():
            config.sampler.batch_size = size
        made.append(generator(config, 16)(params, 0, 16).x)
    np.testing.assert_allclose(made[0], made[1], atol=1e-5)

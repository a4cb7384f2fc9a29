"""Beside the schedulers of diffusers, where it is installed: one method, one noise, one end.

`pip install diffusers torch scipy` beside this package; its schedulers count in float32.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import paths, sampling
from jaxflow.sampling import fixed_step
from jaxflow.velocities import from_diffusion, gaussian_mixture
from tests.problems import COVARIANCES, CURVES, MEANS, WEIGHTS, marginal, points

diffusers = pytest.importorskip("diffusers")
torch = pytest.importorskip("torch")
scheduling_ddpm = pytest.importorskip("diffusers.schedulers.scheduling_ddpm")

CURVE = CURVES["cosine"]  # any path of unit variance: steps depend on the ratios alone
KEYS = jax.random.split(jax.random.key(0), 4)
SCHEDULERS = {
    "ddim": ("DPMSolverMultistepScheduler", {"solver_order": 1}),
    "dpm_solver": ("DPMSolverMultistepScheduler", {"solver_order": 2}),
    "sde_dpm_solver": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "unipc": ("UniPCMultistepScheduler", {"solver_order": 2, "solver_type": "bh2"}),
    "unipc.1": ("UniPCMultistepScheduler", {"solver_order": 1, "solver_type": "bh2"}),
}
METHODS = {"unipc.1": lambda path: sampling.unipc(path, 1)}


@pytest.mark.parametrize("n", [5, 10, 20])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_ends_agree(name, n, x64):
    """Of exact data predictions of a mixture, from noise to no noise at all."""
    kind, settings = SCHEDULERS[name]
    scheduler = getattr(diffusers, kind)(
        prediction_type="sample", final_sigmas_type="zero", **settings
    )
    scheduler.set_timesteps(n)
    ratios = scheduler.sigmas.numpy().astype(np.float64)
    times = np.arctan2(1.0, ratios) * 2 / np.pi
    times[-1] = 1.0
    x0 = points(4)
    theirs = torch.tensor(x0)
    for i, timestep in enumerate(scheduler.timesteps):
        data = torch.tensor(marginal(CURVE, times[i], theirs.numpy()).data)
        noise = {}
        if "sde" in name:
            z = [jax.random.normal(jax.random.fold_in(key, i), (2,)) for key in KEYS]
            noise = {"variance_noise": torch.tensor(np.stack(z))}
        theirs = scheduler.step(data, timestep, theirs, **noise).prev_sample.double()
    path = paths.cosine()
    flow = gaussian_mixture(path, weights=WEIGHTS, means=MEANS, covariances=COVARIANCES)
    method = METHODS.get(name, getattr(sampling, name.split(".")[0]))(path)
    ours = fixed_step(flow, jnp.asarray(x0), times, method=method, keys=KEYS).x
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5)


@pytest.mark.parametrize("n", [5, 10, 20])
@pytest.mark.parametrize(
    ("name", "eta"), [("DDIM", 0.0), ("DDIM", 0.5), ("DDIM", 1.0), ("DDPM", 1.0)]
)
def test_a_network_of_noise_and_betas_ends_where_ddim_does(name, eta, n, x64, monkeypatch):
    """One random network of timesteps, called by both sides, and one noise."""
    scheduler = getattr(diffusers, f"{name}Scheduler")(
        beta_start=1e-4, beta_end=0.02, clip_sample=False, timestep_spacing="trailing"
    )
    rng = np.random.default_rng(0)
    wide, back = rng.normal(size=(3, 32)), rng.normal(size=(32, 2)) / 6

    def network(params, k, x, *, key=None):
        told = jnp.concatenate([x, k[:, None] / 500.0], axis=1)
        return jnp.tanh(told @ params[0]) @ params[1]

    params, x0 = (jnp.asarray(wide), jnp.asarray(back)), points(4)
    scheduler.set_timesteps(n)
    theirs = torch.tensor(x0)
    for i, k in enumerate(scheduler.timesteps):
        noise = network(params, jnp.full(4, float(k)), jnp.asarray(theirs.numpy()))
        drawn = [jax.random.normal(jax.random.fold_in(key, i), (2,)) for key in KEYS]
        z = torch.tensor(np.stack(drawn))
        settings = {"eta": eta, "variance_noise": z} if eta and name == "DDIM" else {}
        monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *_, z=z, **__: z)
        theirs = scheduler.step(torch.tensor(np.array(noise)), k, theirs, **settings).prev_sample
    flow = from_diffusion(network, params, betas=np.linspace(1e-4, 0.02, 1000))
    method = sampling.ddim(flow.path, eta)
    ours = fixed_step(flow, jnp.asarray(x0), sampling.grids.uniform(n), method=method, keys=KEYS).x
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-5, atol=1e-5)

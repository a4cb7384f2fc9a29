"""hackable-diffusion: its process and loss in a user's own step, and its sampler.

Its data lie at time 0 and its noise at 1, so its velocity is ours with the other sign.
"""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from hackable_diffusion import hd

from benchmarks import moons
from benchmarks.ours.sampling import as_linen
from benchmarks.rivals import training as driver
from benchmarks.rivals.sampling import sampled
from benchmarks.task import Task
from jaxflow.networks import ConcatMLP

PROCESS = hd.corruption.GaussianProcess(schedule=hd.corruption.RFSchedule())
LOSS = hd.training.NoWeightGaussianLoss(prediction_type="velocity")
TIMES = hd.training.time_sampling.UniformTimeSampler(
    span=hd.jax_helpers.SafeSpan(safety_epsilon=1e-4)
)


class Network(nn.Module):
    """The perceptron, with time and velocity mirrored."""

    @nn.compact
    def __call__(self, time, xt, conditioning, is_training):
        return {"velocity": -ConcatMLP(name="perceptron")(1 - time.reshape(len(xt)), xt)}


@dataclass(kw_only=True, frozen=True)
class _Given(hd.corruption.GaussianProcess):
    """The same process, with noise that is given rather than drawn."""

    noise: jax.Array

    def sample_from_invariant(self, key: Any, data_spec: Any) -> jax.Array:
        return self.noise


def _loss(params: Any, process: hd.corruption.GaussianProcess, key, time, x1) -> jax.Array:
    xt, targets = process.corrupt(key, x1, time)
    preds = Network().apply(
        {"params": params}, time=time, xt=xt, conditioning=None, is_training=True
    )
    return jnp.mean(LOSS(preds=preds, targets=targets, time=time))


def training(loop: str, data: str, guarded: bool = False) -> Task:
    """Training steps in a bare step or a scan: outside of Kauldron it has neither."""

    def loss(params: Any, key: jax.Array, x1: jax.Array) -> jax.Array:
        key, key_time = jax.random.split(key)
        return _loss(params, PROCESS, key, TIMES(key_time, data_spec=x1), x1)

    @jax.jit
    def on_probe(params: Any) -> jax.Array:
        probe = moons.probe()
        given = _Given(schedule=PROCESS.schedule, noise=probe["x0"])
        return _loss(params, given, jax.random.key(0), 1 - probe["t"][:, None], probe["x1"])

    params = {"perceptron": as_linen(moons.layers())}
    return driver.bare(params, loss, on_probe, loop, data, guarded=guarded)


def sample(solver: str, weights: str, n: int = 10_000) -> Task:
    """Samples by "euler" in 50 steps, which it counts as 51 times."""
    if solver != "euler":
        raise ValueError(f"hackable-diffusion has no solver {solver!r}; use 'euler'")
    sampler = hd.sampling.DiffusionSampler(
        time_schedule=hd.sampling.UniformTimeSchedule(),
        stepper=hd.sampling.VelocityStep(corruption_process=PROCESS, stoch_coeff=0.0),
        num_steps=51,
        store_trajectory=False,
    )

    @jax.jit
    def compiled(params: Any, x0: jax.Array) -> jax.Array:
        infer = hd.inference.FlaxLinenInferenceFn(network=Network(), params=params)
        return sampler(infer, jax.random.key(0), x0)[0].xt

    params = {"perceptron": as_linen(moons.layers(weights))}
    return sampled(
        lambda params, x0: (compiled(params, x0), None),
        params, weights, n, driver.parameters(params),
    )  # fmt: skip

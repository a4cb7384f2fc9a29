"""Samples of two moons from noise, by the perceptron of the tutorial."""

from collections.abc import Callable
from pathlib import Path

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import moons, reference
from benchmarks.ours.two_dimensional import perceptron
from benchmarks.task import Task
from jaxflow import data, draws, losses, paths, sampling, velocities
from jaxflow.training import program, trainer
from jaxflow.types import Array, Params, Solution, Velocity

# Where diffusers starts its 20 steps of a flow.
FROM_NOISE = np.linspace(1e-3, 1, 21)
LINEAR = paths.linear()


def stochastic(velocity: Velocity, x0: Array) -> Solution:
    """By the SDE form of DPM-Solver++."""
    keys = jax.random.split(jax.random.key(0), len(x0))
    return sampling.fixed_step(
        velocity, x0, FROM_NOISE, method=sampling.sde_dpm_solver(LINEAR), keys=keys
    )


SAMPLERS: dict[str, Callable[[Velocity, Array], Solution]] = {
    "euler": lambda v, x0: sampling.fixed_step(
        v, x0, sampling.grids.uniform(50), method=sampling.euler()
    ),
    "midpoint": lambda v, x0: sampling.fixed_step(
        v, x0, sampling.grids.uniform(20), method=sampling.midpoint()
    ),
    "dopri5": lambda v, x0: sampling.adaptive(v, x0, solver=diffrax.Dopri5(), per_sample=False),
    "dopri5 per sample": lambda v, x0: sampling.adaptive(v, x0, solver=diffrax.Dopri5()),
    "default": sampling.adaptive,
    "tsit5 shared": lambda v, x0: sampling.adaptive(v, x0, per_sample=False),
    "tsit5 shared rms": lambda v, x0: sampling.adaptive(v, x0, per_sample=False, norm="rms"),
    "dpm_solver": lambda v, x0: sampling.fixed_step(
        v, x0, FROM_NOISE, method=sampling.dpm_solver(LINEAR)
    ),
    "sde_dpm_solver": stochastic,
    "unipc": lambda v, x0: sampling.fixed_step(v, x0, FROM_NOISE, method=sampling.unipc(LINEAR)),
}


def sample(sampler: str, weights: str, n: int = 10_000, checked: bool = False) -> Task:
    """`n` samples; the weights are trained here unless their file is there already.

    `checked` adds their error against a solve to 1e-10.
    """
    velocity, params = trained_velocity(weights)
    x0 = jnp.asarray(reference.noise(n))
    solve = jax.jit(SAMPLERS[sampler])
    solution = solve(velocity, x0)
    facts = {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "mean nfe": float(jnp.mean(solution.nfe)),
        "most nfe": int(jnp.max(solution.nfe)),
        "success": bool(jnp.all(solution.success)),
        "mean |x|": float(jnp.mean(jnp.abs(solution.x))),
    }
    if sampler in ("dpm_solver", "unipc"):
        facts |= {"points": np.asarray(solution.x[:8]).tolist()}
    if checked:
        reference.write(velocity, weights, n)
        facts |= {"calls": facts["mean nfe"], **reference.facts(np.asarray(solution.x), weights)}

    def run(k: int) -> None:
        for _ in range(k):
            jax.block_until_ready(solve(velocity, x0).x)

    return Task(run, facts)


def trained_velocity(weights: str) -> tuple[Velocity, Params]:
    """The perceptron's, and its parameters; trained here unless their file is there already."""
    network, _ = perceptron()
    if not Path(weights).exists():
        train(weights)
    params = as_linen(moons.layers(weights))
    return velocities.from_network(network, params, path=LINEAR), params


def train(weights: str, steps: int = 5000) -> None:
    """Train the perceptron from noise to moons, and save each layer as `kernel_i` and `bias_i`."""
    network, params = perceptron()
    path = paths.linear()
    loss = losses.flow_matching(network, path)
    run = program(trainer(loss, optax.adam(2e-3), draw=draws.standard(path), ema_decay=0.999))
    stream = data.stream(data.toy.moons(), batch_size=256, seed=0)
    state, _ = run.steps(run.init(params, jax.random.key(0)), stream, steps)
    layers = {}
    for i in range(len(state.ema)):
        layers[f"kernel_{i}"] = np.asarray(state.ema[f"Dense_{i}"]["kernel"])
        layers[f"bias_{i}"] = np.asarray(state.ema[f"Dense_{i}"]["bias"])
    np.savez(weights, **layers)


def as_linen(layers: moons.Layers) -> Params:
    """The layers as parameters of `networks.ConcatMLP`."""
    return {
        f"Dense_{i}": {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}
        for i, (kernel, bias) in enumerate(layers)
    }

"""Samples of two moons by the schedulers of diffusers, with the weights of our side."""

import diffusers
import torch

from benchmarks.peers.sampling import Perceptron
from benchmarks.reference import noise
from benchmarks.task import Task

FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
SCHEDULERS = {
    "dpm_solver": (diffusers.DPMSolverMultistepScheduler, {}),
    "sde_dpm_solver": (
        diffusers.DPMSolverMultistepScheduler,
        {"algorithm_type": "sde-dpmsolver++"},
    ),
    "unipc": (diffusers.UniPCMultistepScheduler, {"solver_type": "bh2"}),
}


@torch.no_grad()
def sample(method: str, weights: str, n: int = 10_000) -> Task:
    """`n` samples in 20 steps, the last one to the data; its flow is noise less data."""
    model = Perceptron(weights)
    kind, options = SCHEDULERS[method]
    scheduler = kind(final_sigmas_type="zero", **FLOW, **options)
    x0 = torch.from_numpy(noise(n))

    @torch.no_grad()
    def solve() -> torch.Tensor:
        scheduler.set_timesteps(20)
        x = x0
        for step, sigma in zip(scheduler.timesteps, scheduler.sigmas[:-1], strict=True):
            x = scheduler.step(-model(x, (1 - sigma).reshape(1, 1)), step, x).prev_sample
        return x

    x = solve()
    facts = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "mean nfe": len(scheduler.timesteps),
        "mean |x|": float(x.abs().mean()),
    }
    if method != "sde_dpm_solver":
        facts["points"] = x[:8].tolist()

    def run(k: int) -> None:
        for _ in range(k):
            solve()

    return Task(run, facts)

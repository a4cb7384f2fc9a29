"""What each section of a config may name, and the few components that are of configs alone."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import diffrax
import optax

from jaxflow import (
    couplings,
    data,
    draws,
    losses,
    networks,
    paths,
    sampling,
    sources,
    times,
    training,
    velocities,
)
from jaxflow.data import datasets, toy, transforms
from jaxflow.losses import flow_maps
from jaxflow.paths import gammas, kappas, schedules
from jaxflow.paths.dirichlet import Simplex
from jaxflow.paths.fisher import Orthant
from jaxflow.sampling import leaps, methods

__all__ = ["TABLES"]

Table = Mapping[str, Callable[..., Any]]


def constant(peak: float, warmup: int = 0) -> optax.Schedule:
    """A constant rate after a linear warm-up."""
    _check_schedule(peak, warmup)
    return optax.join_schedules(
        [optax.linear_schedule(0.0, peak, max(warmup, 1)), optax.constant_schedule(peak)],
        [max(warmup, 1)],
    )


def cosine(peak: float, warmup: int = 0, end: float = 0.0, *, steps: int) -> optax.Schedule:
    """A cosine decay to `end` after a linear warm-up; `steps` is the run's."""
    _check_schedule(peak, warmup)
    return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, max(steps, warmup + 1), end)


def falling(end: float = 0.005, *, steps: int) -> optax.Schedule:
    """A cosine from 1 to `end` over the run, whose `steps` these are."""
    if not 0 < end <= 1:
        raise ValueError(f"end must be in (0, 1]; got {end!r}")
    return optax.cosine_decay_schedule(1.0, steps, end)


def _check_schedule(peak: float, warmup: int) -> None:
    if not (0 < peak < math.inf and warmup >= 0):
        raise ValueError(
            f"peak must be positive and warmup not negative; got {peak!r} and {warmup!r}"
        )


RULES = (
    "frequency_decoupled", "geometric", "magnitude_aware", "plain", "projected", "rescaled",
    "tangential", "zero_star",
)  # fmt: skip

TABLES: Mapping[str, Table] = {
    "data.source": {
        "digits": datasets.digits,
        "tfds": datasets.tfds,
        "text": data.text,
        "pieces": data.pieces,
        **{name: getattr(toy, name) for name in toy.__all__ if name[0].islower()},
    },
    "transforms": {
        "flip": transforms.flip,
        "scale": transforms.scale,
        "dequantise": transforms.dequantise,
        "tokens": transforms.tokens,
    },
    "source": {
        name: getattr(sources, name)
        for name in ("normal", "uniform", "mask", "tokens", "uniform_tokens")
    }
    | {"orthant": Orthant, "simplex": Simplex},
    "coupling": {
        "independent": couplings.independent,
        "optimal_transport": couplings.optimal_transport,
        "conditional_optimal_transport": couplings.conditional_optimal_transport,
        "sinkhorn": couplings.sinkhorn,
    },
    "times": {
        "uniform": times.uniform,
        "logit_normal": times.logit_normal,
        "mode": times.mode,
        "cosine_map": times.cosine_map,
        "beta": times.beta,
        "log_normal": times.log_normal,
        "shifted": times.shifted,
        "stratified": times.stratified,
        "antithetic": times.antithetic,
        "histogram": times.histogram,
        "constant": times.constant,
    },
    "path": {
        "linear": paths.linear,
        "vp": paths.vp,
        "linear_vp": paths.linear_vp,
        "cosine": paths.cosine,
        "polynomial": paths.polynomial,
        "inverse_cosine": paths.inverse_cosine,
        "ve": paths.ve,
        "edm": paths.edm,
        "discrete": paths.discrete,
        "shifted": paths.shifted,
        "bridge": paths.bridge,
        "interpolant": paths.interpolant,
        "mixture": paths.mixture,
        "metric": paths.metric,
        "gidd": paths.gidd,
        "duo": paths.duo,
        "edits": paths.edits,
        "fisher": paths.fisher,
        "dirichlet": paths.dirichlet,
    },
    "distances": {"levels": paths.levels},
    "schedule": {
        "linear": schedules.Linear,
        "cosine": schedules.Cosine,
        "polynomial": schedules.Polynomial,
        "vp": schedules.VP,
        "linear_vp": schedules.LinearVP,
    },
    "gamma": {
        "brownian": gammas.brownian,
        "quadratic": gammas.quadratic,
        "sine_squared": gammas.sine_squared,
        "constant": gammas.constant,
    },
    "kappa": {
        name: getattr(kappas, name)
        for name in ("linear", "polynomial", "cosine", "cosine_squared", "geometric")
    },
    "network": {
        "mlp": networks.MLP,
        "concat_mlp": networks.ConcatMLP,
        "unet": networks.UNet,
        "dit": networks.DiT,
        "transformer": networks.Transformer,
        "block_transformer": networks.BlockTransformer,
        "edit_transformer": networks.EditTransformer,
        "discrete": networks.Discrete,
    },
    "loss": {
        "flow_matching": losses.flow_matching,
        "contrastive": losses.contrastive,
        "cross_entropy": losses.cross_entropy,
        "generalised_kl": losses.generalised_kl,
        "discrete_consistency": losses.discrete_consistency,
        "edits": losses.edits,
        "consistency_flow_matching": losses.consistency_flow_matching,
        **{name: getattr(flow_maps, name) for name in flow_maps.__all__},
    },
    "spans": {
        "spans": draws.spans,
        "dyadic": draws.dyadic,
        "to_end": draws.to_end,
        "groups": draws.groups,
    },
    "weight": {name: getattr(losses.weights, name) for name in losses.weights.__all__},
    "optimizer": {
        "adam": optax.adam,
        "adamw": optax.adamw,
        "sgd": optax.sgd,
        "lion": optax.lion,
        "muon": training.muon,
    },
    "learning_rate": {"constant": constant, "cosine": cosine},
    "alpha": {"falling": falling},
    "sampler": {
        "fixed_step": sampling.fixed_step,
        "adaptive": sampling.adaptive,
        "sde": sampling.sde,
        "flow_map": sampling.flow_map,
        "jumps": sampling.jumps,
        "first_hitting": sampling.first_hitting,
        "entropy_bounded": sampling.entropy_bounded,
        "by_block": sampling.by_block,
        "edits": sampling.edits,
    },
    "grid": {
        "uniform": sampling.grids.uniform,
        "shifted": sampling.grids.shifted,
        "cosine": sampling.grids.cosine,
        "karras": sampling.grids.karras,
        "flux": sampling.grids.flux,
        "beta": sampling.grids.beta,
        "linear_quadratic": sampling.grids.linear_quadratic,
    },
    "method": {name: getattr(methods, name) for name in methods.__all__},
    "leap": {name: getattr(leaps, name) for name in leaps.__all__},
    "diffusion": {
        name: getattr(sampling.diffusions, name) for name in ("sigma", "sine", "noising")
    },
    "guidance": {
        name: getattr(velocities, name)
        for name in ("classifier_free", "composed", "thresholded", "temperature", "top_p")
    },
    "rule": {name: getattr(velocities, name) for name in RULES},
    "solver": {
        "bosh3": diffrax.Bosh3,
        "dopri5": diffrax.Dopri5,
        "dopri8": diffrax.Dopri8,
        "heun": diffrax.Heun,
        "tsit5": diffrax.Tsit5,
        "euler": diffrax.Euler,
        "shark": diffrax.ShARK,
        "sra1": diffrax.SRA1,
    },
}

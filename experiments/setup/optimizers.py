"""From the optimizer section of a config to a transformation, and to averages."""

import optax
from ml_collections import ConfigDict

from experiments.setup.components import component
from experiments.setup.learns import parts_of
from jaxflow import training

__all__ = ["averages", "optimizer"]


def optimizer(config: ConfigDict, turn: int = 1) -> optax.GradientTransformation:
    """The optimiser, behind a clip of the gradient's norm and a guard where these are not 0.

    A generator beside a critic has its own, which waits for its turn, one of so many steps.
    """
    section, parts = config.optimizer, parts_of(config)
    spec = {"name": section.name, "kwargs": section.kwargs.to_dict()}

    def clipped(steps: int) -> optax.GradientTransformation:
        found = component("optimizer", spec, steps=steps)
        clip = optax.clip_by_global_norm(section.clip) if section.clip else None
        return found if clip is None else optax.chain(clip, found)

    transformation = clipped(config.steps)
    if parts:
        generator, critic = parts
        own = clipped(-(-config.steps // turn))
        each = {generator: training.in_turn(own), critic: transformation}
        transformation = optax.partition(each, dict(zip(parts, parts, strict=True)))
    if section.spike_deviations:
        return training.without_spikes(transformation, deviations=section.spike_deviations)
    return transformation


def averages(decay: float | ConfigDict) -> float | dict[str, float]:
    """One average, or several by name, of which samples are drawn from "ema".

    Raises:
        ValueError: where that one is missing.
    """
    if not isinstance(decay, ConfigDict):
        return decay
    if "ema" not in decay:
        raise ValueError(
            f"config.optimizer.ema_decay has the averages {sorted(decay)}, but samples are drawn "
            "from 'ema': name one so"
        )
    return decay.to_dict()

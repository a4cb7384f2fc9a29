"""Whether a config that learns or samples by a flow map is whole."""

import jax
from ml_collections import ConfigDict

from experiments.setup import build, dataset
from experiments.setup.components import component
from experiments.setup.learns import is_of_one_step, learns_map, learns_velocity, restarts
from jaxflow.draws.chain import on_host
from jaxflow.losses import flow_maps
from jaxflow.training import Layout, check_divides

__all__ = ["check_groups", "check_maps"]

GUIDED = ("mean_flow", "improved_mean_flow")


def check_maps(config: ConfigDict) -> None:
    """Refuse a flow map that nothing teaches, or one that is guided twice.

    Raises:
        ValueError: naming the key, its value and the remedy.
    """
    if learns_map(config) and config.self_condition.rate:
        raise ValueError(
            f"config.self_condition.rate is {config.self_condition.rate}, but "
            f"config.loss ({config.loss.name}) differentiates its network by the time and the "
            "point, and an estimate is of neither: set it to 0"
        )
    if config.guided.most:
        _check_guided(config)
    if config.sampler.name != "flow_map":
        _check_velocity(config)
        return
    if not learns_map(config):
        raise ValueError(
            f"config.sampler is flow_map, but config.loss ({config.loss.name}) teaches no flow "
            f"map: name one of {', '.join(flow_maps.__all__)}, or another sampler"
        )
    if config.sampler.guidance != 1.0 and not config.guided.most:
        raise ValueError(
            f"config.sampler.guidance is {config.sampler.guidance}, but a flow map is guided as it "
            "learns: set it to 1.0, and --config.loss.kwargs.scale of mean_flow, or train with "
            "every scale up to 8 by --config.guided.most=8.0"
        )
    _check_steps(config)


def _check_guided(config: ConfigDict) -> None:
    """Refuse guidance as a condition that no loss teaches, or a scale that was not taught."""
    most, loss, kwargs = config.guided.most, config.loss.name, config.loss.kwargs
    if most <= 1:
        raise ValueError(
            f"config.guided.most is {most!r}: it is the largest scale of guidance that is learned, "
            "above 1, or 0 for none"
        )
    if loss not in GUIDED:
        raise ValueError(
            f"config.guided.most is {most}, but config.loss ({loss}) learns no guidance: name one "
            f"of {', '.join(GUIDED)}, or set it to 0.0"
        )
    if "scale" in kwargs or "mix" in kwargs:
        raise ValueError(
            f"config.guided.most is {most}, which takes the scale of every example, but "
            f"config.loss.kwargs is {kwargs.to_dict()}: leave scale and mix out"
        )
    if not config.drop.rate:
        raise ValueError(
            f"config.guided.most is {most}, but config.drop.rate is 0: guidance is from a network "
            "that met the null, as --config.drop.rate=0.1"
        )
    guidance, scale = config.sampler.guidance, build.guidance_scale(config)
    if isinstance(guidance, ConfigDict) and (
        guidance.name != "classifier_free" or set(guidance.kwargs) - {"scale", "interval"}
    ):
        raise ValueError(
            f"config.sampler.guidance is {guidance.to_dict()}, but guidance that was learned has a "
            "scale and an interval alone: {'name': 'classifier_free', 'kwargs': {'scale': 2.0, "
            "'interval': (0.0, 1.0)}}"
        )
    if isinstance(scale, int | float) and not 1 <= scale <= most:
        raise ValueError(
            f"config.sampler.guidance is {scale}, but the network learns scales from 1 to "
            f"config.guided.most, {most}"
        )


def check_groups(config: ConfigDict, layout: Layout) -> None:
    """Refuse groups of examples that the batch, or its part on a device, does not divide into.

    Raises:
        ValueError: naming the numbers.
    """
    draw = build.draw(config)
    if not learns_map(config) or on_host(draw):
        return
    batch = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct((config.batch_size, *a.shape[1:]), a.dtype),
        dataset.example_batch(config),
    )
    try:
        drawn = jax.eval_shape(draw, jax.random.key(0), batch)
        if "groups" in drawn:
            n, size = len(drawn["x1"]), drawn["groups"].size
            check_divides(n, layout, config.parallel.microbatches, f" groups of {size}")
    except ValueError as error:
        raise ValueError(f"config.batch_size is {config.batch_size}: {error}") from error


def _check_velocity(config: ConfigDict) -> None:
    """Refuse a sampler of velocities where none is learned."""
    if learns_map(config) and not learns_velocity(config):
        where = " where config.spans is to_end" if restarts(config) else ""
        raise ValueError(
            f"config.sampler is {config.sampler.name}, but config.loss ({config.loss.name}) "
            f"teaches no velocity{where}: set --config.sampler.name=flow_map"
        )


def _check_steps(config: ConfigDict) -> None:
    """Refuse steps that the map was not taught."""
    kwargs = config.sampler.kwargs
    steps = len(component("sampler.kwargs.grid", kwargs.grid, table="grid")) - 1
    if is_of_one_step(config) and steps > 1:
        raise ValueError(
            f"config.sampler takes {steps} steps, but config.loss ({config.loss.name}) teaches one "
            "from the source to the data: set --config.sampler.kwargs.grid.kwargs.n=1"
        )
    if restarts(config) and steps > 1 and kwargs.get("noise", 0.0) != 1.0:
        raise ValueError(
            f"config.sampler takes {steps} steps, but under config.spans to_end every one leads to "
            "the data: start anew from it, --config.sampler.kwargs.noise=1.0"
        )

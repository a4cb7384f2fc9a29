"""Whether a config that learns or samples by a flow map is whole."""

from ml_collections import ConfigDict

from experiments.setup import build
from jaxflow.losses import flow_maps

__all__ = ["check_maps"]


def check_maps(config: ConfigDict) -> None:
    """Refuse a flow map that nothing teaches, or one that is guided twice.

    Raises:
        ValueError: naming the key, its value and the remedy.
    """
    if build.learns_map(config) and config.self_condition.rate:
        raise ValueError(
            f"config.self_condition.rate is {config.self_condition.rate}, but "
            f"config.loss ({config.loss.name}) differentiates its network by the time and the "
            "point, and an estimate is of neither: set it to 0"
        )
    if config.sampler.name != "flow_map":
        return
    if not build.learns_map(config):
        raise ValueError(
            f"config.sampler is flow_map, but config.loss ({config.loss.name}) teaches no flow "
            f"map: name one of {', '.join(flow_maps.__all__)}, or another sampler"
        )
    if config.sampler.guidance != 1.0:
        raise ValueError(
            f"config.sampler.guidance is {config.sampler.guidance}, but a flow map is guided as it "
            "learns: set it to 1.0, and --config.loss.kwargs.scale of mean_flow"
        )

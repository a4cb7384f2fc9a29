"""Whether a config's teacher can teach its loss: of the same points, times and conditions."""

from ml_collections import ConfigDict

from experiments.setup import dataset
from experiments.setup.components import component
from experiments.setup.learns import learns_map, learns_velocity
from experiments.setup.tables import TABLES
from experiments.setup.teacher import config_of_teacher, parameter_of

__all__ = ["check_teacher"]


def check_teacher(config: ConfigDict) -> None:
    """Refuse a loss without the teacher that it needs, or a teacher that it cannot learn from.

    Raises:
        FileNotFoundError: where the folder holds no run.
        ValueError: naming the key, its value and the remedy.
    """
    loss, wanted = config.loss.name, parameter_of(config.loss.name)
    needs = wanted is not None and wanted.default is wanted.empty
    if config.teacher is None or (needs and not config.teacher):
        raise ValueError(
            f"config.loss ({loss}) is to learn from a trained run: name its folder by "
            "--config.teacher=DIR"
        )
    if not config.teacher:
        return
    if wanted is None:
        takers = ", ".join(name for name in TABLES["loss"] if parameter_of(name))
        raise ValueError(
            f"config.teacher is {config.teacher!r}, but config.loss ({loss}) takes no teacher: "
            f"name one of {takers}, or leave the teacher out"
        )
    other = config_of_teacher(config)
    if not learns_velocity(other):
        raise ValueError(
            f"config.teacher is {config.teacher!r}, whose loss ({other.loss.name}) teaches no "
            "velocity: choose the run of a flow"
        )
    _check_law(config, other)
    _check_conditions(config, other)
    _check_shape(config, other)
    guidance = other.sampler.guidance
    if learns_map(other) and guidance != 1.0 and not other.guided.most:
        raise ValueError(
            f"config.teacher is {config.teacher!r}, a flow map with sampler.guidance "
            f"{guidance}, which guides its velocity and not its map: set it to 1.0 "
            "there, by that run's own command"
        )


def _check_law(config: ConfigDict, other: ConfigDict) -> None:
    """A velocity is of points on its own path from its own source."""
    for name in ("path", "source"):
        if component(name, config[name]) != component(name, other[name]):
            raise ValueError(
                f"config.{name} is {config[name].name} with {config[name].kwargs.to_dict()}, but "
                f"the teacher in {config.teacher} was trained on {other[name].name} with "
                f'{other[name].kwargs.to_dict()}: set --config.{name}="{other[name].to_dict()}"'
            )


def _check_conditions(config: ConfigDict, other: ConfigDict) -> None:
    """Those of the batch are what the teacher is called with, nulls of dropped ones too."""
    where = f"the teacher in {config.teacher}"
    if set(config.data.cond) != set(other.data.cond):
        raise ValueError(
            f"config.data.cond is {list(config.data.cond)}, but {where} was trained with "
            f"{list(other.data.cond)}: set it to the same"
        )
    classes = [
        getattr(component("network", c.network), "num_classes", None) for c in (config, other)
    ]
    if "label" in config.data.cond and classes[0] != classes[1]:
        raise ValueError(
            f"config.network.kwargs.num_classes is {classes[0]}, but that of {where} is "
            f"{classes[1]}: set it to the same"
        )
    if config.drop.rate and not (other.drop.rate and config.drop.null == other.drop.null):
        raise ValueError(
            f"config.drop puts {config.drop.null.to_dict()} for what it drops, which {where} never "
            f"met (its drop is {other.drop.to_dict()}): set config.drop.rate to 0"
        )


def _check_shape(config: ConfigDict, other: ConfigDict) -> None:
    if config.data.source == other.data.source:
        return
    own, others = (dataset.example_batch(c)["x1"].shape[1:] for c in (config, other))
    if own != others:
        raise ValueError(
            f"the data of config.data.source ({config.data.source.name}) has shape {own}, but that "
            f"of the teacher in {config.teacher} {others}: choose a teacher of such data"
        )

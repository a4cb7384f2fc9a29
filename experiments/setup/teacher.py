"""What another run learned, as a network whose parameters a state holds frozen."""

import dataclasses
import inspect
import json
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from experiments.setup.snapshot import read_config
from experiments.setup.tables import TABLES
from jaxflow.records import record
from jaxflow.types import Key, Network, Params, Velocity
from jaxflow.velocities.network import NetworkVelocity

__all__ = ["Teacher", "config_of_teacher", "made_of", "parameter_of"]

# The sections of a config that its velocity is made of, beside the scale of guidance.
SECTIONS = ("network", "preconditioned", "self_condition", "path", "loss", "drop")


@record
class Teacher:
    """The velocity of a run, guided where its config says so, of parameters that come later.

    Given a second time `r`, the average velocity from `t` to `r` where the run learned a flow map,
    and the velocity at `t` where it did not.
    """

    velocity: Velocity
    flow_map: Network | None

    @property
    def gathers(self) -> bool:
        """Whether the layers of its networks gather their parameters (`jaxflow.sharding`)."""
        nodes = jax.tree.leaves(self.velocity, is_leaf=_is_network)
        return all(getattr(n.network, "gathers", False) for n in nodes if _is_network(n))

    def __call__(
        self, params: Params, t: Any, x: Any, *, r: Any = None, key: Key | None = None, **cond: Any
    ) -> Any:
        if r is not None and self.flow_map is not None:
            return self.flow_map(params, t, x, r=r, **cond)
        return _with_params(self.velocity, params)(t, x, **cond)


def _is_network(node: Any) -> bool:
    return isinstance(node, NetworkVelocity)


def _with_params(velocity: Velocity, params: Params) -> Velocity:
    """The velocity with parameters in every network that it is made of."""

    def filled(node: Any) -> Any:
        return dataclasses.replace(node, params=params) if _is_network(node) else node

    return jax.tree.map(filled, velocity, is_leaf=_is_network)


def config_of_teacher(config: ConfigDict) -> ConfigDict:
    """The config of the run in the folder `config.teacher`.

    Raises:
        FileNotFoundError: where there is none.
        ValueError: where it is damaged.
    """
    try:
        return read_config(epath.Path(config.teacher))
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"config.teacher: {error}") from error


def made_of(config: ConfigDict) -> Mapping[str, Any]:
    """The parts of the teacher's config that its velocity is made of; none without a teacher.

    Raises:
        FileNotFoundError: where there is no such run.
    """
    if not config.teacher:
        return {}
    other = config_of_teacher(config)
    parts = {name: other[name] for name in SECTIONS} | {"guidance": other.sampler.guidance}
    if other.guided.most:
        parts["guided"] = other.guided
    return json.loads(ConfigDict(parts).to_json())


def parameter_of(loss: str) -> inspect.Parameter | None:
    """How the loss of a name takes a teacher; None where it does not."""
    factory = TABLES["loss"].get(loss)
    return None if factory is None else inspect.signature(factory).parameters.get("teacher")

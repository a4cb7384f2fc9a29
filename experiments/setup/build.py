"""From a config to objects: the objective, its optimiser, the compiled run and its sampler."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from experiments.setup import dataset
from experiments.setup.components import bound, component
from experiments.setup.learns import are_soft, block_of, learns_map, learns_tokens, parts_of
from experiments.setup.optimizers import averages, optimizer
from experiments.setup.teacher import Teacher, config_of_teacher, parameter_of
from experiments.setup.tokens import is_told, jumped
from jaxflow import draws, losses, networks, training, velocities
from jaxflow.networks.adapters import Linen, SelfConditioned
from jaxflow.paths.ends import interval_of
from jaxflow.types import (
    Array,
    Batch,
    Draw,
    FlowMap,
    Loss,
    Network,
    Params,
    Path,
    Solution,
    Times,
    TrainState,
    Velocity,
)
from jaxflow.velocities.flow_map import Instantaneous, NetworkFlowMap
from jaxflow.velocities.informed import Informed
from jaxflow.velocities.preconditioned import Preconditioned


def layout(config: ConfigDict, devices: Sequence[Any] | None = None) -> training.Layout:
    """How the state lies over devices, over all that are here where None."""
    axes = config.parallel.axes
    return training.layout(
        config.parallel.layout,
        devices=devices,
        fsdp=axes.fsdp,
        tensor=axes.tensor,
        tensor_axes=getattr(component("network", config.network), "tensor_axes", None),
    )


def path(config: ConfigDict) -> Path:
    """The path, of the config's source where it is of tokens."""
    return component("path", config.path, source=component("source", config.source))


def network(config: ConfigDict) -> Linen | Preconditioned | SelfConditioned | Informed:
    """The network, as a pure function with `.init`, in what the config wraps it in.

    Where it is preconditioned and reads its own estimate, that is one of the data. Of tokens that
    begin as others it says what the others tell of each.
    """
    found: Any = networks.linen(component("network", config.network))
    if config.preconditioned.sigma_data:
        found = velocities.preconditioned(found, path(config), config.preconditioned.sigma_data)
    found = networks.self_conditioned(found) if config.self_condition.rate else found
    return velocities.informed(found, path(config)) if is_told(config) else found


def draw(config: ConfigDict) -> Draw:
    """Everything random in the objective."""
    others = []
    if config.loss.name == "distribution_matching":
        others.append(draws.noise(component("source", config.source)))
    elif learns_map(config):
        own = {"times": times(config), "interval": interval_of(path(config))}
        others.append(component("spans", config.spans, **own))
    if config.guided.most:
        others.append(draws.guidance(config.guided.most))
    if config.loss.name == "contrastive":
        others.append(draws.negatives("label" if "label" in config.data.cond else None))
    return draws.chain(flow_draw(config), *others) if others else flow_draw(config)


def flow_draw(config: ConfigDict) -> Draw:
    """What is random where a velocity alone is learned: pairs, their times, what is dropped."""
    drop = draws.drop(config.drop.rate, config.drop.null.to_dict()) if config.drop.rate else None
    usual = draws.standard(
        path(config),
        source=component("source", config.source),
        coupling=component("coupling", config.coupling),
        times=times(config),
        drop=drop,
    )
    rate, block = config.self_condition.rate, block_of(config)
    others = [draws.self_condition(rate)] if rate else []
    if block:
        others.append(draws.by_block(path(config), block, times=times(config)))
    return draws.chain(usual, *others) if others else usual


def times(config: ConfigDict) -> Times:
    """The times of training."""
    return component("times", config.times, path=path(config))


def loss(config: ConfigDict, taught_by: Network | None = None) -> Loss:
    """The loss of the network on the path.

    Without a teacher, one that needs a teacher is given the network itself: it cannot train, and
    tells what its output means.
    """
    given = of_weight(config)
    wanted = parameter_of(config.loss.name)
    if taught_by is None and wanted is not None and wanted.default is wanted.empty:
        taught_by = network(config)
    if taught_by is not None:
        given["teacher"] = taught_by
    if learns_map(config) and config.drop.null:
        given["null"] = config.drop.null.to_dict()
    if config.guided.most:
        given["scale"] = None
    return component("loss", config.loss, network=network(config), **given)


def flow_loss(config: ConfigDict, of: Network | None = None) -> Loss:
    """The loss of the velocity alone, by `flow_draw`: of a flow map that at equal times.

    Of another network `of`, which takes no second time, where one is given.
    """
    is_map = learns_map(config)
    if of is None:
        of = Instantaneous(network(config)) if is_map else network(config)
    if is_map or config.loss.name == "contrastive":
        return losses.flow_matching(of, path(config))
    return component("loss", config.loss, network=of, **of_weight(config))


def teacher(config: ConfigDict) -> Network | None:
    """What the run in `config.teacher` learned, by its own config; None without one."""
    if not config.teacher:
        return None
    other = config_of_teacher(config)
    return Teacher(velocity(other, None), _at_scale(other) if learns_map(other) else None)


def of_weight(config: ConfigDict) -> dict[str, Any]:
    """What a loss and its weight may be of: path, times, steps, and the deviation of the data."""
    own = {"path": path(config), "drawn": times(config), "steps": config.steps}
    deviation = config.preconditioned.sigma_data
    return {**own, "sigma_data": deviation} if deviation else own


def trainer(config: ConfigDict, *, taught: bool = True) -> training.Trainer:
    """The training run as pure functions; `taught` by the teacher that the config names."""
    found = loss(config, teacher(config) if taught else None)
    return training.trainer(
        found,
        optimizer(config, turn=getattr(found, "turn", 1)),
        draw=draw(config),
        ema_decay=averages(config.optimizer.ema_decay),
        microbatches=config.parallel.microbatches,
        axis_name=None if config.parallel.mode == "jit" else "data",
    )


def parameters(config: ConfigDict, key: Array) -> Params:
    """Fresh parameters for the shapes of the data, on the host; of several parts alike."""
    batch = dataset.example_batch(config)
    x1 = jnp.asarray(batch["x1"])
    given = _conditions(config, batch)
    return _of_parts(config, network(config).init_on_host(key, jnp.zeros(len(x1)), x1, **given))


def _of_parts(config: ConfigDict, params: Params) -> Params:
    parts = parts_of(config)
    return dict.fromkeys(parts, params) if parts else params


def _conditions(config: ConfigDict, batch: Batch) -> dict[str, Any]:
    """Those of a batch, the second time of a flow map, and guidance that it is told."""
    n = len(batch["x1"])
    second = {"r": jnp.zeros(n)} if learns_map(config) else {}
    told = {"guidance": jnp.ones((n, 3))} if config.guided.most else {}
    before = {"clean": jnp.asarray(batch["x1"])} if block_of(config) else {}
    return {**batch["cond"], **second, **told, **before}


def shapes(config: ConfigDict, batch: Batch) -> Params:
    """Those of the parameters, for the shapes of a batch."""

    def init(key: Array, batch: Batch) -> Params:
        x1 = batch["x1"]
        found = network(config).init(key, jnp.zeros(len(x1)), x1, **_conditions(config, batch))
        return _of_parts(config, found)

    return jax.eval_shape(init, jax.random.key(0), batch)


def program(config: ConfigDict, devices: Sequence[Any] | None = None) -> training.Program:
    """The compiled run, over all devices that are here where None."""
    parallel = config.parallel
    return training.program(
        trainer(config),
        mode=parallel.mode,
        layout=layout(config, devices),
        reduce_dtype=parallel.reduce_dtype or None,
        keep_gathered=parallel.keep_gathered,
    )


def initial_state(
    config: ConfigDict,
    compiled: training.Program,
    *,
    started: Callable[[Params], Params] = lambda fresh: fresh,
    frozen: Params = None,
) -> TrainState:
    """The state of step 0, a pure function of the seed, of what `started` makes of fresh
    parameters, and of a teacher's, which are `frozen`.
    """
    params_key, run_key = jax.random.split(jax.random.key(config.seed))
    return compiled.init(started(parameters(config, params_key)), run_key, frozen)


def learned(config: ConfigDict, params: Params) -> Velocity:
    """The velocity that was trained, without guidance; of a flow map that at equal times, and of
    tokens that jump their logits.
    """
    if learns_map(config):
        return _flow_map(config, network(config), params).velocity
    if learns_tokens(config):
        logits = velocities.from_network(network(config), params)
        return velocities.from_logits(logits, path(config)) if are_soft(config) else logits
    trained: Any = loss(config)
    return velocities.from_network(
        network(config), params, path=path(config), prediction=trained.prediction
    )


def velocity(config: ConfigDict, params: Params) -> Velocity:
    """The velocity to sample with: the trained one, guided where the config says so.

    `sampler.guidance` is the scale of classifier-free guidance, or a component of its own.
    """
    if config.guided.most:
        return _flow_map(config, _at_scale(config), params).velocity
    guidance, trained = config.sampler.guidance, learned(config, params)
    null = config.drop.null.to_dict()
    if isinstance(guidance, ConfigDict):
        where = "sampler.guidance"
        given = {"velocity": trained, "logits": trained, "null": null}
        return component(where, guidance, table="guidance", **given)
    if guidance == 1.0:
        return trained
    return velocities.classifier_free(trained, scale=guidance, null=null)


def flow(config: ConfigDict, params: Params) -> Velocity | FlowMap:
    """What the sampler carries samples by: the velocity, or the flow map itself."""
    if config.sampler.name == "flow_map":
        return _flow_map(config, _at_scale(config), params)
    return velocity(config, params)


def _flow_map(config: ConfigDict, of: Network, params: Params) -> NetworkFlowMap:
    """Of the first part, the generator, where there are several."""
    parts = parts_of(config)
    own = params[parts[0]] if parts else params
    return velocities.flow_map(of, own, path=path(config))


def _at_scale(config: ConfigDict) -> Network:
    """The network, at the sampler's scale of guidance where it learned every one."""
    guidance = config.sampler.guidance
    if not config.guided.most:
        return network(config)
    if not isinstance(guidance, ConfigDict):
        return velocities.at_scale(network(config), guidance)
    return velocities.at_scale(network(config), **guidance.kwargs.to_dict())


def guidance_scale(config: ConfigDict) -> float:
    """The scale of guidance; 1 where a component has no single one."""
    guidance = config.sampler.guidance
    return guidance.kwargs.get("scale", 1.0) if isinstance(guidance, ConfigDict) else guidance


def sampler(config: ConfigDict) -> Callable[..., Solution]:
    """`(velocity, x0, cond=...) -> Solution` as the config says, on the config's path.

    One that takes `keys` needs them where its method draws noise.
    """
    spec = {key: config.sampler.to_dict()[key] for key in ("name", "kwargs")}
    return bound("sampler", spec, path=jumped(path(config)), block=block_of(config))


def precision(config: ConfigDict) -> str:
    """What networks compute in while samples are drawn."""
    default = inspect.signature(sampler(config)).parameters["precision"].default
    return config.sampler.kwargs.get("precision", default)

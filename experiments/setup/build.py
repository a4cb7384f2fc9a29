"""From a config to objects: the only reader of a ConfigDict."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from experiments.setup.components import bound, component
from jaxflow import data, draws, networks, training, velocities
from jaxflow.data.pipeline import Batches
from jaxflow.data.transforms import Flip, apply
from jaxflow.draws import on_host
from jaxflow.networks.adapters import Linen
from jaxflow.types import (
    Array,
    Batch,
    Draw,
    Loss,
    Params,
    Path,
    Solution,
    Trainer,
    TrainState,
    Velocity,
)

Stream = Any


def layout(config: ConfigDict) -> training.Layout:
    """How the state lies over all devices."""
    axes = config.parallel.axes
    return training.layout(
        config.parallel.layout,
        fsdp=axes.fsdp,
        tensor=axes.tensor,
        tensor_axes=getattr(component("network", config.network), "tensor_axes", None),
    )


def path(config: ConfigDict) -> Path:
    """The path."""
    return component("path", config.path)


def network(config: ConfigDict) -> Linen:
    """The network, as a pure function with `.init`."""
    return networks.linen(component("network", config.network))


def draw(config: ConfigDict) -> Draw:
    """Everything random in the objective."""
    drop = draws.drop(config.drop.rate, config.drop.null) if config.drop.rate else None
    return draws.standard(
        path(config),
        source=component("source", config.source),
        coupling=component("coupling", config.coupling),
        times=component("times", config.times),
        drop=drop,
    )


def loss(config: ConfigDict) -> Loss:
    """The loss of the network on the path."""
    return component("loss", config.loss, network=network(config), path=path(config))


def optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """The optimiser, behind a clip of the gradient's norm and a guard where these are not 0."""
    section = config.optimizer
    transformation = component("optimizer", _spec(section), steps=config.steps)
    if section.clip:
        transformation = optax.chain(optax.clip_by_global_norm(section.clip), transformation)
    if section.spike_deviations:
        return training.without_spikes(transformation, deviations=section.spike_deviations)
    return transformation


def trainer(config: ConfigDict) -> Trainer:
    """The training run as pure functions."""
    return training.trainer(
        loss(config),
        optimizer(config),
        draw=draw(config),
        ema_decay=config.optimizer.ema_decay,
        microbatches=config.parallel.microbatches,
        axis_name=None if config.parallel.mode == "jit" else "data",
    )


def flops(config: ConfigDict, state: TrainState) -> int | None:
    """Operations of a training step without its draw; None where the draw needs the host."""
    if on_host(draw(config)):
        return None
    single = config.copy_and_resolve_references()
    with single.unlocked():
        single.parallel.mode = "jit"
    batch = example_batch(config, config.batch_size)
    batch = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), batch)
    run = trainer(single)
    drawn = jax.eval_shape(run.draw, jax.random.key(0), batch)
    return training.flops(run.step, state, drawn)


def batches(config: ConfigDict, start: int, share: tuple[int, int] = (0, 1)) -> Stream | Batches:
    """What the run trains on from position `start`: a stream on the device, or a host's batches.

    Of a host's batches, `share = (i, n)` reads the `i`-th of `n` equal runs of rows.

    Raises:
        ValueError: where the data does not fit its config, or holds a value that is not finite.
        FileNotFoundError: where the data set is missing.
    """
    section = config.data
    found = component("data.source", section.source)
    if hasattr(found, "sample"):
        return data.stream(found, batch_size=config.batch_size, seed=config.seed)
    if section.on_device:
        columns = _columns(data.load(found), section.cond)
        for name, column in columns.items():
            data.check_finite(name, column)
        check_labels(config, columns)
        return data.on_device(
            columns,
            batch_size=config.batch_size,
            seed=config.seed,
            transforms=transforms(config),
        )
    return data.pipeline(
        found,
        batch_size=config.batch_size,
        seed=config.seed,
        transforms=transforms(config),
        cond=tuple(section.cond),
        start=start,
        process_index=share[0],
        process_count=share[1],
        workers=section.workers,
        unreadable_at_most=section.unreadable_at_most,
    )


def examples(config: ConfigDict, split: str) -> dict[str, np.ndarray]:
    """A split of the data as the network sees it, `x1` and conditions, without flips."""
    spec = config.data.source.to_dict()
    spec["kwargs"]["split"] = split
    columns = _columns(data.load(component("data.source", spec)), config.data.cond)
    kept = [t for t in transforms(config) if not isinstance(t, Flip)]
    keys = jax.random.split(jax.random.key(config.seed), len(columns["x1"]))
    scaled = jax.vmap(lambda x, key: apply(kept, x, key))(jnp.asarray(columns["x1"]), keys)
    return {**columns, "x1": np.asarray(scaled)}


def is_distribution(config: ConfigDict) -> bool:
    """Whether the data is drawn without end from a distribution."""
    return hasattr(component("data.source", config.data.source), "sample")


def fresh(config: ConfigDict, n: int, seed: int) -> np.ndarray:
    """Samples of a distribution that training never saw."""
    found = component("data.source", config.data.source)
    return np.asarray(found.sample(jax.random.split(jax.random.key(seed), n)))


def example_batch(config: ConfigDict, n: int = 1) -> Batch:
    """A batch of `n`, which tells every shape."""
    found = component("data.source", config.data.source)
    if hasattr(found, "sample"):
        return data.stream(found, batch_size=n, seed=config.seed).batch(0)
    one = data.pipeline(
        found,
        batch_size=n,
        seed=config.seed,
        transforms=transforms(config),
        cond=tuple(config.data.cond),
        unreadable_at_most=config.data.unreadable_at_most,
    )
    batch = data.check(next(one))
    one.close()
    return batch


def parameters(config: ConfigDict, key: Array) -> Params:
    """Fresh parameters for the shapes of the data, on the host."""
    batch = example_batch(config)
    x1 = jnp.asarray(batch["x1"])
    return network(config).init_on_host(key, jnp.zeros(len(x1)), x1, **batch["cond"])


def learned(config: ConfigDict, params: Params) -> Velocity:
    """The velocity that was trained."""
    trained: Any = loss(config)
    return velocities.from_network(
        network(config), params, path=path(config), prediction=trained.prediction
    )


def velocity(config: ConfigDict, params: Params) -> Velocity:
    """The velocity to sample with: the trained one, guided where the config says so."""
    if config.sampler.guidance == 1.0:
        return learned(config, params)
    return velocities.classifier_free(
        learned(config, params), scale=config.sampler.guidance, null=config.drop.null.to_dict()
    )


def sampler(config: ConfigDict) -> Callable[..., Solution]:
    """`(velocity, x0, cond=...) -> Solution` as the config says."""
    return bound("sampler", _spec(config.sampler))


def _spec(section: ConfigDict) -> dict[str, Any]:
    """The component of a section that says more than its component."""
    found = section.to_dict()
    return {"name": found["name"], "kwargs": found["kwargs"]}


def levels(config: ConfigDict) -> int | None:
    """How many values a pixel takes, where the data is scaled from whole numbers."""
    found = [t.levels for t in transforms(config) if hasattr(t, "levels")]
    return found[0] if found else None


def transforms(config: ConfigDict) -> tuple[Any, ...]:
    """What is done to each example, in order."""
    return tuple(
        component(f"data.transforms[{i}]", spec, table="transforms")
        for i, spec in enumerate(config.data.transforms)
    )


def check_labels(config: ConfigDict, cond: Mapping[str, Any]) -> None:
    """Refuse labels that the network has no class for.

    Raises:
        ValueError: naming the label and the number of classes.
    """
    if "label" not in cond:
        return
    classes, label = _classes(config), np.asarray(cond["label"])
    if label.min() < 0 or label.max() >= classes:
        raise ValueError(
            f"labels run from {label.min()} to {label.max()}, but the network has classes 0 to "
            f"{classes - 1}: set config.network.kwargs.num_classes"
        )


def check_null_label(config: ConfigDict) -> None:
    """Refuse a null label that is none of the network's classes, nor the place behind them.

    Raises:
        ValueError: naming the label and the number of classes.
    """
    classes, null = _classes(config), config.drop.null.label
    if null not in range(classes + 1):
        raise ValueError(
            f"config.drop.null.label is {null}, but the network has classes 0 to {classes - 1}, "
            f"and {classes} for none"
        )


def _classes(config: ConfigDict) -> int:
    classes = getattr(component("network", config.network), "num_classes", None)
    if classes is None:
        raise ValueError(
            f"config.data.cond names 'label', but config.network ({config.network.name}) has no "
            "num_classes: set config.network.kwargs.num_classes, or leave the label out"
        )
    return classes


def _columns(columns: Mapping[str, np.ndarray], cond: Any) -> dict[str, np.ndarray]:
    """The data as `x1`, and the conditions that the config names."""
    missing = [name for name in cond if name not in columns]
    if missing:
        raise ValueError(
            f"config.data.cond names {missing[0]!r}, but the data has {sorted(columns)}"
        )
    x1 = columns["image"] if "image" in columns else columns["x1"]
    return {"x1": x1, **{name: np.asarray(columns[name]) for name in cond}}

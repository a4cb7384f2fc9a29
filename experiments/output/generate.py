"""Samples of a trained run, a batch at a time, on every device of every process."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from experiments.output.pictures import is_image
from experiments.setup import build, dataset
from experiments.setup.components import component
from experiments.setup.tokens import hardened
from jaxflow import paths
from jaxflow.training import processes
from jaxflow.training.checkpoint import Read, read_params
from jaxflow.types import Array, Key, Keys, Params

__all__ = [
    "Generator",
    "Pairs",
    "Samples",
    "average",
    "conditions",
    "generator",
    "joined",
    "noise_keys",
    "padded",
    "spread",
    "starts",
]

NOISE = 0x5DE  # apart from the key of the start


class Samples(NamedTuple):
    """Samples, their conditions by name, and what each cost.

    `nfe` counts calls of the velocity; the network was called `evaluations` times as often.
    """

    x: np.ndarray
    cond: dict[str, np.ndarray]
    nfe: np.ndarray
    success: np.ndarray
    evaluations: int


class Pairs(NamedTuple):
    """Samples as the solver left them, and the draws of the source that it set out from."""

    x0: np.ndarray
    samples: Samples


def conditions(config: ConfigDict, num: int) -> dict[str, np.ndarray]:
    """Labels in turn, all classes alike; any other condition from rows of the evaluation split."""
    found: dict[str, np.ndarray] = {}
    others = [name for name in config.data.cond if name != "label"]
    if "label" in config.data.cond:
        found["label"] = np.arange(num, dtype=np.int32) % config.network.kwargs.num_classes
    if others:
        rows = dataset.examples(config, config.evaluation.split)
        found |= {name: np.resize(rows[name], (num, *rows[name].shape[1:])) for name in others}
    return found


class Generator(NamedTuple):
    """Compiled samples of a run; `rows(params, seed, i, j)` are the samples `i` to `j - 1`, made
    `size` a call, images clipped to [-1, 1]; `pairs` takes the same, and has them as they are, with
    where they came from. `lowered(params, seed)` is the program of a call, and `place(params)` lays
    them on the devices once for many calls.

    Sample `i` has the key `fold_in(key(seed), i)` and the condition of its number, however many
    there are, in batches of whatever size, on whatever devices.
    """

    rows: Callable[..., Samples]
    pairs: Callable[..., Pairs]
    lowered: Callable[..., Any]
    place: Callable[[Params], Params]
    size: int

    def __call__(self, params: Params, seed: int, num: int) -> Samples:
        """The first `num`, by this process alone."""
        return self.rows(params, seed, 0, num)


def average(folder: epath.Path) -> Read:
    """The average of a run's parameters, at the newest step that every process can read.

    Raises:
        FileNotFoundError: where the run has no checkpoint.
        ValueError: where none is whole.
    """
    read = read_params(folder / "checkpoints")
    step = int(processes.gathered(np.asarray([read.step])).min())
    return read if step == read.step else read_params(folder / "checkpoints", step=step)


def generator(config: ConfigDict, num: int, given: np.ndarray | None = None) -> Generator:
    """Samples by the devices of this process, `size` of them a call.

    Args:
        config: of the run; `sampler` says how.
        num: how many at most.
        given: of tokens, those that every sample has, `[length]`, -1 for one that is drawn.

    Raises:
        ValueError: where `num < 1`.
    """
    if num < 1:
        raise ValueError(f"num must be at least 1; it is {num}")
    cond = conditions(config, num)
    mesh = Mesh(np.asarray(jax.local_devices()), ("data",), axis_types=(AxisType.Auto,))
    whole = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec("data"))
    size = -(-min(config.sampler.batch_size, num) // mesh.size) * mesh.size
    run = _compiled(config, mesh, given)

    def prepared(params: Params, seed: int, first: int, stop: int) -> tuple[Any, ...]:
        velocity = jax.device_put(build.flow(config, params), whole)
        given = padded(cond, first, size, stop)
        return velocity, jax.random.key(seed), *jax.device_put(given, split)

    def pairs(params: Params, seed: int, start: int, stop: int) -> Pairs:
        pieces = []
        for first in range(start, stop, size):
            solved = jax.device_get(run(*prepared(params, seed, first, stop)))
            pieces.append([a[: stop - first] for a in solved])
        x0, x, nfe, success = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
        part = {name: value[start:stop] for name, value in cond.items()}
        evaluations = build.flow(config, params).evaluations
        return Pairs(x0, Samples(x, part, nfe, success, evaluations))

    def rows(params: Params, seed: int, start: int, stop: int) -> Samples:
        samples = pairs(params, seed, start, stop).samples
        x = dataset.as_pixels(config, samples.x)
        return samples._replace(x=np.clip(x, -1, 1) if is_image(x) else x)

    def lowered(params: Params, seed: int) -> Any:
        return run.lower(*prepared(params, seed, 0, num))

    return Generator(rows, pairs, lowered, lambda params: jax.device_put(params, whole), size)


def padded(
    cond: dict[str, np.ndarray], first: int, size: int, stop: int
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The numbers of `size` samples from `first` on and their conditions, the last one repeated."""
    index = np.minimum(np.arange(first, first + size), stop - 1)
    return index, {name: value[index] for name, value in cond.items()}


def noise_keys(keys: Keys) -> Keys:
    """Those of a sampler that draws on the way, apart from the keys of the start."""
    return jax.vmap(lambda k: jax.random.fold_in(k, NOISE))(keys)


def starts(config: ConfigDict) -> Callable[[Key, Array], tuple[Keys, Array]]:
    """`(key, index) -> keys, x0`: the keys of samples and their draws of the source."""
    event_shape = dataset.example_batch(config)["x1"].shape[1:]
    source = component("source", config.source)

    def begin(key: Key, index: Array) -> tuple[Keys, Array]:
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(index)
        return keys, source.sample(keys, event_shape)

    return begin


def _compiled(config: ConfigDict, mesh: Mesh, given: np.ndarray | None = None) -> Any:
    """One batch over the devices of a mesh, without a collective."""
    begin, sample = starts(config), build.sampler(config)
    takes_keys = "keys" in inspect.signature(sample).parameters

    def batch(velocity, key, index, cond):  # type: ignore[no-untyped-def]
        keys, x0 = begin(key, index)
        more = {"keys": noise_keys(keys)} if takes_keys else {}
        if given is not None:
            x0 = jnp.where(given >= 0, given.astype(x0.dtype), x0)
            more = {**more, "given": jnp.broadcast_to(given >= 0, x0.shape)}
        start = paths.start(velocity.path, x0)
        solution = sample(velocity, start, cond=cond, **more)
        return x0, hardened(config, solution.x), solution.nfe, solution.success

    whole, split = PartitionSpec(), PartitionSpec("data")
    mapped = jax.shard_map(
        batch,
        mesh=mesh,
        in_specs=(whole, whole, split, split),
        out_specs=split,
        check_vma=False,
    )
    return jax.jit(mapped)


def spread(
    run: Generator,
    params: Params,
    seed: int,
    num: int,
    on_rows: Callable[[int], None] | None = None,
) -> Samples:
    """The first `num` samples, made by all processes and known to all.

    Each process makes an equal run of them; `on_rows` is told how many this one has made.
    """
    each = -(-num // jax.process_count())
    start = min(jax.process_index() * each, num - 1)
    stop = min(start + each, num)
    parts, params = [], run.place(params)
    for first in range(start, stop, run.size):
        parts.append(run.rows(params, seed, first, min(first + run.size, stop)))
        if on_rows is not None:
            on_rows(parts[-1].x.shape[0] + first - start)
    mine = joined(parts)
    if jax.process_count() == 1:
        return mine
    rows = jax.tree.map(lambda a: np.resize(a, (each, *a.shape[1:])), mine._replace(evaluations=()))
    everything = jax.tree.map(lambda a: a[:num], processes.gathered(rows))
    return everything._replace(evaluations=mine.evaluations)


def joined(parts: Sequence[Samples]) -> Samples:
    """Samples one after another."""
    arrays = [part._replace(evaluations=()) for part in parts]
    whole = jax.tree.map(lambda *rows: np.concatenate(rows), *arrays)
    return whole._replace(evaluations=parts[0].evaluations)

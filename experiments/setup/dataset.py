"""From the data section of a config to examples and batches."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments.setup.components import component
from experiments.setup.labels import check_labels
from jaxflow import data
from jaxflow.data.cells import Cells
from jaxflow.data.pipeline import Batches
from jaxflow.data.transforms import Dequantise, Flip, Scale, apply
from jaxflow.types import Batch


def batches(config: ConfigDict, start: int, share: tuple[int, int] = (0, 1)) -> Any | Batches:
    """What the run trains on from position `start`: a stream on the device, or a host's batches.

    Of a host's batches, `share = (i, n)` reads the `i`-th of `n` equal runs of rows.

    Raises:
        ValueError: where the data does not fit its config, or holds a value that is not finite.
        FileNotFoundError: where the data set is missing.
    """
    section = config.data
    found, given = _trained_on(config)
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
            transforms=given,
        )
    return data.pipeline(
        found,
        batch_size=config.batch_size,
        seed=config.seed,
        transforms=given,
        cond=tuple(section.cond),
        start=start,
        process_index=share[0],
        process_count=share[1],
        workers=section.workers,
        unreadable_at_most=section.unreadable_at_most,
    )


def _trained_on(config: ConfigDict) -> tuple[Any, tuple[Any, ...]]:
    """Pairs as they are, or the examples of the data section with their transforms."""
    if config.pairs:
        return data.pairs(config.pairs), ()
    return component("data.source", config.data.source), transforms(config)


def examples(config: ConfigDict, split: str, most: int | None = None) -> dict[str, np.ndarray]:
    """A split of the data as the network sees it, `x1` and conditions, without flips.

    Pixels lie in the middles of their cells, whatever noise the network meets in training.

    Args:
        config: of the run.
        split: its name.
        most: how many rows at most, in a random order; all of them in their own where None.
    """
    found: Any = _of_split(config, split)
    if most is not None:
        order = np.random.default_rng(config.seed).permutation(len(found))[:most]
        found = [found[int(i)] for i in order]
    columns = _columns(data.load(found), config.data.cond)
    kept = [t for t in transforms(config) if not isinstance(t, Flip)]
    keys = jax.random.split(jax.random.key(config.seed), len(columns["x1"]))
    scaled = jax.vmap(lambda x, key: apply(kept, x, key))(jnp.asarray(columns["x1"]), keys)
    return {**columns, "x1": snapped(config, np.asarray(scaled))}


def check_held_out(config: ConfigDict) -> None:
    """Refuse data without the split that is held out for evaluation.

    Raises:
        ValueError: naming those it has, and how to get one.
    """
    if not is_distribution(config):
        _of_split(config, config.evaluation.split)


def _of_split(config: ConfigDict, split: str) -> data.Dataset:
    spec = config.data.source.to_dict()
    of_training, spec["kwargs"]["split"] = spec["kwargs"].get("split"), split
    spec["kwargs"].pop("stride", None)  # windows of text that overlap are for training
    try:
        return component("data.source", spec)
    except ValueError as error:
        if split in (of_training, None) or "split" not in str(error):
            raise
        raise ValueError(
            f"{error}; samples are held against the split {split!r}: name one that was not trained "
            "on by --config.evaluation.split=NAME, or prepare the data again with --test_share=0.1 "
            "(of text --held_out=0.05)"
        ) from error


def snapped(config: ConfigDict, x: np.ndarray) -> np.ndarray:
    """Pixels to the levels that the data has, as an image file would; other data as it is."""
    found = cells(config)
    return x if found is None else found.snapped(x)


def as_pixels(config: ConfigDict, x: np.ndarray) -> np.ndarray:
    """Images of tokens as numbers in [-1, 1], by their levels, masks as 0; other data as it is."""
    if not (x.ndim >= 4 and np.issubdtype(x.dtype, np.integer)):
        return x
    levels = config.network.kwargs.vocabulary
    return np.where(x < levels, x * (2.0 / (levels - 1)) - 1, 0.0).astype(np.float32)


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


def cells(config: ConfigDict) -> Cells | None:
    """Where the levels of pixels lie, where the data is made of whole numbers."""
    found = [t.cells for t in transforms(config) if isinstance(t, Scale | Dequantise)]
    return found[0] if found else None


def transforms(config: ConfigDict) -> tuple[Any, ...]:
    """What is done to each example, in order."""
    return tuple(
        component(f"data.transforms[{i}]", spec, table="transforms")
        for i, spec in enumerate(config.data.transforms)
    )


def _columns(columns: Mapping[str, np.ndarray], cond: Any) -> dict[str, np.ndarray]:
    """The data as `x1`, its `x0` where it has one, and the conditions that the config names."""
    missing = [name for name in cond if name not in columns]
    if missing:
        raise ValueError(
            f"config.data.cond names {missing[0]!r}, but the data has {sorted(columns)}"
        )
    x1 = columns["image"] if "image" in columns else columns["x1"]
    x0 = {"x0": columns["x0"]} if "x0" in columns else {}
    return {"x1": x1, **x0, **{name: np.asarray(columns[name]) for name in cond}}

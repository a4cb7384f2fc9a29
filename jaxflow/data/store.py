"""Writes sources as a TFDS data set of array_record files, without TensorFlow.

Arrays are kept as their bytes, so every value comes back bit for bit; array_record compresses
them. Reading one record costs time in proportion to the records of its file (180 us where there
are 60,000, 15 where there are 5,000), so shards are kept short. A data set is written beside its
place and renamed into it, so what stands there is whole, whoever else writes at the same time.
"""

import contextlib
import math
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np

__all__ = ["VERSION", "check_name", "check_place", "store", "whole_or_nothing"]

VERSION = "1.0.0"
SHARD_BYTES = 256 * 2**20
SHARD_EXAMPLES = 4096
WINDOW = 256


def store(
    name: str,
    splits: Mapping[str, Sequence[Mapping[str, Any]]],
    data_dir: str | os.PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    on_example: Callable[[str], None] = lambda split: None,
) -> Path:
    """Write a data set where `tfds(name, split, data_dir)` finds it.

    Args:
        name: of the data set: lower-case letters, digits and underscores.
        splits: a source for each split; only a few hundred examples are held at once.
        data_dir: the folder that holds data sets, on this machine's disk.
        classes: names of the labels.
        on_example: called with the split after every example.

    Returns:
        The folder `data_dir/name/1.0.0`.

    Raises:
        ValueError: for a name that TFDS cannot read, an empty split, examples that differ in
            shape or type, or a bucket to write to.
        FileExistsError: where the data set is there already.
    """
    check_name(name, data_dir)
    place = check_place(name, data_dir)
    with whole_or_nothing(place) as folder:
        _write(folder, name, splits, classes, on_example)
    return place


def check_name(name: str, data_dir: str | os.PathLike[str]) -> None:
    """Refuse a name that cannot be one, and a folder that cannot be written to.

    Raises:
        ValueError: naming it.
    """
    if not name.isidentifier() or name != name.lower() or "-" in name:
        raise ValueError(
            f"{name!r} cannot name a data set: use lower-case letters, digits and underscores"
        )
    if "://" in str(data_dir):
        raise ValueError(
            f"a data set cannot be written to {data_dir}: write it to a folder, and copy that"
        )


def check_place(name: str, data_dir: str | os.PathLike[str]) -> Path:
    """Where a data set is to be written.

    Raises:
        FileExistsError: where there is one.
    """
    place = Path(data_dir).expanduser().absolute() / name / VERSION
    if place.exists():
        raise FileExistsError(
            f"{place} holds a data set already: delete that folder, or choose another name or "
            "data directory"
        )
    return place


@contextlib.contextmanager
def whole_or_nothing(place: Path) -> Iterator[Path]:
    """A folder to write into that becomes `place` on success and vanishes otherwise."""
    folder = place.with_name(f".incomplete-{uuid.uuid4().hex}")
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise type(error)(
            f"cannot write to {place.parents[1]} ({error.strerror}): choose another data directory"
        ) from error
    try:
        yield folder
        try:
            folder.rename(place)
        except OSError as error:
            if not place.exists():
                raise
            raise FileExistsError(f"{place} was written by another process meanwhile") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            place.parent.rmdir()


def _write(
    folder: Path,
    name: str,
    splits: Mapping[str, Sequence[Mapping[str, Any]]],
    classes: Sequence[str] | None,
    on_example: Callable[[str], None],
) -> None:
    import tensorflow_datasets as tfds

    for split, source in splits.items():
        if not len(source):
            raise ValueError(f"split {split!r} of {name} is empty: there is nothing to write")
    first = next(iter(splits.values()))[0]
    features = _features(first, classes, splits)
    template = tfds.core.ShardedFileTemplate(
        data_dir=cast(Any, folder), dataset_name=name, filetype_suffix="array_record"
    )
    infos = [
        _write_split(source, template.replace(split=split), features, first, on_example)
        for split, source in splits.items()
    ]
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=features,
        split_infos=infos,
        version=VERSION,
        filename_template=template,
        check_data=False,
        disable_shuffling=True,
    )


def _write_split(
    source: Sequence[Mapping[str, Any]],
    template: Any,
    features: Any,
    first: Mapping[str, Any],
    on_example: Callable[[str], None],
) -> Any:
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter

    size = sum(np.asarray(value).nbytes for value in first.values())
    shards = math.ceil(len(source) / max(1, min(SHARD_EXAMPLES, SHARD_BYTES // size)))
    bounds = [len(source) * shard // shards for shard in range(shards + 1)]
    total = 0
    for shard in range(shards):
        path = template.sharded_filepath(shard_index=shard, num_shards=shards)
        writer = ArrayRecordWriter(os.fspath(path), "group_size:1")
        try:
            for index, example in _read_ahead(source, bounds[shard], bounds[shard + 1]):
                _check_alike(example, first, index, template.split)
                record = features.serialize_example(example)
                writer.write(record)
                total += len(record)
                on_example(template.split)
        finally:
            writer.close()
    return tfds.core.SplitInfo(
        name=template.split,
        shard_lengths=[bounds[shard + 1] - bounds[shard] for shard in range(shards)],
        num_bytes=total,
        filename_template=template,
    )


def _read_ahead(
    source: Sequence[Mapping[str, Any]], start: int, stop: int
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The examples in order, decoded by threads, a window of them at a time."""
    with ThreadPoolExecutor() as pool:
        for begin in range(start, stop, WINDOW):
            indices = range(begin, min(begin + WINDOW, stop))
            yield from zip(indices, pool.map(source.__getitem__, indices), strict=True)


def _features(
    example: Mapping[str, Any],
    classes: Sequence[str] | None,
    splits: Mapping[str, Sequence[Mapping[str, Any]]],
) -> Any:
    import tensorflow_datasets as tfds

    def feature(name: str, value: Any) -> Any:
        value = np.asarray(value)
        if name == "label" and classes is not None:
            return tfds.features.ClassLabel(names=list(classes))
        if value.ndim == 0:
            return tfds.features.Scalar(dtype=value.dtype)
        return tfds.features.Tensor(
            shape=value.shape, dtype=value.dtype, encoding=tfds.features.Encoding.BYTES
        )

    return tfds.features.FeaturesDict({k: feature(k, v) for k, v in example.items()})


def _check_alike(
    example: Mapping[str, Any], first: Mapping[str, Any], index: int, split: str
) -> None:
    found, wanted = _shapes(example), _shapes(first)
    if found != wanted:
        raise ValueError(
            f"example {index} of split {split!r} has {found}, where the first has {wanted}: "
            "all examples of a data set share their entries, shapes and types"
        )


def _shapes(example: Mapping[str, Any]) -> dict[str, str]:
    return {k: f"{np.asarray(v).dtype}{list(np.shape(v))}" for k, v in example.items()}

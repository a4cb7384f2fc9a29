"""Where examples come from: random access to mappings such as `{"image": ..., "label": ...}`."""

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from etils import epath

from jaxflow.data.store import VERSION, store
from jaxflow.names import did_you_mean

__all__ = ["Arrays", "Dataset", "arrays", "digits", "load", "tfds"]

CACHE = "~/.cache/jaxflow"
DATA_DIR = "~/tensorflow_datasets"


@runtime_checkable
class Dataset(Protocol):
    """Random access to examples, each a mapping of numbers and arrays."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Mapping[str, Any]: ...


@dataclass(frozen=True, eq=False, repr=False)
class Arrays(Sequence[Mapping[str, Any]]):
    """Examples that are rows of arrays in memory; made by `arrays`."""

    columns: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return {name: column[index] for name, column in self.columns.items()}

    def __repr__(self) -> str:
        return (
            f"arrays({', '.join(f'{k}={v.dtype}{list(v.shape)}' for k, v in self.columns.items())})"
        )


def arrays(**columns: Any) -> Arrays:
    """A source in memory, its arrays all leading with the examples.

    Raises:
        ValueError: without an array, or where lengths differ.

    >>> arrays(x1=np.eye(3), label=[0, 1, 2])[1]["label"]
    np.int64(1)
    """
    columns = {name: np.asarray(column) for name, column in columns.items()}
    lengths = {name: len(column) if column.ndim else 0 for name, column in columns.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"arrays need one length in common, that of the examples; got {lengths}")
    return Arrays(columns)


def tfds(
    name: str | PathLike[str], split: str, data_dir: str | PathLike[str] | None = None
) -> Dataset:
    """A split of a TFDS data set on disk, read without TensorFlow.

    Args:
        name: of a data set in `data_dir`, with `/config` or `:version` where there are several; or
            the folder itself, the one with `dataset_info.json`.
        split: in TFDS's notation: `"train"`, `"train[:90%]"`, `"train+test"`.
        data_dir: the folder that holds data sets, `gs://` too; `~/tensorflow_datasets` by default.

    Raises:
        FileNotFoundError: where there is no such data set.
        ValueError: for an unknown split, or files in a format without random access.
    """
    import tensorflow_datasets

    builder: Any = tensorflow_datasets.builder_from_directory(_directory(name, data_dir))
    splits = sorted(builder.info.splits)
    for part in str(split).split("+"):
        known = part.split("[")[0].strip()
        if known not in splits:
            raise ValueError(
                f"data set {builder.info.name} has no split {known!r}"
                f"{did_you_mean(known, splits)}: it has {', '.join(splits)}"
            )
    try:
        return builder.as_data_source(split)
    except NotImplementedError as error:
        raise ValueError(
            f"{builder.data_path} is stored as {builder.info.file_format.value}, which has no "
            'random access: prepare it again with file_format="array_record"'
        ) from error


def digits(split: str = "train", data_dir: str | PathLike[str] | None = None) -> Dataset:
    """The 1,797 scans of handwritten digits, 8 x 8, that scikit-learn carries.

    They are written as a TFDS data set on first use, `image` uint8 `[8, 8, 1]` with the original
    values 0 to 16 and `label` 0 to 9, so `transforms.scale(levels=17)` brings them to [-1, 1]. The
    split is `train_test_split(test_size=360, random_state=0, stratify=target)`: 1437 in `"train"`
    and 360 in `"test"`.

    Args:
        split: in TFDS's notation.
        data_dir: where to keep them; `~/.cache/jaxflow` by default.
    """
    data_dir = Path(data_dir or CACHE).expanduser()
    if not (data_dir / "digits" / VERSION).exists():
        with contextlib.suppress(FileExistsError):
            store("digits", _digits(), data_dir, classes=[str(digit) for digit in range(10)])
    return tfds("digits", split, data_dir)


def load(source: Dataset) -> dict[str, np.ndarray]:
    """All of a source in memory: each entry stacked, as `on_device` takes them."""
    examples = [source[index] for index in range(len(source))]
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


def _digits() -> dict[str, Arrays]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    scans: Any = load_digits()
    images = scans.images.astype(np.uint8)[..., None]
    split = train_test_split(
        images, scans.target, test_size=360, random_state=0, stratify=scans.target
    )
    train, test, train_labels, test_labels = split
    return {
        "train": arrays(image=train, label=train_labels),
        "test": arrays(image=test, label=test_labels),
    }


def _directory(name: str | PathLike[str], data_dir: str | PathLike[str] | None) -> epath.Path:
    """The folder with the `dataset_info.json` of a data set: the newest version of those there."""
    folder = epath.Path(name).expanduser()
    if (folder / "dataset_info.json").exists():
        return folder
    root = epath.Path(data_dir or DATA_DIR).expanduser()
    base, _, version = str(name).partition(":")
    versions = _versions(root, f"{base}/{version or '*'}")
    if versions:
        return max(versions, key=lambda path: [int(part) for part in path.name.split(".")])
    configs = sorted({path.parent.name for path in _versions(root, f"{base}/*/*")})
    if configs:
        raise ValueError(f"{base} in {root} has several configs: ask for {base}/{configs[0]}, say")
    raise FileNotFoundError(
        f"no data set {str(name)!r} in {root}{did_you_mean(base, _names(root))}: "
        f"write it there with python -m experiments.prepare --dataset={Path(base).name} "
        f"--source=FOLDER --output={root}"
        ", or give the data_dir that holds it"
    )


def _names(root: epath.Path) -> list[str]:
    return sorted({path.parent.name for path in _versions(root, "*/*")})


def _versions(root: epath.Path, pattern: str) -> list[epath.Path]:
    """Whole data sets: folders named by a version, unlike those still being written."""
    found = [path.parent for path in root.glob(f"{pattern}/dataset_info.json")]
    return [path for path in found if re.fullmatch(r"\d+\.\d+\.\d+", path.name)]

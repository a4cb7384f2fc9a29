"""CIFAR-10 in its binary version."""

from os import PathLike
from pathlib import Path

import numpy as np

from experiments.formats.jpeg_pack import jpeg_pack
from experiments.formats.splits import Splits, existing
from jaxflow.data import arrays

__all__ = ["cifar10"]

CIFAR10 = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


def cifar10(path: str | PathLike[str]) -> Splits:
    """CIFAR-10 as its authors give it, in the binary version: `data_batch_1.bin` and so on.

    Each record is a byte of label and 32 x 32 bytes each of red, green and blue. Images become
    uint8 `[32, 32, 3]`, in the order of the files.

    Args:
        path: the folder of these files, or the one that holds it; or a pack of JPEGs, as
            `jpeg_pack` takes it, which is smaller and not the same pixels.

    Raises:
        FileNotFoundError: where a file is missing.
        ValueError: for a file that is not of the format.
    """
    folder = existing(path)
    if (folder / "cifar-10-batches-bin").is_dir():
        folder = folder / "cifar-10-batches-bin"
    if (folder / "data_batch_1").exists():
        raise ValueError(f"{folder} is CIFAR-10 as Python pickles: fetch the binary version")
    if folder.is_file() or not [*folder.glob("*.bin")]:
        return jpeg_pack(folder)
    files = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
    sources = {}
    for split, names in files.items():
        records = np.concatenate([_read_cifar10(folder / name) for name in names])
        images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        sources[split] = arrays(image=images, label=records[:, 0].astype(np.int64))
    return Splits(sources, CIFAR10)


def _read_cifar10(path: Path) -> np.ndarray:
    if not path.exists():
        raise FileNotFoundError(f"{path.parent} lacks {path.name}: unpack the whole archive there")
    data = np.fromfile(path, np.uint8)
    if not len(data) or len(data) % 3073 or data[::3073].max() > 9:
        raise ValueError(f"{path} is not of CIFAR-10's binary version, or cut short")
    return data.reshape(-1, 3073)

"""MNIST and its kin: files of the form idx."""

import gzip
import math
import zlib
from os import PathLike
from pathlib import Path

import numpy as np

from experiments.formats.splits import Splits, existing
from jaxflow.data import arrays

__all__ = ["idx"]


def idx(directory: str | PathLike[str]) -> Splits:
    """MNIST and its kin: `train-` and `t10k-` files `images-idx3-ubyte` and `labels-idx1-ubyte`.

    The files may be compressed by gzip. Images become uint8 `[H, W, 1]`.

    Raises:
        FileNotFoundError: where a file is missing.
        ValueError: for a file that is damaged or not of the format, or labels that do not match.
    """
    folder = existing(directory)
    sources = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images = _read_idx(_find_idx(folder, f"{prefix}-images", 3))
        labels = _read_idx(_find_idx(folder, f"{prefix}-labels", 1))
        if len(images) != len(labels):
            raise ValueError(
                f"{folder} has {len(images)} {split} images and {len(labels)} labels: "
                "the files do not belong together"
            )
        sources[split] = arrays(image=images[..., None], label=labels.astype(np.int64))
    return Splits(sources)


def _find_idx(folder: Path, stem: str, rank: int) -> Path:
    names = [f"{stem}{dot}idx{rank}-ubyte{end}" for dot in "-." for end in ("", ".gz")]
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise FileNotFoundError(f"{folder} lacks {names[1]}: fetch it, or name the folder with it")


def _read_idx(path: Path) -> np.ndarray:
    """Four bytes of type and rank, the shape in big-endian, then the values."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{path} is damaged ({error}): fetch it again") from error
    rank = data[3] if len(data) >= 4 else 0
    if data[:3] != b"\0\0\x08" or not rank:
        raise ValueError(f"{path} is not an idx file of bytes: it begins with {data[:4].hex()}")
    header = data[4 : 4 + 4 * rank]
    shape = tuple(np.frombuffer(header[: len(header) // 4 * 4], ">u4").tolist())
    if len(data) != 4 + 4 * rank + math.prod(shape):
        raise ValueError(f"{path} is cut short or too long for its shape {shape}: fetch it again")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)

"""Images in folders."""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from experiments.formats.splits import SPLITS, Examples, Splits, existing

__all__ = ["image_folder"]


def image_folder(directory: str | PathLike[str], size: int | None = None) -> Splits:
    """A folder of images: one subfolder a class, or flat and without labels.

    Subfolders `train`, `test` or `validation` are splits, else all is `"train"`. Images are opened
    one at a time. They become grey or RGB as the first one is.

    Args:
        directory: the folder.
        size: crop the middle square and resize it to `size x size`; without, all images must
            have one shape.

    Raises:
        FileNotFoundError: without the folder or without images.
        ValueError: for an image that cannot be read, or differs in shape or colour.
    """
    folder = existing(directory)
    parts = [name for name in SPLITS if (folder / name).is_dir()]
    files = {part: _images(folder / part) for part in parts} or {"train": _images(folder)}
    classes = {tuple(labels) for labels in files.values()}
    if len(classes) != 1:
        raise ValueError(f"{folder}: its splits do not have the same class folders")
    classes = next(iter(classes))
    first = next(path for paths in files.values() for group in paths.values() for path in group)
    mode = "L" if _open(first).mode in ("1", "L") else "RGB"
    wanted = (first, mode, _pixels(first, mode, size).shape)
    return Splits(
        {part: _labelled(groups, wanted, size) for part, groups in files.items()},
        None if classes == ("",) else classes,
    )


def _labelled(
    groups: Mapping[str, Sequence[Path]], wanted: tuple[Path, str, Any], size: int | None
) -> Examples:
    entries = [(path, i) for i, group in enumerate(groups.values()) for path in group]
    first, mode, shape = wanted

    def read(index: int) -> Mapping[str, Any]:
        path, label = entries[index]
        image = _pixels(path, mode, size)
        if image.shape != shape:
            raise ValueError(
                f"{path} has shape {image.shape} and {first.name} {shape}: "
                "give a size, to which all are cropped and resized"
            )
        return {"image": image} if "" in groups else {"image": image, "label": np.int64(label)}

    labels = None if "" in groups else np.asarray([label for _, label in entries])
    return Examples(len(entries), read, labels)


def _images(folder: Path) -> dict[str, list[Path]]:
    """The images of each class; of the class `""` where the folder is flat."""
    known = Image.registered_extensions()
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    found = {
        path.name if classes else "": sorted(
            file for file in path.iterdir() if file.suffix.lower() in known and file.name[0] != "."
        )
        for path in classes or [folder]
    }
    empty = [name or folder.name for name, files in found.items() if not files]
    if empty:
        raise FileNotFoundError(
            f"{folder} has no images in {', '.join(empty)}: it must hold images, "
            "or one subfolder of images a class"
        )
    return found


def _pixels(path: Path, mode: str, size: int | None) -> np.ndarray:
    image = _open(path)
    if mode == "L" and image.mode not in ("1", "L"):
        raise ValueError(f"{path} is in colour, but the first image is grey: convert either")
    image = image.convert(mode)
    if size is not None:
        image = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
    return np.atleast_3d(np.asarray(image))


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from error

"""The forms that data sets are handed around in, each read as `Splits`; `prepare` reads them."""

from experiments.formats.cifar10 import cifar10
from experiments.formats.idx import idx
from experiments.formats.image_folder import image_folder
from experiments.formats.jpeg_pack import jpeg_pack
from experiments.formats.npz import npz
from experiments.formats.splits import Examples, Splits, parted
from experiments.formats.text import Tokens, text

__all__ = [
    "Examples",
    "Splits",
    "Tokens",
    "cifar10",
    "idx",
    "image_folder",
    "jpeg_pack",
    "npz",
    "parted",
    "text",
]

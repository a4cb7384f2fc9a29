"""Data: sources of examples, and the batches made of them.

A **source** is random access to examples; `pipeline` makes batches of it on the host with Grain,
`on_device` keeps it on the device, and `stream` draws without end from a distribution of `toy`.
Whichever it is, the batch of a step depends on the step alone, so that the step is all a run has
to remember of its data.
"""

from jaxflow.data import toy, transforms, vocabulary
from jaxflow.data.cells import Cells
from jaxflow.data.checks import check, check_finite
from jaxflow.data.datasets import Arrays, Dataset, arrays, digits, load, tfds
from jaxflow.data.device import Fresh, OnDevice, on_device, stream
from jaxflow.data.pairs import Pairs, pairs
from jaxflow.data.pieces import Pieces, pieces
from jaxflow.data.pipeline import Batches, pipeline
from jaxflow.data.store import store
from jaxflow.data.text import Text, store_text, text, vocabulary_of

__all__ = [
    "Arrays",
    "Batches",
    "Cells",
    "OnDevice",
    "Dataset",
    "Fresh",
    "Pairs",
    "Pieces",
    "Text",
    "arrays",
    "check",
    "check_finite",
    "digits",
    "load",
    "on_device",
    "pairs",
    "pieces",
    "pipeline",
    "store",
    "store_text",
    "stream",
    "text",
    "tfds",
    "toy",
    "transforms",
    "vocabulary",
    "vocabulary_of",
]

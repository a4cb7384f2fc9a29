"""Networks: pure functions `(params, t, x, *, key=None, **cond) -> output`, and what makes them.

A Linen module (`MLP`, `ConcatMLP`, `UNet`, `DiT`, `Transformer`, or your own) becomes a Network by
`linen`; NNX and Equinox modules and bare functions by `nnx`, `equinox` and `function`. The shipped
ones of real numbers take a second time too, `r=`, to which `x` is carried from `t`: initialised
with it and called without it, they compute what they do for `r = t`. Likewise those that are told
labels take `guidance=`, a scale and an interval an example, and compute without it what they do for
a scale of 1.
"""

from jaxflow.networks.adapters import equinox, function, linen, nnx, select, self_conditioned
from jaxflow.networks.block_transformer import BlockTransformer
from jaxflow.networks.discrete import Discrete
from jaxflow.networks.dit import DiT, dit
from jaxflow.networks.edit_transformer import EditTransformer
from jaxflow.networks.embeddings import (
    GuidanceEmbedding,
    LabelEmbedding,
    SpanEmbedding,
    TimeEmbedding,
    positions,
    sinusoidal,
)
from jaxflow.networks.initialisers import initialise
from jaxflow.networks.mixed import MixedTransformer
from jaxflow.networks.mlp import MLP, ConcatMLP
from jaxflow.networks.transformer import Transformer, transformer
from jaxflow.networks.unet import UNet

__all__ = [
    "BlockTransformer",
    "ConcatMLP",
    "DiT",
    "Discrete",
    "EditTransformer",
    "GuidanceEmbedding",
    "LabelEmbedding",
    "MLP",
    "MixedTransformer",
    "SpanEmbedding",
    "TimeEmbedding",
    "Transformer",
    "UNet",
    "dit",
    "equinox",
    "function",
    "initialise",
    "linen",
    "nnx",
    "positions",
    "select",
    "self_conditioned",
    "sinusoidal",
    "transformer",
]

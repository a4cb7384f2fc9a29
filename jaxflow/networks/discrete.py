"""A network of images over pixels that are tokens.

Each channel of each pixel is a token, whose vector takes the place of its number; the network of
images sees these side by side as channels, and says the logits of all levels instead of numbers.

Gat et al., 2024, Discrete Flow Matching, arXiv:2407.15595, section 4.4, and Campbell et al., 2022,
A Continuous Time Framework for Discrete Denoising Models, arXiv:2205.14987, on CIFAR-10.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxflow.networks.layers import check_fields, token_table
from jaxflow.types import AnyArray, Array, Float, Int, Time

__all__ = ["Discrete"]


class Discrete(nn.Module):
    """Logits `[*x.shape, vocabulary]` of tokens `x [batch, height, width, channels]`.

    All alike when initialised. Tokens run from 0 to `vocabulary`, the last of them the mask.

    Attributes:
        network: of images, a `DiT` or a `UNet`; its channels are set here.
        vocabulary: levels of a channel, 256 of a byte.
        features: channels that each token becomes.
    """

    network: nn.Module
    vocabulary: int = 256
    features: int = 16

    gathers = True

    def __post_init__(self) -> None:
        check_fields(self, vocabulary=1, features=1)
        super().__post_init__()

    @property
    def tensor_axes(self) -> dict[str, tuple[int, int]]:
        """Those of the network of images."""
        return getattr(self.network, "tensor_axes", {})

    @nn.compact
    def __call__(
        self, t: Time, x: Int[AnyArray, "batch height width channels"], **cond: Any
    ) -> Float[Array, "batch height width channels vocabulary"]:
        if x.ndim != 4 or not jnp.issubdtype(x.dtype, jnp.integer):
            raise ValueError(
                f"x is {x.dtype} of shape {x.shape}: Discrete takes images of tokens, whole "
                "numbers [batch, height, width, channels]"
            )
        dtype = getattr(self.network, "dtype", None)
        embed = token_table(self.vocabulary, self.features, dtype, "tokens")
        seen = embed(x).reshape(*x.shape[:3], -1)
        outward: Any = {"out_channels": x.shape[-1] * self.vocabulary, "name": "images"}
        return self.network.clone(parent=self, **outward)(t, seen, **cond).reshape(
            *x.shape, self.vocabulary
        )

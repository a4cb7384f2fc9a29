"""Images as sequences of patches, row by row, and back."""

from jaxflow.types import AnyArray, Array, Float

__all__ = ["check_patches", "from_patches", "to_patches"]

Image = Float[AnyArray, "batch height width channels"]


def to_patches(x: Image, patch: int) -> Float[AnyArray, "batch tokens features"]:
    """Each square of `patch` pixels a side as one token of all its numbers."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // patch, patch, width // patch, patch, channels)
    return x.swapaxes(2, 3).reshape(batch, -1, patch * patch * channels)


def from_patches(
    h: Float[Array, "batch tokens features"], height: int, width: int, patch: int
) -> Float[Array, "batch {height} {width} outward"]:
    """The image of which these are the patches."""
    h = h.reshape(len(h), height // patch, width // patch, patch, patch, -1)
    return h.swapaxes(2, 3).reshape(len(h), height, width, -1)


def check_patches(x: Image, patch: int) -> None:
    """Refuse images that do not split into patches.

    Raises:
        ValueError: with both sizes.
    """
    if x.shape[1] % patch or x.shape[2] % patch:
        raise ValueError(
            f"images of {x.shape[1]}x{x.shape[2]} do not split into patches of {patch}: "
            "resize or pad them, or take another patch"
        )

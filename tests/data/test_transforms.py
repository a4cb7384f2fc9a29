"""Transforms: the same on the host and on the device, and undone by their inverses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow.data import transforms


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_pixels_undo_scale(levels):
    values = np.arange(levels).astype(np.uint8)
    scaled = transforms.scale(levels)(values)
    assert scaled.dtype == np.float32
    assert scaled[0] == -1
    assert scaled[-1] == 1
    np.testing.assert_array_equal(transforms.pixels(scaled, levels), values)


def test_pixels_clip():
    assert transforms.pixels(np.array([-3.0, 3.0])).tolist() == [0, 255]


@pytest.mark.parametrize("levels", [17, 256])
def test_dequantise_stays_in_its_bin(levels):
    values = np.repeat(np.arange(levels), 32).astype(np.uint8)
    x = transforms.dequantise(levels)(values, np.random.default_rng(0))
    within = (x + 1) * levels / 2 - values
    assert x.dtype == np.float32
    assert within.min() > -1e-4
    assert within.max() < 1 + 1e-4
    z = (within.mean() - 0.5) / (within.std() / np.sqrt(len(within)))
    assert abs(z) < 4
    assert abs(within.var() - 1 / 12) < 0.01


class Fixed:
    def __init__(self, value, xp=np):
        self.value, self.xp = value, xp

    def random(self, shape=()):
        return self.xp.full(shape, self.value, self.xp.float32)


@pytest.mark.parametrize("levels", [2, 17, 256, 65536])
@pytest.mark.parametrize("transform", [transforms.scale, transforms.dequantise])
def test_no_noise_changes_a_level(levels, transform):
    """Nor does the noise nearest to an edge, on the host and on the device."""
    cells = transform(levels).cells
    values = np.arange(levels)
    np.testing.assert_array_equal(cells.pixels(cells.middles(values)), values)
    for u in (0.0, 0.3, np.nextafter(np.float32(1), np.float32(0))):
        spread = cells.spread(values, Fixed(u))
        assert spread.dtype == np.float32
        np.testing.assert_array_equal(cells.pixels(spread), values)
        spread = cells.spread(jnp.asarray(values), Fixed(u, jnp))
        np.testing.assert_array_equal(cells.pixels(spread), values)
        np.testing.assert_array_equal(cells.snapped(spread), cells.middles(values))


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_cells_are_as_wide_as_they_say(levels):
    """Those of `dequantise` fill [-1, 1]; the middles of those of `scale` reach from -1 to 1."""
    scaled, spread = transforms.scale(levels).cells, transforms.dequantise(levels).cells
    assert scaled.first == -1
    assert scaled.first + (levels - 1) * scaled.width == pytest.approx(1)
    assert spread.first - spread.width / 2 == pytest.approx(-1)
    assert levels * spread.width == pytest.approx(2)


def test_flip_mirrors_half_of_the_images():
    image = np.arange(24).reshape(2, 4, 3)
    rng = np.random.default_rng(0)
    flipped = [transforms.flip()(image, rng) for _ in range(400)]
    mirrored = [np.array_equal(x, image[:, ::-1]) for x in flipped]
    kept = [np.array_equal(x, image) for x in flipped]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert abs(sum(mirrored) - 200) < 4 * 10


def test_device_agrees_with_host():
    """The same uniforms give the same result, whichever library holds the array."""
    image = np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3)
    for transform in (transforms.scale(), transforms.dequantise(), transforms.flip()):
        host, device = transform(image, Fixed(0.25)), transform(jnp.asarray(image), Fixed(0.25))
        assert isinstance(device, jax.Array)
        np.testing.assert_allclose(host, device, atol=1e-6)


def test_apply_is_traceable_and_uses_fresh_randomness(key):
    chain = (transforms.flip(), transforms.dequantise())
    image = jnp.zeros((4, 4, 1), jnp.uint8)
    x = jax.jit(lambda key: transforms.apply(chain, image, key))(key)
    assert x.shape == (4, 4, 1)
    assert len(np.unique(x)) == 16


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: transforms.scale(1), "levels = 1"),
        (lambda: transforms.flip()(np.zeros(4), np.random.default_rng(0)), "shape"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_tokens_are_levels_gathered_evenly():
    values = np.arange(256, dtype=np.uint8)
    for levels in (2, 16, 256):
        found = transforms.tokens(levels)(values)
        assert found.dtype == np.int32
        assert np.bincount(found).tolist() == [256 // levels] * levels
    with pytest.raises(ValueError, match="of at most 256; got 300"):
        transforms.tokens(300)

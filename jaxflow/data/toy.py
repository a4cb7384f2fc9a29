"""Distributions in the plane, drawn one key a sample, about unit scale around the origin."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.arrays import per_sample
from jaxflow.types import Array, Float, Key, Keys

__all__ = [
    "EightGaussians",
    "Toy",
    "checkerboard",
    "circles",
    "eight_gaussians",
    "moons",
    "pinwheel",
    "spirals",
    "swiss_roll",
]

Point = Float[Array, "2"]
Points = Float[Array, "batch 2"]


@jax.tree_util.register_static
@dataclass(frozen=True, repr=False)
class Toy:
    """A distribution in the plane: `draw(key, **parameters)` is one point of it."""

    name: str
    draw: Callable[..., Point]
    parameters: tuple[tuple[str, Any], ...]

    def sample(self, keys: Keys) -> Points:
        """One point a key."""
        return per_sample(lambda key: self.draw(key, **dict(self.parameters)), keys)

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(f'{name}={value!r}' for name, value in self.parameters)})"


@jax.tree_util.register_static
@dataclass(frozen=True)
class EightGaussians:
    """Eight round Gaussians of equal weight, evenly spaced on a circle."""

    radius: float
    std: float

    @property
    def weights(self) -> Float[Array, "8"]:
        """The weight of each Gaussian."""
        return jnp.full(8, 1 / 8)

    @property
    def means(self) -> Float[Array, "8 2"]:
        """The centres, at the angles `k pi / 4`."""
        angle = jnp.arange(8) * (math.pi / 4)
        return self.radius * _polar(1.0, angle).T

    @property
    def covariances(self) -> Float[Array, "8 2 2"]:
        """`std^2` times the identity, for each."""
        return jnp.tile(self.std**2 * jnp.eye(2), (8, 1, 1))

    def sample(self, keys: Keys) -> Points:
        """One point a key."""
        means = self.means

        def draw(key: Key) -> Point:
            which, noise = jax.random.split(key)
            return means[jax.random.randint(which, (), 0, 8)] + _noise(noise, self.std)

        return per_sample(draw, keys)


def moons(
    noise: float = 0.05, scale: float = 1.5, center: tuple[float, float] = (0.5, 0.25)
) -> Toy:
    """Two interleaved half circles of radius one, `x = scale (p + noise e - center)`.

    `p = (cos a, sin a)` or `(1 - cos a, 1/2 - sin a)`, each half of the time, with `a` uniform on
    `[0, pi]` and `e` standard normal. The default centre is the mean of `p`.
    `moons(0.0577, scale=3, center=(0.233, 0.233))` lies where the tutorial of torchcfm has its
    moons (`3 p - 1`), with the mean and variance of their noise, which is uniform on `[0, 0.2]`
    along the diagonal.

    >>> moons().sample(jax.random.split(jax.random.key(0), 5)).shape
    (5, 2)
    """
    return _toy("moons", _moons, noise=noise, scale=scale, center=tuple(center))


def eight_gaussians(radius: float = 2**0.5, std: float = 0.1) -> EightGaussians:
    """Eight Gaussians of standard deviation `std` on a circle of `radius`.

    `eight_gaussians(5, 0.1**0.25)` is the one of the tutorial of torchcfm, where the covariance
    is `sqrt(0.1)` times the identity.
    """
    _check_sizes(radius=radius, std=std)
    return EightGaussians(float(radius), float(std))


def checkerboard(cells: int = 4, half_width: float = 3**0.5) -> Toy:
    """Uniform on the squares `(i, j)`, `i + j` even, of a board of `cells x cells` squares.

    The board covers `[-half_width, half_width]^2`, so each coordinate is uniform over it.

    Raises:
        ValueError: where `cells` is not even and positive.
    """
    if cells < 2 or cells % 2:
        raise ValueError(f"cells = {cells}: a checkerboard needs an even number of cells a side")
    return _toy("checkerboard", _checkerboard, cells=cells, half_width=half_width)


def spirals(turns: float = 1.5, radius: float = 2.0, noise: float = 0.05) -> Toy:
    """Two arms, `x = +-radius s (cos a, sin a) + noise e` with `a = 2 pi turns s`.

    `s = sqrt(u)` with `u` uniform on `[0, 1]`: without noise the squared radius is uniform too.
    """
    return _toy("spirals", _spirals, turns=turns, radius=radius, noise=noise)


def pinwheel(
    arms: int = 5,
    radial: float = 0.3,
    tangential: float = 0.1,
    rate: float = 0.25,
    scale: float = 2**0.5,
) -> Toy:
    """Gaussian arms bent by a rotation that grows with the radius.

    `x = scale R(2 pi k / arms + rate exp(r)) (r, s)` with `r ~ N(1, radial^2)`,
    `s ~ N(0, tangential^2)` and the arm `k` uniform; `R` rotates.

    Raises:
        ValueError: for fewer than one arm.
    """
    if arms < 1:
        raise ValueError(f"arms = {arms}: a pinwheel needs at least one arm")
    sizes = {"radial": radial, "tangential": tangential, "rate": rate, "scale": scale}
    return _toy("pinwheel", _pinwheel, arms=arms, **sizes)


def swiss_roll(noise: float = 0.05, scale: float = 1 / 7) -> Toy:
    """One arm, `x = scale (a (cos a, sin a) - (2, 2 / (3 pi))) + noise e`.

    `a` is uniform on `[3 pi / 2, 9 pi / 2]`; what is subtracted is the mean.
    """
    return _toy("swiss_roll", _swiss_roll, noise=noise, scale=scale)


def circles(radius: float = 1.8, factor: float = 0.5, noise: float = 0.05) -> Toy:
    """Two rings of equal weight, of radius `radius` and `factor * radius`, blurred by `noise`."""
    return _toy("circles", _circles, radius=radius, factor=factor, noise=noise)


def _moons(key: Key, noise: float, scale: float, center: tuple[float, float]) -> Point:
    which, where, blur = jax.random.split(key, 3)
    upper = _polar(1.0, jax.random.uniform(where, maxval=math.pi))
    lower = jnp.array([1.0, 0.5]) - upper
    point = jnp.where(jax.random.bernoulli(which), upper, lower)
    return scale * (point + _noise(blur, noise) - jnp.array(center))


def _checkerboard(key: Key, cells: int, half_width: float) -> Point:
    column, row, within = jax.random.split(key, 3)
    i = jax.random.randint(column, (), 0, cells)
    j = 2 * jax.random.randint(row, (), 0, cells // 2) + i % 2
    corner = jnp.stack([i, j]).astype(float)
    return half_width * (2 / cells * (corner + jax.random.uniform(within, (2,))) - 1)


def _spirals(key: Key, turns: float, radius: float, noise: float) -> Point:
    which, where, blur = jax.random.split(key, 3)
    along = jnp.sqrt(jax.random.uniform(where))
    arm = _polar(radius * along, 2 * math.pi * turns * along)
    return jax.random.rademacher(which, (), float) * arm + _noise(blur, noise)


def _pinwheel(
    key: Key, arms: int, radial: float, tangential: float, rate: float, scale: float
) -> Point:
    which, where = jax.random.split(key)
    r, s = jnp.array([1.0, 0.0]) + jnp.array([radial, tangential]) * jax.random.normal(where, (2,))
    angle = 2 * math.pi / arms * jax.random.randint(which, (), 0, arms) + rate * jnp.exp(r)
    return scale * (_polar(r, angle) + _polar(s, angle + math.pi / 2))


def _swiss_roll(key: Key, noise: float, scale: float) -> Point:
    where, blur = jax.random.split(key)
    angle = jax.random.uniform(where, minval=1.5 * math.pi, maxval=4.5 * math.pi)
    mean = jnp.array([2.0, 2 / (3 * math.pi)])
    return scale * (_polar(angle, angle) - mean) + _noise(blur, noise)


def _circles(key: Key, radius: float, factor: float, noise: float) -> Point:
    which, where, blur = jax.random.split(key, 3)
    r = radius * jnp.where(jax.random.bernoulli(which), 1.0, factor)
    return _polar(r, jax.random.uniform(where, maxval=2 * math.pi)) + _noise(blur, noise)


def _polar(r: Any, angle: Array) -> Array:
    return r * jnp.stack([jnp.cos(angle), jnp.sin(angle)])


def _noise(key: Key, std: float) -> Point:
    return std * jax.random.normal(key, (2,))


def _toy(name: str, draw: Callable[..., Point], **parameters: Any) -> Toy:
    _check_sizes(**parameters)
    return Toy(name, draw, tuple(parameters.items()))


def _check_sizes(**sizes: Any) -> None:
    for name, value in sizes.items():
        if name != "center" and not value >= 0:
            raise ValueError(f"{name} = {value}: it is a size, so it cannot be negative")

"""Paths join a source sample to a data sample: `(t, x0, x1, z) -> PathSample`."""

from jaxflow.paths import gammas, schedules
from jaxflow.paths.affine import Affine, affine, cosine, linear, linear_vp, polynomial, vp
from jaxflow.paths.interpolant import Interpolant, bridge, interpolant
from jaxflow.paths.product import Product, product

__all__ = [
    "Affine",
    "Interpolant",
    "Product",
    "affine",
    "bridge",
    "cosine",
    "gammas",
    "interpolant",
    "linear",
    "linear_vp",
    "polynomial",
    "product",
    "schedules",
    "vp",
]

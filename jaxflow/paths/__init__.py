"""Paths join a source sample to a data sample: `(t, x0, x1, z) -> PathSample`."""

from jaxflow.paths import schedules
from jaxflow.paths.affine import Affine, affine, cosine, linear, linear_vp, polynomial, vp

__all__ = ["Affine", "affine", "cosine", "linear", "linear_vp", "polynomial", "schedules", "vp"]

"""Paths join a source sample to a data sample: `(t, x0, x1, z) -> PathSample`."""

from jaxflow.paths import gammas, kappas, schedules
from jaxflow.paths.affine import (
    Affine,
    affine,
    cosine,
    edm,
    inverse_cosine,
    linear,
    linear_vp,
    polynomial,
    ve,
    vp,
)
from jaxflow.paths.diffusion import drift, log_snr, squared_diffusion, time_of_log_snr
from jaxflow.paths.dirichlet import Dirichlet, dirichlet
from jaxflow.paths.duo import Duo, duo
from jaxflow.paths.edits import Edits, edits
from jaxflow.paths.fisher import Fisher, fisher
from jaxflow.paths.fitted import fitted
from jaxflow.paths.gidd import Gidd, gidd
from jaxflow.paths.interpolant import Interpolant, bridge, interpolant
from jaxflow.paths.knots import discrete, monotone
from jaxflow.paths.metric import Metric, levels, metric
from jaxflow.paths.mixture import Mixture, mixture
from jaxflow.paths.product import Product, product
from jaxflow.paths.shifted import shifted
from jaxflow.paths.start import start

__all__ = [
    "Affine",
    "Dirichlet",
    "Duo",
    "Edits",
    "Fisher",
    "Gidd",
    "Interpolant",
    "Metric",
    "Mixture",
    "Product",
    "affine",
    "bridge",
    "cosine",
    "dirichlet",
    "discrete",
    "drift",
    "duo",
    "edits",
    "edm",
    "fisher",
    "fitted",
    "gammas",
    "gidd",
    "interpolant",
    "inverse_cosine",
    "kappas",
    "levels",
    "linear",
    "linear_vp",
    "log_snr",
    "metric",
    "mixture",
    "monotone",
    "polynomial",
    "product",
    "schedules",
    "shifted",
    "squared_diffusion",
    "start",
    "time_of_log_snr",
    "ve",
    "vp",
]

"""Distributions over training times, each with its quantile function and its log-density."""

from jaxflow.times.constant import constant
from jaxflow.times.distributions import beta, cosine_map, logit_normal, mode, uniform
from jaxflow.times.histogram import fitted, histogram
from jaxflow.times.log_normal import log_normal
from jaxflow.times.shaped import antithetic, shifted, stratified

__all__ = [
    "antithetic",
    "beta",
    "constant",
    "cosine_map",
    "fitted",
    "histogram",
    "log_normal",
    "logit_normal",
    "mode",
    "shifted",
    "stratified",
    "uniform",
]

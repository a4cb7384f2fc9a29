"""Weights of a loss: functions of time, one a time, in at least float32."""

from jaxflow.losses.weights.divisors import alpha, constant, determinant, sigma
from jaxflow.losses.weights.importance import importance
from jaxflow.losses.weights.of_noise import edm, likelihood, min_snr, sigmoid

__all__ = [
    "alpha",
    "constant",
    "determinant",
    "edm",
    "importance",
    "likelihood",
    "min_snr",
    "sigma",
    "sigmoid",
]

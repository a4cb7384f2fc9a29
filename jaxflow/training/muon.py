"""Muon for networks whose blocks are stacked: each block's matrix by itself.

Optax's `muon` takes every parameter of two axes for a matrix and all others for none. Where blocks
are stacked for a scan their matrices have three axes, and their biases two. Here

| a parameter | is updated by |
|---|---|
| of two axes | Muon |
| of three | Muon, a matrix for each entry of the first: blocks of a scan |
| of four or more | Muon, all but the last axis being the input: a convolution |
| of one axis, or named bias, scale, embedding or taps | Adam |
"""

from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers

from jaxflow.types import Params

__all__ = ["muon"]

_BY_ADAM = ("bias", "scale", "embedding", "taps")


def muon(
    learning_rate: optax.ScalarOrSchedule,
    *,
    weight_decay: float = 0.0,
    beta: float = 0.95,
    b1: float = 0.9,
    b2: float = 0.999,
) -> optax.GradientTransformation:
    """Muon with the step size of AdamW: one learning rate serves both kinds of parameters.

    Every matrix moves by its momentum with all its singular values set to one, scaled so that its
    entries change by about 0.2 `learning_rate` as AdamW's do. Sharded parameters are whole to it in
    every layout.

    Args:
        learning_rate: a number, or a schedule of steps.
        weight_decay: of all parameters, times the learning rate.
        beta: decay of the momentum of matrices.
        b1, b2: decays of Adam for all others.

    Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024; the scale: Liu et
    al., Muon is Scalable for LLM Training, 2025, arXiv:2502.16982, eq. 4.
    """
    return optax.contrib.muon(
        learning_rate,
        weight_decay=weight_decay,
        adam_weight_decay=weight_decay,
        beta=beta,
        adam_b1=b1,
        adam_b2=b2,
        muon_weight_dimension_numbers=_matrices,
        consistent_rms=0.2,
    )


def _matrices(params: Params) -> Any:
    """How each parameter is a matrix, or stacked matrices; None where it is none."""
    return jax.tree_util.tree_map_with_path(_matrix, params)


def _matrix(path: tuple[Any, ...], a: Any) -> MuonDimensionNumbers | None:
    name = jax.tree_util.keystr(path[-1:], simple=True) if path else ""
    if a.ndim < 2 or name in _BY_ADAM:
        return None
    inputs = tuple(range(a.ndim - 1)) if a.ndim > 3 else (a.ndim - 2,)
    return MuonDimensionNumbers(reduction_axis=inputs, output_axis=a.ndim - 1)

"""Bounds on the evidence of runs of tokens, in bits, on held-out data.

They are those that a path has in closed form: at least what the data costs under the model, each
sequence at a time of its own, with the cross-entropy of what noise is left at the end of the path.
With the share `1 - t` of noise the divergence is that of few tokens at a high rate, of a variance
that grows as `1 / (1 - t)`: times are drawn by the root of that, which leaves the least error.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments.output.texts import texts_of
from experiments.setup import build, dataset
from experiments.setup.components import component
from experiments.setup.learns import are_edited, are_soft, block_of
from experiments.setup.tokens import jumped, vocabulary_of
from jaxflow import draws, losses, times
from jaxflow.arrays import event_mean
from jaxflow.losses.cross_entropy import predicted
from jaxflow.paths.ends import interval_of
from jaxflow.tokens import at_token, log_normaliser
from jaxflow.types import Array, Draw, Interval, Loss, Params, Path, Time

__all__ = ["bound"]

BATCH = 64
TIMES = times.beta(1.0, 0.5)


def bound(config: ConfigDict, params: Params) -> dict[str, float]:
    """Bits a token of held-out data, at most, with their standard error; and a character of text.
    Of edits, bits a sequence with their standard error, and a token.

    Of `evaluation.likelihoods` sequences, nothing where that is 0 or tokens are soft.
    """
    if not config.evaluation.likelihoods or are_soft(config):
        return {}
    held = dataset.examples(config, config.evaluation.split, config.evaluation.likelihoods)
    path, network = jumped(build.path(config)), build.network(config)
    of_pieces = are_edited(config)
    of = losses.edits if of_pieces else losses.generalised_kl
    loss = of(network, path, weight=_weight(interval_of(path)))
    left = None if of_pieces else partial(_left, network, path)
    bits = _bits(config, loss, left, _draw(config, path), params, held)
    mean, error = float(bits.mean()), _error(bits)
    if of_pieces:
        tokens = np.sum(held["x1"] < config.network.kwargs.vocabulary)
        of_sequence = {"bits_per_sequence": mean, "bits_per_sequence_standard_error": error}
        return {**of_sequence, "bits_per_token": float(bits.sum() / tokens)}
    found = {"bits_per_token": mean, "bits_per_token_standard_error": error}
    if vocabulary_of(config) is not None:
        letters = sum(map(len, texts_of(config, held["x1"])))
        found["bits_per_character"] = mean * held["x1"].size / max(letters, 1)
    return found


def _weight(interval: Interval) -> Callable[[Time], Array]:
    """By which `TIMES`, stretched over the path's interval, stand for the integral over it."""
    low, length = interval[0], interval[1] - interval[0]
    even = losses.weights.importance(TIMES)
    return lambda t: length * even((t - low) / length)


def _draw(config: ConfigDict, path: Path) -> Draw:
    spread, source = times.stratified(TIMES), component("source", config.source)
    draw, block = draws.standard(path, source=source, times=spread), block_of(config)
    return draws.chain(draw, draws.by_block(path, block, times=spread)) if block else draw


def _bits(
    config: ConfigDict,
    loss: Loss,
    left: Callable[..., Any] | None,
    draw: Draw,
    params: Params,
    held: dict[str, np.ndarray],
) -> np.ndarray:
    """Of every sequence, as times rise; with what `left` costs at the end of the path."""
    cond = {name: jnp.asarray(held[name]) for name in config.data.cond}
    batch = draw(jax.random.key(config.seed), {"x1": jnp.asarray(held["x1"]), "cond": cond})

    @jax.jit
    def run(params: Params, rows: Any) -> Any:
        nats = loss(params, None, rows)[1]["per_example"]
        return nats if left is None else nats + left(params, rows)

    n = len(held["x1"])
    order = np.argsort(np.asarray(batch["t"]).reshape(n, -1)[:, 0])
    batch = jax.tree.map(lambda a: a[order], batch)
    each = [
        np.asarray(run(params, jax.tree.map(lambda a, i=i: a[i : i + BATCH], batch)))
        for i in range(0, n, BATCH)
    ]
    return np.concatenate(each).astype(np.float64) / math.log(2)


def _error(bits: np.ndarray) -> float:
    """The standard error of the mean of sequences at times spread evenly, in their order: by what
    neighbours differ, for the mean rises and falls with time, which such times do not err in.

    Wolter, 2007, Introduction to Variance Estimation, 2nd ed., chapter 8.
    """
    return float(np.sqrt(np.mean(np.diff(bits) ** 2) / (2 * len(bits)))) if len(bits) > 1 else 0.0


def _left(network: Any, path: Any, params: Params, rows: Any) -> Any:
    """What the tokens cost that are not known at the end of the path, in nats a token."""
    at_end = {**rows, "t": jnp.full_like(rows["t"], interval_of(path)[1])}
    sample, logits = predicted(network, path, params, None, at_end)
    missed = log_normaliser(logits) - at_token(logits, sample.x1)
    return event_mean(jnp.where(path.known(sample.x), 0.0, missed))

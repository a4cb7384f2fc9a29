"""Tokens from masks by Euler's steps, around a small network whose weights are drawn by a seed.

One file holds what all samplers share: the weights, a probe of the network, the group that each
token is counted in, and the law of the groups at the first draw, in float64.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import logsumexp, softmax

from benchmarks.task import Task
from jaxflow import networks, paths, sampling, sources, velocities
from jaxflow.types import Array, Data, Key, Params, Time

WIDTH = 64
ENOUGH = 2**15
WEIGHTS = ("embed", "hidden_kernel", "hidden_bias", "head_kernel", "head_bias")

# A compiled `(params, key) -> (tokens, calls of the network or None)`.
Draw = Callable[[Params, Key], tuple[Array, Array | None]]


class Tagger(nn.Module):
    """Logits at each place from the mean of three embeddings, its own and its neighbours'.

    Without time, as the posterior of masked tokens is.
    """

    vocabulary: int

    @nn.compact
    def __call__(self, t: Time, x: Data) -> Array:
        e = nn.Embed(self.vocabulary + 1, WIDTH, name="embed")(x)
        near = (jnp.roll(e, 1, axis=1) + e + jnp.roll(e, -1, axis=1)) / 3
        hidden = nn.relu(nn.Dense(WIDTH, name="hidden")(near))
        return nn.Dense(self.vocabulary, name="head")(hidden)


def sample(weights: str, shape: Sequence[int], vocabulary: int, steps: int, counted: int) -> Task:
    """Sequences `shape`, `[batch, length]`; the shared file is written unless it is there already.

    `counted` is that of `sampled`.
    """
    _write(weights, vocabulary)
    batch, length = shape
    network = networks.linen(Tagger(vocabulary))
    path = paths.mixture(source=sources.mask(vocabulary))

    def sampler(steps: int) -> Draw:
        @jax.jit
        def draw(params: Params, key: Key) -> tuple[Array, Array]:
            keys = jax.random.split(key, batch)
            x0 = path.source.sample(keys, (length,))
            logits, grid = velocities.from_network(network, params), sampling.grids.uniform(steps)
            solution = sampling.jumps(logits, x0, grid, keys=keys, path=path)
            return solution.x, solution.nfe

        return draw

    return sampled(sampler, weights, shape, steps, counted)


def sampled(
    sampler: Callable[[int], Draw],
    weights: str,
    shape: Sequence[int],
    steps: int,
    counted: int,
) -> Task:
    """A task of what `sampler(steps)` draws, and what is told of it.

    The loss is that of the network on the probe. The largest error is that of the groups' shares
    among `counted` tokens that were drawn in one step, whose law is known. Where these are enough
    for shares to be right to 0.01, the points are the shares in whole solves, and the share of
    neighbours of one group.
    """
    shared = dict(np.load(weights))
    params, groups, law = jax.device_put(as_linen(shared)), shared["groups"], shared["law"]
    draw, once = sampler(steps), sampler(1)

    def drawn(draw: Draw) -> np.ndarray:
        seeds = range(max(1, counted // math.prod(shape)))
        return groups[np.concatenate([draw(params, jax.random.key(i))[0] for i in seeds])]

    def run(k: int) -> None:
        for _ in range(k):
            jax.block_until_ready(draw(params, jax.random.key(0)))

    def later() -> dict[str, Any]:
        error = np.abs(_shares(drawn(once), len(law)) - law)
        found: dict[str, Any] = {"largest error": float(error.max())}
        calls = draw(params, jax.random.key(0))[1]
        if calls is not None:
            found |= {"calls": float(np.mean(calls))}
        if counted >= ENOUGH:
            found |= {"points": _figures(drawn(draw), len(law))}
        return found

    facts = {
        "parameters": sum(shared[name].size for name in WEIGHTS),
        "loss": _loss(params, shared["probe"], shared["answer"]),
    }
    return Task(run, facts, later=later)


def as_linen(shared: Mapping[str, np.ndarray]) -> Params:
    """The weights of the file as parameters of `Tagger`."""
    dense = {
        name: {"kernel": shared[f"{name}_kernel"], "bias": shared[f"{name}_bias"]}
        for name in ("hidden", "head")
    }
    return {"embed": {"embedding": shared["embed"]}, **dense}


def _loss(params: Params, probe: np.ndarray, answer: np.ndarray) -> float:
    """The cross-entropy of the network's logits, its means in float64."""
    tagger = Tagger(params["head"]["bias"].size)
    logits = np.asarray(jax.jit(tagger.apply)({"params": params}, None, probe), np.float64)
    right = np.take_along_axis(logits, answer[..., None], axis=-1)[..., 0]
    return float(np.mean(logsumexp(logits, axis=-1) - right))


def _shares(found: np.ndarray, n: int) -> np.ndarray:
    """Of each of `n` groups among those found."""
    return np.bincount(found.ravel(), minlength=n) / found.size


def _figures(found: np.ndarray, n: int) -> list[float]:
    alike = np.mean(found[:, 1:] == found[:, :-1])
    return [*_shares(found, n).tolist(), float(alike)]


def _write(weights: str, vocabulary: int) -> None:
    """Draw what is shared, the tokens' frequencies by Zipf's law, unless the file is there.

    A group holds the tokens of one power of two, and the last the mask.
    """
    if Path(weights).exists():
        return
    rng = np.random.default_rng(0)
    ranks = np.arange(1, vocabulary + 1)
    arrays = {
        "embed": rng.standard_normal((vocabulary + 1, WIDTH)),
        "hidden_kernel": rng.standard_normal((WIDTH, WIDTH)) * (6 / WIDTH) ** 0.5,
        "hidden_bias": np.zeros(WIDTH),
        "head_kernel": rng.standard_normal((WIDTH, vocabulary)) / WIDTH**0.5,
        "head_bias": -np.log(ranks),
    }
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    octaves = np.log2(ranks).astype(np.int32)
    groups = np.append(octaves, octaves[-1] + 1)
    np.savez(
        weights,
        **arrays,
        probe=rng.integers(0, vocabulary + 1, (2, 32)),
        answer=rng.integers(0, vocabulary, (2, 32)),
        groups=groups,
        law=np.bincount(groups, np.append(_among_masks(arrays), 0.0)),
    )


def _among_masks(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """The law of a token where all are masked, in float64."""
    wide = {name: array.astype(np.float64) for name, array in arrays.items()}
    hidden = np.maximum(wide["embed"][-1] @ wide["hidden_kernel"] + wide["hidden_bias"], 0.0)
    return softmax(hidden @ wide["head_kernel"] + wide["head_bias"])

"""Tokens from masks by hackable-diffusion's unmasking step, with the weights of our side.

Its tokens have an axis of one behind them, and its sampler counts the points of the grid. Its step
draws known tokens anew by default; here it is told by its own function which are masked.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from hackable_diffusion import hd

from benchmarks.ours.tokens import Draw, Tagger, sampled
from benchmarks.task import Task


class Network(nn.Module):
    """The shared network in its terms."""

    vocabulary: int

    @nn.compact
    def __call__(
        self, time: jax.Array, xt: jax.Array, conditioning: Any, is_training: bool
    ) -> dict[str, jax.Array]:
        return {"logits": Tagger(self.vocabulary, name="tagger")(time, xt[..., 0])}


def sample(weights: str, shape: Sequence[int], vocabulary: int, steps: int, counted: int) -> Task:
    """Sequences `shape`, `[batch, length]`; the file is what our side wrote."""
    process = hd.corruption.CategoricalProcess.masking_process(
        schedule=hd.corruption.LinearDiscreteSchedule(), num_categories=vocabulary
    )
    stepper = hd.sampling.UnMaskingStep(
        corruption_process=process,
        corruption_mask_fn=hd.sampling.MaskValueCorruptedMaskFn(process=process),
    )

    def sampler(steps: int) -> Draw:
        walk = hd.sampling.DiffusionSampler(
            time_schedule=hd.sampling.UniformTimeSchedule(),
            stepper=stepper,
            num_steps=steps + 1,
            store_trajectory=False,
        )

        @jax.jit
        def draw(params: Any, key: jax.Array) -> jax.Array:
            infer = hd.inference.FlaxLinenInferenceFn(
                network=Network(vocabulary), params={"tagger": params}
            )
            masks = jnp.full((*shape, 1), vocabulary)
            return walk(infer, key, masks)[0].xt[..., 0]

        return lambda params, key: (draw(params, key), None)

    return sampled(sampler, weights, shape, steps, counted)

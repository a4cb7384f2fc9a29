"""Coins of self-conditioning: whether an example sees its network's own estimate."""

import jax

from jaxflow.arrays import batch_size
from jaxflow.records import record, static
from jaxflow.types import Batch, Draw, Held, Key

__all__ = ["self_condition"]


@record
class SelfCondition:
    """Adds the condition `estimated`, a coin an example."""

    rate: float = static()

    def __call__(self, key: Key, batch: Batch, held: Held | None = None) -> Batch:
        estimated = jax.random.bernoulli(key, self.rate, (batch_size(batch["x1"]),))
        return {**batch, "cond": {**batch.get("cond", {}), "estimated": estimated}}


def self_condition(rate: float = 0.5) -> Draw:
    """Adds the coins of `networks.self_conditioned`, `estimated`, true with probability `rate`.

    Chen et al., Analog Bits: Generating Discrete Data using Diffusion Models with
    Self-Conditioning, 2022, arXiv:2208.04202, with rate 1/2.

    Raises:
        ValueError: for a rate outside [0, 1].
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"self_condition needs a rate in [0, 1]; got {rate}")
    return SelfCondition(rate)

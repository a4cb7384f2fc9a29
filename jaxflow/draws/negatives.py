"""Pairs of other examples, for losses that keep away from them."""

import jax
import jax.numpy as jnp

from jaxflow.arrays import batch_size
from jaxflow.records import record, static
from jaxflow.types import Array, Batch, Draw, Held, Key

__all__ = ["negatives"]


@record
class Negatives:
    """Adds `negative`, the pair of another example of the batch to each."""

    differing: str | None = static()

    def __call__(self, key: Key, batch: Batch, held: Held | None = None) -> Batch:
        n = batch_size(batch["x1"])
        if n < 2:
            raise ValueError(f"a batch of {n} has no other example to keep away from")
        other = _others(key, n) if self.differing is None else self._of_another_kind(key, batch, n)
        pair = {name: batch[name] for name in ("x0", "x1", "z", "mask") if name in batch}
        return {**batch, "negative": jax.tree.map(lambda a: jnp.asarray(a)[other], pair)}

    def _of_another_kind(self, key: Key, batch: Batch, n: int) -> Array:
        cond = batch.get("cond", {})
        if self.differing not in cond:
            raise ValueError(
                f"negatives differ in the condition {self.differing!r}, but the batch has "
                f"{sorted(cond)}"
            )
        kind = jnp.asarray(cond[self.differing]).reshape(n, -1)
        differs = jnp.any(kind[:, None] != kind[None], axis=-1)
        itself = jnp.eye(n, dtype=bool)
        score = jax.random.uniform(key, (n, n)) + 1.0 * differs - 2.0 * itself
        return jnp.argmax(score, axis=1)


def _others(key: Key, n: int) -> Array:
    """One of the others for each, every one equally likely."""
    return (jnp.arange(n) + jax.random.randint(key, (n,), 1, n)) % n


def negatives(differing: str | None = None) -> Draw:
    """Adds `"negative"` to a batch of drawn pairs: `x0`, `x1`, `z` and `mask` of another example.

    Comes last in a chain, `draws.chain(draws.standard(path), draws.negatives("label"))`, and on
    the global batch, as every draw.

    Args:
        differing: a condition in which the other example differs, where there is one that does.

    Raises:
        ValueError: (when called) for a batch of one, or without that condition.
    """
    return Negatives(differing)

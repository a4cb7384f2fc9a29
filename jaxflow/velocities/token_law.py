r"""Closed forms: the exact posterior of tokens whose joint law is a table.

For data of law $p_1$ over all of $[V]^L$ and a source of independent tokens, a path has the
marginals and posteriors

(1) $p_t(x) = \sum_{x_1} p_1(x_1) \prod_i p_t(x^i \mid x_1^i)$

(2) $p_{1 \mid t}(x_1^i = y \mid x) = \sum_{x_1: x_1^i = y} p_1(x_1) \prod_j p_t(x^j \mid x_1^j)
    \,/\, p_t(x)$
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.checks import check_made
from jaxflow.records import record
from jaxflow.types import AnyArray, Array, Data, Float, Time

__all__ = ["token_law"]


@record
class TokenLaw:
    """The posterior (2) as logits, with the marginal (1); what it holds is the logarithm of p_1."""

    path: Any
    log_law: Float[Array, "..."]

    evaluations = 1
    interval = (0.0, 1.0)

    def __call__(self, t: Time, x: Data, **cond: Any) -> Float[Array, "batch length vocabulary"]:
        """The logits of (2), normalised; all alike where the path never has `x`."""
        joint = self._joint(t, x)
        never = jnp.all(jnp.isneginf(joint), axis=tuple(range(1, joint.ndim)), keepdims=True)
        joint = jnp.where(never, 0.0, joint)
        others = [tuple(j for j in range(1, joint.ndim) if j != i) for i in range(1, joint.ndim)]
        each = [jax.nn.logsumexp(joint, axis=axes) for axes in others]
        return jax.nn.log_softmax(jnp.stack(each, axis=1), axis=-1)

    def log_prob(self, t: Time, x: Data) -> Float[Array, "batch"]:
        """The log-probability (1) of every sample, in nats."""
        joint = self._joint(t, x)
        return jax.nn.logsumexp(joint, axis=tuple(range(1, joint.ndim)))

    def _joint(self, t: Time, x: Data) -> Array:
        """The logarithm of the terms of (1), `[batch, *[vocabulary] * length]`."""
        length, vocabulary = self.log_law.ndim, self.log_law.shape[0]
        if jnp.shape(x)[1:] != (length,):
            raise ValueError(f"this law is one of {length} tokens; got shape {jnp.shape(x)}")
        x = jnp.asarray(x)
        joint = self.log_law[None]
        each = [self.path.log_prob(t, x, jnp.full_like(x, y)) for y in range(vocabulary)]
        for i, of_place in enumerate(jnp.unstack(jnp.stack(each, axis=-1), axis=1)):
            axes = (len(x), *(vocabulary if j == i else 1 for j in range(length)))
            joint = joint + of_place.reshape(axes)
        return joint


def token_law(path: Any, law: AnyArray) -> TokenLaw:
    """The exact posterior of data whose law is a table: what a perfect network would say.

    Args:
        path: of tokens, `paths.mixture(source=...)` or `paths.metric(distances)`.
        law: `[vocabulary] * length`, the probability of every sequence.

    Returns:
        `(t, x) -> logits [batch, length, vocabulary]`, with `log_prob(t, x)`.

    Raises:
        ValueError: for axes that differ, or numbers that are no law.

    >>> from jaxflow import paths, sources
    >>> path = paths.mixture(source=sources.mask(2))
    >>> exact = token_law(path, jnp.array([[0.5, 0.0], [0.25, 0.25]]))
    >>> jnp.exp(exact(jnp.array([0.3]), jnp.array([[2, 1]]))).round(3)  # the second is 1
    Array([[[0., 1.],
            [0., 1.]]], dtype=float32)
    """
    check_made("path", path)
    table = np.asarray(law)
    if not table.ndim or len(set(table.shape)) != 1:
        raise ValueError(f"a law of sequences is [vocabulary] * length; got shape {table.shape}")
    if not (np.all(table >= 0) and abs(table.sum() - 1) < 1e-5):
        raise ValueError(f"a law is non-negative and sums to one; the sum is {table.sum():.6g}")
    with np.errstate(divide="ignore"):
        return TokenLaw(path, jnp.asarray(np.log(table)))

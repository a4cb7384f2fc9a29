r"""Log-likelihoods in the unit that images are compared in.

An image holds levels $0 \dots L - 1$. Uniform noise $u \in [0, 1)$ spreads each over a cell
of width one, and scaling by $w$ takes cells to what the model sees, $x = w (k + u) + b$. The change
of variables costs $\log w$ for each of the $d$ numbers, and by Jensen's inequality

(1) $-\log_2 P(k) \le -\log_2 p(x) - d \log_2 w$ in the mean over $u$

(2) $-\log_2 P(k) \le -\log_2 \frac1K \sum_i p(x_i) - d \log_2 w$ in the mean over
    $u_1, \dots, u_K$,

which is (1) for $K = 1$, tighter for every larger $K$, and exact in the limit.

For 256 levels in [-1, 1], $w = 2 / 256$, and the offset $-\log_2 w$ is 7 bits a dimension.
"""

import math

import jax

from jaxflow.arrays import at_least_float32
from jaxflow.types import AnyArray, Array, Float

__all__ = ["bits_per_dim", "importance_weighted"]


def importance_weighted(log_prob: Float[AnyArray, "draws batch"]) -> Float[Array, "batch"]:
    """The logarithm of the mean density over dequantised copies of each sample: (2).

    Args:
        log_prob: of `draws` copies of every sample, each with noise of its own, in nats.

    Returns:
        What `bits_per_dim` takes, in nats.

    >>> import jax.numpy as jnp
    >>> importance_weighted(jnp.log(jnp.array([[1.0], [3.0]]))).tolist()  # log 2
    [0.693147...]

    Burda, Grosse & Salakhutdinov, Importance Weighted Autoencoders, 2016, arXiv:1509.00519, eq. 8;
    Hoogeboom, Cohen & Tomczak, Learning Discrete Distributions by Dequantization, 2020,
    arXiv:2001.11235.
    """
    log_prob = at_least_float32(log_prob)
    return jax.nn.logsumexp(log_prob, axis=0) - math.log(len(log_prob))


def bits_per_dim(
    log_prob: Float[AnyArray, "batch"],
    event_shape: tuple[int, ...],
    *,
    level_width: float = 2 / 256,
) -> Float[Array, "batch"]:
    """The bound (1) on the bits that a lossless code spends on each number of a sample.

    Args:
        log_prob: log-density in nats of dequantised samples, as the model sees them.
        event_shape: the shape of one sample.
        level_width: `w`, the distance of neighbouring levels as the model sees them; 1 where the
            data are not scaled.

    Returns:
        `[batch]`, in bits. Unbiased for the bound (1), hence biased upwards for the code length of
        the model itself.

    Raises:
        ValueError: for an empty event or a width that is not positive.

    The uniform density on the square of side 2 knows nothing of 256 levels:

    >>> import jax.numpy as jnp
    >>> bits_per_dim(jnp.array([-2 * math.log(2)]), (2,)).tolist()
    [8.0]

    Reference: Theis, van den Oord and Bethge, A note on the evaluation of generative models, 2016,
    arXiv:1511.01844, section 3.1.
    """
    size = math.prod(event_shape)
    if size < 1:
        raise ValueError(f"event_shape is {event_shape}: bits are counted for at least one number")
    if not 0 < level_width < math.inf:
        raise ValueError(f"level_width is {level_width}: levels lie a positive distance apart")
    return -at_least_float32(log_prob) / (size * math.log(2)) - math.log2(level_width)

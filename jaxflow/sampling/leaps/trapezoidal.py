r"""The trapezoidal leap, of second order.

(1) A tau-leap over a share $\theta$ of the step, with the rates $r_t(\cdot, x)$, to $x^*$.

(2) A tau-leap from $x^*$ over the rest, with the rates
    $[\alpha\, r_{t^*}(y, x^*) - (\alpha - 1)\, r_t(y, x)]_+$ of tokens that (1) has left where they
    were, and $\alpha\, r_{t^*}(y, x^*)$ of those that it has moved, $\alpha = 1 / (2 \theta (1 -
    \theta))$.

A jump is one from a token to another, so a token that has moved has no rates of (1) to take off.
With this the law of a step agrees with the process to second order, whatever the jumps do to each
other, as long as no difference of (2) is negative: where one jump lowers the rate of another to
less than $(\alpha - 1) / \alpha$ of itself, a half for $\theta = 1/2$, it is cut off at zero, and
what is lost is of first order.

The rates of both calls are formed block by block as a token is drawn: a leap holds both arrays of
logits, and no third, and `jumps` carries half of the samples at a time, so that both are as large
as one of all.
"""

from typing import Any

import jax.numpy as jnp
from jax.tree_util import Partial

from jaxflow.arrays import two_keys
from jaxflow.records import record
from jaxflow.sampling.leaps.process import Process, check_rates
from jaxflow.sampling.methods.moves import no_memory
from jaxflow.tokens import drawn_by, leapt
from jaxflow.types import Array, Data, Keys, Method, Time

__all__ = ["trapezoidal"]


@record
class Trapezoidal:
    """A step, (1) and (2)."""

    theta: Array

    holds = 2

    def __call__(
        self, process: Process, t: Time, s: Time, x: Data, memory: Any, keys: Keys
    ) -> tuple[Data, Any]:
        check_rates(process.path, "trapezoidal")
        one, other = two_keys(keys)
        middle = t + self.theta * (s - t)
        first, second = process.span(t, middle, x), process.span(middle, s, x)
        share = first / (first + second)
        alpha = (1 / (2 * share * (1 - share)))[..., None]
        here = process(t, x)
        y = process.keep(x, process.path.tau_leap(one, first, t, x, here))
        here, rates_here = process.path.rates_by_block(t, x, here)
        there, rates = process.path.rates_by_block(middle, y, process(middle, y))
        same = (x == y)[..., None]

        def weigh(places: Array, there: Array, here: Array) -> Array:
            gone = (alpha - 1) * jnp.where(same, rates_here(places, here), 0.0)
            return jnp.maximum(alpha * rates(places, there) - gone, 0.0)

        other, own = two_keys(other)
        token, total = drawn_by(own, weigh, there, here)
        return process.keep(x, leapt(other, second, y, total, lambda _: token)), memory


def trapezoidal(theta: float = 0.5) -> Method:
    """The theta-trapezoidal leap: two calls, order 2 where rates do not fall too fast.

    Args:
        theta: where the second call is, as a share of the step; at a half the fewest rates are cut
            off.

    Raises:
        ValueError: for a share that is not between 0 and 1.

    Ren et al., Fast Solvers for Discrete Diffusion Models: Theory and Applications of High-Order
    Algorithms, 2025, arXiv:2502.00234. There jumps are told apart by their direction
    alone, here by the token that they leave too. The Runge-Kutta leap of that paper is left out: in
    the joint law of two tokens it is of first order.
    """
    if not 0 < theta < 1:
        raise ValueError(f"trapezoidal needs 0 < theta < 1, a share of the step; got {theta}")
    return Method(Partial(no_memory), Trapezoidal(jnp.float32(theta)), calls=2, order=2)

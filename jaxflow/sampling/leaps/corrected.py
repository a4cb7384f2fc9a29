r"""Leaps that are each followed by jumps at their end, which keep the law there.

(1) a leap from $t$ to $s$

(2) $n$ times, a tau-leap with the rates $r_s(y, x) + \bar r_s(y, x)$ forth and back at $s$, whose
    stationary law is $p_s$, over the clock time $\eta\, (\tau_s - \tau_t) / n$
"""

from typing import Any

import jax

from jaxflow.arrays import as_floats, two_keys
from jaxflow.checks import check_made
from jaxflow.records import record, static
from jaxflow.sampling.leaps.forth_and_back import leapt_both_ways
from jaxflow.sampling.leaps.process import Process
from jaxflow.types import Array, Data, Keys, Method, Time

__all__ = ["corrected"]


@record
class Corrected:
    """A step of the method, and `steps` of (2)."""

    method: Method
    size: Array
    steps: int = static()

    @property
    def holds(self) -> int:
        """Arrays of logits at once, those of the method."""
        return getattr(self.method.step, "holds", 1)

    def __call__(
        self, process: Process, t: Time, s: Time, x: Data, memory: Any, keys: Keys
    ) -> tuple[Data, Any]:
        keys, own = two_keys(keys)
        moved, memory = self.method.step(process, t, s, x, memory, own)
        span = self.size * process.span(t, s, x) / self.steps
        for i in range(self.steps):
            each = jax.vmap(jax.random.fold_in, (0, None))(keys, i)
            moved = leapt_both_ways(process, each, span, s, moved, 1.0, 1.0)
        return moved, memory


def corrected(method: Method, *, steps: int = 1, size: float = 1.0) -> Method:
    r"""A leap whose steps are each followed by jumps forth and back (2).

    `forth_and_back` makes the same jumps within the step, at no call of their own, and with a
    churn of `size` as many of them.

    Args:
        method: the predictor, one of `leaps`.
        steps: of the corrector after each of the method, of a call each.
        size: $\eta$, the clock time of the corrections as a share of the step's.

    Raises:
        TypeError: for what is no method.
        ValueError: for no steps, or a size that is not positive.

    Campbell et al., A Continuous Time Framework for Discrete Denoising Models, 2022,
    arXiv:2205.14987, section 4.4.
    """
    check_made("method", method)
    if not isinstance(method, Method):
        raise TypeError(f"corrected needs a leap to correct, as leaps.euler(); got {method!r}")
    if not (isinstance(steps, int) and steps >= 1):
        raise ValueError(f"corrected needs a whole number of steps, 1 or more; got steps={steps}")
    if not 0 < size < float("inf"):
        raise ValueError(f"corrected needs a positive size, as 1; got size={size}")
    step = Corrected(method, as_floats(size), steps)
    return Method(method.init, step, method.calls + steps, method.order)

r"""Leaps of first order: the posterior or the rates of a step's beginning are held until its end.

With $h = \tau_s - \tau_t$, the clock time of a step (`paths.mixture`, `paths.metric`), and $r_t$
the rates by it,

(1) euler: a draw $\hat x_1 \sim p_{1 \mid t}(\cdot \mid x)$ of each token's data, and of where the
    process that leads there has come at $s$. On a mixture path
    $p(y) = \delta(y, x) + \frac{\kappa_s - \kappa_t}{1 - \kappa_t}\,
    [p_{1 \mid t}(y \mid x) - \delta(y, x)]$, which is $1 + (s - t)\, u_t$ where $\kappa_t = t$

(2) ancestral: the same draw of the data, and one of noising run backwards between both
    (`jaxflow.paths.backwards`), by which noise is drawn anew and wrong data mended on the way

(3) tau_leaping: $p(y) = (1 - e^{-h R})\, r_t(y, x) / R$ for $y \ne x$, $R = \sum_{y \ne x} r_t$
"""

from typing import Any

from jaxflow.arrays import two_keys
from jaxflow.sampling.leaps.process import Process, check_rates
from jaxflow.sampling.methods.moves import made, no_memory
from jaxflow.types import Data, Keys, Method, Time

__all__ = ["ancestral", "euler", "tau_leaping"]


def _euler(
    process: Process, t: Time, s: Time, x: Data, memory: Any, keys: Keys
) -> tuple[Data, Any]:
    one, other = two_keys(keys)
    x1 = process.data(one, x, process(t, x))
    return process.keep(x, process.path.leap(other, t, s, x, x1)), memory


def _tau_leaping(
    process: Process, t: Time, s: Time, x: Data, memory: Any, keys: Keys
) -> tuple[Data, Any]:
    check_rates(process.path, "tau_leaping")
    span = process.span(t, s, x)
    return process.keep(x, process.path.tau_leap(keys, span, t, x, process(t, x))), memory


def _ancestral(
    process: Process, t: Time, s: Time, x: Data, memory: Any, keys: Keys
) -> tuple[Data, Any]:
    one, other = two_keys(keys)
    if not hasattr(process.path, "denoise"):
        raise ValueError(
            f"ancestral runs noising backwards, and that of {process.path!r} is not known: take "
            "euler, tau_leaping or trapezoidal"
        )
    x1 = process.data(one, x, process(t, x))
    return process.keep(x, process.path.denoise(other, t, s, x, x1)), memory


def ancestral() -> Method:
    """Ancestral sampling (2): one call, order 1; the process whose bound `generalised_kl` is.

    Of masks it is `euler`. For one token it is exact, whatever the grid and the source.

    Austin et al., Structured Denoising Diffusion Models in Discrete State-Spaces, 2021,
    arXiv:2107.03006, eq. 3 and 4.
    """
    return made(no_memory, _ancestral, calls=1, order=1)


def euler() -> Method:
    """Euler's method (1): one call, order 1; of masked tokens, ancestral sampling.

    For one masked token it is exact, whatever the grid.

    Gat et al., Discrete Flow Matching, 2024, arXiv:2407.15595.
    """
    return made(no_memory, _euler, calls=1, order=1)


def tau_leaping() -> Method:
    """Tau-leaping (3): one call, order 1; the first jump of each token within a step.

    Campbell et al., A Continuous Time Framework for Discrete Denoising Models, 2022,
    arXiv:2205.14987, where a token that jumps twice is rejected.
    """
    return made(no_memory, _tau_leaping, calls=1, order=1)

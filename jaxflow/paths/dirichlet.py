r"""Tokens as points of the simplex: Dirichlet laws that gather at the corner of each token.

A token $y$ of $V$ is the corner $e_y$, and noise is uniform over the simplex. The law of a point is

(1) $p_t(x \mid e_y) = \mathrm{Dir}(x;\, 1 + a_t e_y)$ with the concentration $a_t = c\, \tau_t$ on
    the clock $\tau_t = -\log(1 - \kappa_t)$

which moves straight to the corner, by the distribution function $F$ and the density $f$ of
$x^y \sim \mathrm{Beta}(1 + a, V - 1)$:

(2) $u_t(x \mid e_y) = \dot a_t\, C(x^y, a_t)\, (e_y - x)$ with
    $C(s, a) = -\partial_a F(s) \,/\, [(1 - s)\, f(s)]$

so that a posterior of the token gives the velocity of the flow,

(3) $u_t(x) = \sum_y p_{1 \mid t}(y \mid x)\, u_t(x \mid e_y)$

which is, of independent tokens of law $p_1$,

(4) $p_{1 \mid t}(y \mid x) \propto p_1(y)\, (x^y)^{a_t}$

Points are drawn without inverting $F$. The coordinates in an order that begins with $y$ have sums
$S_1 = x^y, \dots, S_V = 1$, whose ratios $S_k / S_{k+1} \sim \mathrm{Beta}(a + k, 1)$ are
independent. So noise becomes a point of (1) as each becomes a power of itself,

(5) $S_k / S_{k+1} \mapsto (S_k / S_{k+1})^{k / (a + k)}$

Since $\partial_a \log f = \log s + h$ with $h = \sum_{k=1}^{V-1} 1 / (a + k)$, whose mean is zero,

(6) $(1 - s)\, C(s, a) = \int_0^s g(r)\, (-\log r - h)\, dr = \int_s^1 g(r)\, (\log r + h)\, dr$
    with $g(r) = (r / s)^a\, [(1 - r) / (1 - s)]^{V - 2}$

The first has no negative part where $-\log s > h$, the second elsewhere. For $V = 2$ it is
$-s \log s / (1 + a)$, and for any $V$ that times a factor in $(0, 1]$, whose logarithm is a smooth
function of both

(7) $\log \frac{a + V}{a + 1}$ and $\arctan\, [(-\log s - 0.8 \log V) / 6]$

so that a small table of its Chebyshev coefficients, made once in float64, is all of $C$: in float32
to 2e-6 of itself, at every $s$ and $a$, for vocabularies up to 10,000.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.polynomial import chebyshev

from jaxflow.arrays import at_least_float32, expand, per_sample
from jaxflow.checks import check_made
from jaxflow.paths.fisher import check_soft
from jaxflow.paths.kappas import Kappa, as_kappa, linear
from jaxflow.records import record, static
from jaxflow.types import AnyArray, Array, Float, Interval, Keys, PathSample, Time

__all__ = ["Dirichlet", "Simplex", "dirichlet"]

Points = Float[Array, "batch *event vocabulary"]

_LAST = 1.0 - 1e-3
_SHAPE = (16, 24)  # coefficients in each of (7)


@record
class Simplex:
    """Every place a point of the simplex, uniform over it."""

    vocabulary: int = static()

    def sample(self, keys: Keys, event_shape: tuple[int, ...]) -> Points:
        """One sample a key, `[batch, *event_shape, vocabulary]`; no coordinate is zero."""
        shape, tiny = (*event_shape, self.vocabulary), jnp.finfo(jnp.result_type(float)).tiny
        uniform = per_sample(lambda key: jax.random.uniform(key, shape, minval=tiny), keys)
        z = -jnp.log(uniform)
        return z / jnp.sum(z, axis=-1, keepdims=True)

    def log_prob(self, x0: Points) -> Float[Array, "batch"]:
        """Its logarithm by the volume of all coordinates but one, in nats."""
        places = x0[0, ..., 0].size
        return jnp.full(len(x0), places * math.lgamma(self.vocabulary))


@record
class Dirichlet:
    """The path (1) of a vocabulary, with the coefficients of its factor by (7)."""

    kappa: Kappa
    table: Float[AnyArray, "concentrations points"]
    scale: float = static()
    vocabulary: int = static()

    @property
    def interval(self) -> Interval:
        """Until the noise that is left is too little to tell."""
        return 0.0, min(_LAST, self.kappa.last)

    @property
    def source(self) -> Simplex:
        """The noise that it begins at."""
        return Simplex(self.vocabulary)

    def __call__(self, t: Time, x0: Any, x1: Any, z: Any = None) -> PathSample:
        """The point (5) of tokens `x1 [batch, *event]`, with the velocity (2) there.

        It is `x0` at `t = 0` and the corner at `t = 1`. In between (5) has the laws of the flow of
        (2), but for more than two tokens other lines: `u` is not the slope of `x`.

        Raises:
            ValueError: for data that is no tokens, or noise that is no points of their simplex.
        """
        x1 = jnp.asarray(x1)
        check_soft(x0, x1, self.vocabulary, "simplex")
        t, noise = at_least_float32(t), at_least_float32(x0)
        x = _moved(self.concentration(t, noise), noise, x1)
        a, rate = self._slope(t, noise)
        corner = jax.nn.one_hot(x1, self.vocabulary, dtype=x.dtype)
        own = jnp.sum(corner * x, axis=-1, keepdims=True)
        u = rate * self.pull(own, a) * (corner - x)
        return PathSample(t, x.astype(x0.dtype), u.astype(x0.dtype), x0, x1)

    def velocity(self, t: Time, x: Points, logits: Points) -> Points:
        """(3) of a posterior, by its logits; at `x` outside of the simplex, that of one near.

        Raises:
            ValueError: for points of another vocabulary.
        """
        if x.shape[-1] != self.vocabulary:
            raise ValueError(
                f"x has shape {x.shape}: points of this path have {self.vocabulary} coordinates, "
                "its vocabulary, on their last axis"
            )
        inside = jnp.maximum(at_least_float32(x), 0.0)
        total = jnp.sum(inside, axis=-1, keepdims=True)
        inside = inside / jnp.where(total > 0, total, 1.0)
        a, rate = self._slope(t, inside)
        pull = jax.nn.softmax(at_least_float32(logits)) * self.pull(inside, a)
        return (rate * (pull - jnp.sum(pull, axis=-1, keepdims=True) * inside)).astype(x.dtype)

    def concentration(self, t: Time, x: Points) -> Float[Array, "batch *places 1"]:
        """That of (1), ready to multiply `x`; infinite at `t = 1`."""
        noise = 1 - self.kappa(expand(at_least_float32(t), x[..., 0]))[..., None]
        some = noise > 0
        return jnp.where(some, -self.scale * jnp.log(jnp.where(some, noise, 1.0)), jnp.inf)

    def pull(self, s: Float[AnyArray, "*n"], a: Float[AnyArray, "*m 1"]) -> Float[Array, "*n"]:
        """C of (2), for numbers of [0, 1] by concentrations; its slope at 0 is held finite."""
        s = at_least_float32(s)
        rest, logs = 1 - s, -jnp.log(jnp.maximum(s, jnp.finfo(s.dtype).tiny))
        depth = 2 * jnp.log1p((self.vocabulary - 1) / (a + 1)) / math.log(self.vocabulary) - 1
        middle, width = _angles(self.vocabulary)
        angle = 2 * (jnp.arctan(logs / 6 - middle) + math.atan(middle)) / width - 1
        basis = jnp.concatenate(_polynomials(depth, len(self.table)), axis=-1)
        row = jnp.matmul(basis, jnp.asarray(self.table, s.dtype), precision="highest")
        near = rest < 1e-2
        ratio = logs / jnp.where(near, 1.0, rest)
        power_series = 1 + rest * (1 / 2 + rest * (1 / 3 + rest * (1 / 4 + rest / 5)))
        ratio = jnp.where(near, power_series, ratio)
        return s * ratio * jnp.exp(_series(row, angle)) / (1 + a)

    def __repr__(self) -> str:
        return f"Dirichlet({self.kappa!r}, scale={self.scale}, vocabulary={self.vocabulary})"

    def _slope(self, t: Time, x: Points) -> tuple[Array, Array]:
        """The concentration and its slope, held beyond the interval."""
        t = jnp.clip(at_least_float32(t), *self.interval)
        return jax.jvp(lambda t: self.concentration(t, x), (t,), (jnp.ones_like(t),))


def dirichlet(vocabulary: int, kappa: Any = None, *, scale: float = 2.0) -> Dirichlet:
    """The path (1) of soft tokens, for `losses.cross_entropy`; a flow, where `mixture` jumps.

    A network reads points `x [batch, *event, vocabulary]` of the simplex, and says the logits of
    their tokens. `velocities.from_logits(network, path)` is the flow, which any solver follows, and
    the largest entry of each place the token that it ends at.

    Args:
        vocabulary: how many tokens there are.
        kappa: how far along by time, one of `kappas`; linear where None, so that uniform times have
            concentrations of an exponential law.
        scale: the mean of that law. The flow ends at a concentration of `6.9 scale` by the linear
            kappa; tokens are told apart where it is some multiple of `log(vocabulary)`.

    Raises:
        TypeError: for a kappa that is no function.
        ValueError: for fewer than two tokens, a scale that is not positive and finite, or a kappa
            that does not rise from 0 to 1.

    Stark et al., Dirichlet Flow Matching with Applications to DNA Sequence Design, 2024,
    arXiv:2402.05841, for (1) to (3); (5) to (7) are ours.

    >>> path = dirichlet(2)
    >>> x0 = jnp.full((1, 1, 2), 0.5)
    >>> half_way = path(jnp.array([0.5]), x0, jnp.array([[1]])).x
    >>> [round(float(a), 3) for a in half_way[0, 0]]
    [0.252, 0.748]
    """
    check_made("kappa", kappa)
    if vocabulary < 2:
        raise ValueError(f"dirichlet needs a vocabulary of 2 or more; got {vocabulary}")
    if not 0 < scale < math.inf:
        raise ValueError(f"dirichlet needs a positive, finite scale, such as 2.0; got {scale}")
    kappa = linear() if kappa is None else as_kappa(kappa)
    return Dirichlet(kappa, jnp.asarray(_table(vocabulary)), float(scale), vocabulary)


def _moved(a: Array, x0: Array, x1: Array) -> Array:
    """(5), with the coordinate of the token first and the others in their order."""
    places = jnp.arange(x0.shape[-1])
    own = places == x1[..., None]
    x0 = jnp.maximum(x0, jnp.finfo(x0.dtype).tiny)  # a ratio of two zeros has no logarithm
    first = jnp.sum(jnp.where(own, x0, 0.0), axis=-1, keepdims=True)
    rest = jnp.where(own, 0.0, x0)
    before = jnp.cumsum(jnp.concatenate([first, rest[..., :-1]], axis=-1), axis=-1)
    few = rest < before
    share = jnp.where(few, rest / (before + rest), 0.0)
    log_ratio = jnp.where(few, jnp.log1p(-share), jnp.log(before) - jnp.log(before + rest))
    k = jnp.maximum(places + (places < x1[..., None]), 1)
    log_ratio = k / (a + k) * log_ratio
    after = jnp.concatenate([log_ratio[..., 1:], jnp.zeros_like(first)], axis=-1)
    above = jax.lax.cumsum(after, axis=after.ndim - 1, reverse=True)
    apart = -jnp.expm1(log_ratio) * jnp.exp(above)
    return jnp.where(own, jnp.exp(jnp.sum(log_ratio, axis=-1, keepdims=True)), apart)


def _polynomials(x: Array, n: int) -> list[Array]:
    """The first of Chebyshev's."""
    found = [jnp.ones_like(x), x]
    while len(found) < n:
        found.append(2 * x * found[-1] - found[-2])
    return found


def _series(row: Array, x: Array) -> Array:
    """The sum of them by the coefficients `row [..., n]`, by Clenshaw's recurrence."""
    b = after = jnp.zeros_like(x)
    for i in reversed(range(1, row.shape[-1])):
        b, after = row[..., i : i + 1] + 2 * x * b - after, b
    return row[..., :1] + x * b - after


def _angles(vocabulary: int) -> tuple[float, float]:
    """Where the second of (7) is zero, and how far it ranges."""
    middle = 0.8 * math.log(vocabulary) / 6
    return middle, math.pi / 2 + math.atan(middle)


def _table(vocabulary: int) -> np.ndarray:
    """The coefficients of the logarithm of C's factor in (7), for all `s` and concentrations."""
    nodes = [chebyshev.chebpts1(n) for n in _SHAPE]
    middle, width = _angles(vocabulary)
    a = (vocabulary - 1) / np.expm1(math.log(vocabulary) * (nodes[0] + 1) / 2) - 1
    logs = 6 * (middle + np.tan(width * (nodes[1] + 1) / 2 - math.atan(middle)))
    values = np.log(_factor(logs, np.maximum(a, 0.0)[:, None], vocabulary))
    rows = chebyshev.chebfit(nodes[0], values, _SHAPE[0] - 1)
    return chebyshev.chebfit(nodes[1], rows.T, _SHAPE[1] - 1).T


def _factor(logs: np.ndarray, a: np.ndarray, vocabulary: int) -> np.ndarray:
    """`(1 + a) (1 - s) C / (-s log s)` by (6), of `logs = -log s`.

    With `r = s e^(-y / (1 + a))` in its first integral and `1 - r = (1 - s) e^(-y / (V - 1))` in
    its second both have a smooth integrand by `e^(-y) dy`, of which the trapezoid rule after a
    double exponential substitution has fourteen digits.
    """
    x, step = np.linspace(-4.2, 6.2, 241, retstep=True)
    y = np.exp(x - np.exp(-x))
    logs, a, b = logs[..., None], a[..., None], vocabulary - 1
    h = np.sum(1 / (a + np.arange(1, vocabulary)), axis=-1, keepdims=True)
    with np.errstate(all="ignore"):  # of the integral that is not taken
        odds = 1 / np.expm1(logs)
        log_growth = np.log1p(odds * -np.expm1(-y / (1 + a)))
        below = np.exp((b - 1) * log_growth - y) * (logs - h + y / (1 + a))
        log_growth = np.log1p(-np.expm1(-y / b) / odds)
        above = np.exp(a * log_growth - y) * (log_growth - logs + h) * (1 + a) / (b * odds)
    weights = step * y * (1 + np.exp(-x))
    return np.sum(weights * np.where(logs > h, below, above), axis=-1) / logs[..., 0]

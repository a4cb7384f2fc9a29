r"""A path with its time fitted to the second moments of data, so that its flow moves evenly.

Of data with mean $m$ and variances $\lambda_k$ along its $d$ principal axes, on the path
$\alpha(s)\, x_1 + \sigma(s)\, x_0$ from an independent standard normal, the marginal has the mean
$\alpha m$ and, along the same axes, the standard deviations

(1) $\rho_k(s) = \sqrt{\alpha(s)^2 \lambda_k + \sigma(s)^2}$

The flow between Gaussians of these moments stretches each axis as (1),
$v = \alpha' m + \sum_k (\rho_k' / \rho_k) (x - \alpha m)_k$, so its mean square a coordinate is

(2) $e(s) = \tfrac1d E |v|^2 = \tfrac1d \bigl( \alpha'(s)^2 |m|^2 + \sum_k \rho_k'(s)^2 \bigr)$

Walked at the times $s(t)$ it costs the kinetic energy

(3) $K = \int_0^1 e(s(t))\, s'(t)^2\, dt = \int_0^1 \dfrac{e(s)}{t'(s)}\, ds
    \ge \Bigl( \int_0^1 \sqrt{e}\, ds \Bigr)^2$

by Cauchy and Schwarz, since $\int t'\, ds = 1$; the bound is the squared length of the curve and is
met where the speed $\sqrt e\, s'(t)$ is constant. Where the flow stands still that asks for an
infinite $s'$: at $\alpha^2 \lambda = \sigma^2$ or so for data without a mean on the linear path, at
both ends of variance-preserving ones, everywhere on those if $\lambda = 1$. So a speed $f$, the
floor, is added to it:

(4) $\dfrac{dt}{ds} = \dfrac1A \sqrt{e(s) + f^2}$ with $A = \int_0^1 \sqrt{e + f^2}\, ds$,
    hence $s'(t) \le A / f$

which is the least of $K + f^2 \int s'(t)^2\, dt$. Since that is $\int e\, ds + f^2$ for $s(t) = t$,
and $\int s'^2 dt \ge 1$, the energy of (4) is never above that of the path as it was; and it is at
most $A$ times the length, so it comes down to the bound (3) as $f$ falls.

Between knots $(t_i, s_i)$ with slopes $b_i = s'(t_i)$ a rational quadratic rises from each to the
next, so that $s$ and its inverse increase, are smooth, and are closed forms. With
$w = (t - t_i) / (t_{i+1} - t_i)$ and $\Delta = (s_{i+1} - s_i) / (t_{i+1} - t_i)$

(5) $s(t) = \dfrac{p\, s_i + q\, s_{i+1}}{p + q}$, where $p = \Delta (1 - w)^2 + b_{i+1} w (1 - w)$
    and $q = \Delta w^2 + b_i w (1 - w)$

Knots are even in $(s + t) / 2$, of which neither is a steep function. The schedule is that of (5)
exactly, so that its slopes are derivatives of its values.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Real

from jaxflow.arrays import is_concrete
from jaxflow.paths.affine import Affine, affine
from jaxflow.paths.diffusion import time_at
from jaxflow.paths.ends import schedule_of
from jaxflow.paths.schedules import At
from jaxflow.records import record, static
from jaxflow.types import AnyArray, Array, Float, Interval, Path, Schedule

__all__ = ["Fitted", "fitted"]

FINE = 2**15  # chords of the curve, finest at the ends
WITHIN = 16  # of a piece: slopes are taken over so much less, so layers thinner still are left out


@record
class Fitted:
    """A schedule at the places (5) of its own time; `t`, `s` and `slopes` are at the knots."""

    schedule: Schedule
    t: Float[Array, "knots"]
    s: Float[Array, "knots"]
    slopes: Float[Array, "knots"]
    interval: Interval = static()

    def alpha(self, t: At) -> At:
        """Share of the data."""
        return self.schedule.alpha(_place(t, self.t, self.s, self.slopes))

    def sigma(self, t: At) -> At:
        """Share of the noise."""
        return self.schedule.sigma(_place(t, self.t, self.s, self.slopes))

    def time_of_log_snr(self, value: At) -> At:
        """The time at which the log signal-to-noise ratio is `value`."""
        return _time(time_at(self.schedule, value), self.t, self.s, self.slopes)


@partial(jax.jit, inline=True)
def _place(t: At, x: Array, y: Array, slopes: Array) -> At:
    """(5)."""
    x0, x1, y0, y1, b0, b1 = _piece(t, x, x, y, slopes)
    w, secant = (t - x0) / (x1 - x0), (y1 - y0) / (x1 - x0)
    p = secant * (1 - w) ** 2 + b1 * w * (1 - w)
    q = secant * w**2 + b0 * w * (1 - w)
    return (p * y0 + q * y1) / (p + q)


@partial(jax.jit, inline=True)
def _time(s: At, x: Array, y: Array, slopes: Array) -> At:
    """The inverse of (5), a root `w` of `a w^2 + b w = c`, by the form that cancels no digits."""
    x0, x1, y0, y1, b0, b1 = _piece(s, y, x, y, slopes)
    secant, rise, z = (y1 - y0) / (x1 - x0), y1 - y0, s - y0
    bend = z * (b0 + b1 - 2 * secant)
    a, b, c = rise * (secant - b0) + bend, rise * b0 - bend, secant * z
    square = b**2 + 4 * a * c
    some = square > 0
    root = jnp.where(some, jnp.sqrt(jnp.where(some, square, 1.0)), 0.0)
    early = some & (b >= 0)
    w = jnp.where(
        early,
        2 * c / jnp.where(early, b + root, 1.0),
        (root - b) / jnp.where(b < 0, 2 * a, 1.0),
    )
    return x0 + w * (x1 - x0)


def _piece(at: At, edges: Array, x: Array, y: Array, slopes: Array) -> tuple[Array, ...]:
    """The ends of the piece in whose edges `at` lies, in its dtype."""
    i = jnp.searchsorted(edges.astype(at.dtype), at, side="right", method="compare_all") - 1
    i = jnp.clip(i, 0, edges.shape[0] - 2)
    x, y, slopes = (a.astype(at.dtype) for a in (x, y, slopes))
    return x[i], x[i + 1], y[i], y[i + 1], slopes[i], slopes[i + 1]


def fitted(
    path: Path, x1: Real[AnyArray, "n *event"], *, floor: float = 0.5, knots: int = 64
) -> Affine:
    """The same path at times (4), at which a Gaussian with the moments of `x1` moves evenly.

    For samplers with few steps: `velocities.change_path` puts a trained flow on it. The energy of
    the marginals' flow falls, and Euler's error often does, though neither bounds the other;
    methods of higher order may lose by it (figures in `docs/diffusion.md`). Training targets grow
    where the flow is slow, up to $A / f$ times. Little changes where the path moves evenly already:
    the linear one for data whose variances are far from 1, images among them. On `ve` and `edm`
    nearly all of the time goes to noise that is far above the data.

    Args:
        path: an affine path, from an independent standard normal.
        x1: a sample of the data as the path takes it, scaled; its moments alone are used, in
            float64 on the host. Their cost grows as `min(n, d)^2 max(n, d)` for `d` numbers each.
        floor: $f$ of (4), beside noise of size 1 and a time of 1. A low one makes $s'$ steep where
            the flow stands still, which variance-preserving paths begin with.
        knots: pieces of (5).

    Raises:
        ValueError: for a path without schedule, fewer than two rows, values that are not finite,
            a floor that is not positive, fewer than two knots, arrays that are traced, or a floor
            too low to tell the times of knots apart in float32.

    A curve at constant speed: Ambrosio, Gigli & Savaré, Gradient Flows, 2008, lemma 1.1.4; among
    all data with these moments a Gaussian moves least (Gelbrich, On a Formula for the L2
    Wasserstein Metric, 1990). The form (5): Gregory & Delbourgo, Piecewise Rational Quadratic
    Interpolation to Monotonic Data, 1982; Durkan et al., Neural Spline Flows, 2019,
    arXiv:1906.04032, eq. 4.

    >>> from jaxflow import paths
    >>> even = fitted(paths.linear(), np.array([[-1.0], [1.0]]))
    >>> f"{even.schedule.alpha(jnp.array([0.25]))[0]:.2f}"
    '0.20'
    """
    schedule = schedule_of(path)
    if not 0 < floor < math.inf:
        raise ValueError(
            f"fitted needs floor > 0, for time where the flow stands still; got {floor}"
        )
    if knots < 2:
        raise ValueError(f"fitted needs two or more knots; got {knots}")
    if not all(map(is_concrete, (x1, *jax.tree.leaves(schedule)))):
        raise ValueError("fitted measures its data on the host: build the path outside of jit")
    s = np.sin(np.pi / 2 * np.linspace(0, 1, FINE + 1)) ** 2
    t = _times(schedule, s, floor, *_moments(x1))
    table = _table(s, t, knots)
    if not all(np.all(np.diff(column.astype(np.float32)) > 0) for column in table[:2]):
        raise ValueError(
            f"with floor={floor} the times of some knots are one in float32, so unlike are the "
            "speeds of the flow: give a higher floor, fewer knots, or data of about unit size"
        )
    low, high = (float(np.interp(end, s, t)) for end in schedule.interval)
    arrays = [jnp.asarray(column, jnp.result_type(float)) for column in table]
    return affine(Fitted(schedule, *arrays, interval=(low, high)))


def _table(s: np.ndarray, t: np.ndarray, knots: int) -> tuple[np.ndarray, ...]:
    """Times, places and slopes at the knots of (5)."""
    places = np.linspace(0, 1, WITHIN * knots + 1)
    t, s = (np.interp(places, (s + t) / 2, values) for values in (t, s))
    t_rate, s_rate = (np.gradient(values, places, edge_order=2)[::WITHIN] for values in (t, s))
    slopes = np.maximum(s_rate, 0) / np.maximum(t_rate, np.finfo(np.float32).tiny)
    return t[::WITHIN], s[::WITHIN], slopes


def _moments(x1: Real[AnyArray, "n *event"]) -> tuple[float, np.ndarray, np.ndarray]:
    """`|m|^2`, the variances along the principal axes, and how many axes have each."""
    rows = np.asarray(x1).astype(np.float64)
    if rows.ndim < 1 or len(rows) < 2 or rows.size == 0:
        raise ValueError(f"fitted needs two or more rows of data, [n, *event]; got {rows.shape}")
    rows = rows.reshape(len(rows), -1)
    (n, d), mean = rows.shape, rows.mean(axis=0)
    if not np.all(np.isfinite(mean)):
        row = int(np.argmin(np.isfinite(rows).all(axis=1)))
        raise ValueError(f"row {row} of the data is not finite: leave out what is not")
    rows -= mean
    products = rows.T @ rows if d <= n else rows @ rows.T
    variances = np.linalg.eigvalsh(products) / n
    variances[variances <= max(n, d) * np.finfo(float).eps * variances.max()] = (
        0  # roots of rounding
    )
    counts = np.ones(len(variances))
    return mean @ mean, np.append(variances, 0.0), np.append(counts, d - len(variances))


def _times(
    schedule: Schedule,
    s: np.ndarray,
    floor: float,
    square: float,
    variances: np.ndarray,
    counts: np.ndarray,
) -> np.ndarray:
    """(4) integrated as the length of a curve, by chords, which infinite slopes do no harm."""
    with jax.enable_x64(True), jax.ensure_compile_time_eval():
        schedule = jax.tree.map(lambda a: jnp.asarray(np.asarray(a), float), schedule)
        alpha, sigma = (np.asarray(f(jnp.asarray(s))) for f in (schedule.alpha, schedule.sigma))
    squares = square * np.diff(alpha) ** 2
    for variance, count in zip(variances, counts, strict=True):
        squares += count * np.diff(np.sqrt(variance * alpha**2 + sigma**2)) ** 2
    chords = np.sqrt(squares / counts.sum() + (floor * np.diff(s)) ** 2)
    length = np.append(0.0, np.cumsum(chords))
    return length / length[-1]

"""Losses of flow maps against maps that are known, of a Gaussian and of a mixture."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import draws, losses, paths, times
from jaxflow.arrays import expand
from jaxflow.records import record
from jaxflow.types import Held, PathSample

MEAN, STD = 0.7, 0.4
N = 64


def spread(t):
    """Standard deviation at `t` of the linear path to N(MEAN, STD^2)."""
    return jnp.sqrt((t * STD) ** 2 + (1 - t) ** 2)


def velocity(t, x):
    """Exact, `d/dt` of the map below at `r = t`."""
    t = expand(t, x)
    slope = (t * STD**2 - (1 - t)) / spread(t) ** 2
    return MEAN + slope * (x - t * MEAN)


def exact_map(t, r, x):
    t, r = (expand(a, x) for a in (t, r))
    return r * MEAN + spread(r) / spread(t) * (x - t * MEAN)


def average(t, r, x):
    """Of the exact map, and its limit where the times are equal, finite in value and derivative.

    `(X - x) / (r - t)` with the difference of the spreads written out: their squares are
    polynomials, so the division is exact.
    """
    t, r = (expand(a, x) for a in (t, r))
    divided = (STD**2 + 1) * (t + r) - 2  # (spread(r)^2 - spread(t)^2) / (r - t)
    return MEAN + divided / (spread(r) + spread(t)) / spread(t) * (x - t * MEAN)


BUMPS = 3


def network(params, t, x, *, r, key=None):
    """The exact average velocity at parameters of zero, and moved in three ways elsewhere."""
    a, b = expand(t, x), expand(r, x)
    bumps = jnp.stack([jnp.ones_like(x), jnp.sin(x + a), (b - a) * x + b])
    return average(t, r, x) + jnp.tensordot(params, bumps, 1)


def teacher(params, t, x, *, r=None, key=None):
    return velocity(t, x) if r is None else average(t, r, x)


@record
class Marginal:
    """The linear path with the marginal velocity in the place of the pair's own."""

    schedule = paths.linear().schedule

    def __call__(self, t, x0, x1, z=None):
        sample = paths.linear()(t, x0, x1)
        return PathSample(t, sample.x, velocity(t, sample.x), x0, x1)


def batch_of(key, *, equal=0.25, draw=None):
    keys = jax.random.split(key, 2)
    x1 = MEAN + STD * jax.random.normal(keys[0], (N, 2))
    draw = draw or draws.spans(times.uniform(), equal=equal)
    return draws.chain(draws.standard(paths.linear()), draw)(keys[1], {"x1": x1})


HELD = Held(jnp.zeros((), int), {"ema": jnp.zeros(BUMPS)}, jnp.zeros(BUMPS))
EXACT = {
    "mean_flow": losses.mean_flow,
    "improved_mean_flow": losses.improved_mean_flow,
    "lagrangian": losses.lagrangian,
    "lagrangian, teacher": functools.partial(losses.lagrangian, teacher=teacher),
    "eulerian": losses.eulerian,
    "eulerian, teacher": functools.partial(losses.eulerian, teacher=teacher),
    "semigroup": losses.semigroup,
    "semigroup, average": functools.partial(losses.semigroup, by="average"),
    "semigroup, teacher": functools.partial(losses.semigroup, teacher=teacher),
}


def gradient(loss, params, batch):
    return jax.jit(jax.grad(lambda p: loss(p, None, batch, HELD)[0]))(params)


def test_every_loss_is_here():
    names = {name.partition(",")[0] for name in EXACT}
    assert names | {"alpha_flow"} == set(losses.flow_maps.__all__)


@pytest.mark.parametrize("name", EXACT)
def test_the_gradient_vanishes_at_the_exact_map(name, x64, key):
    """And not where the map is moved, in any of three ways."""
    loss, batch = EXACT[name](network, Marginal()), batch_of(key)
    np.testing.assert_allclose(gradient(loss, jnp.zeros(BUMPS), batch), 0.0, atol=1e-12)
    value, told = loss(jnp.zeros(BUMPS), None, batch, HELD)
    assert value < 1e-20
    assert told["per_example"].shape == (N,)
    for i in range(BUMPS):
        moved = jnp.zeros(BUMPS).at[i].set(0.1)
        slope = gradient(loss, moved, batch)[i]
        assert slope > 1e-4, (name, i, slope)


def test_alpha_flow_is_biased_by_its_order(x64, key):
    """The gradient at the exact map falls with alpha; at 1 the map is the straight line."""
    batch = batch_of(key, equal=0.0)
    found = [
        np.abs(
            gradient(losses.alpha_flow(network, path, alpha=a, power=0.0), jnp.zeros(BUMPS), batch)
        )
        for path in [Marginal()]
        for a in (0.04, 0.02, 0.01)
    ]
    np.testing.assert_allclose(found[0] / found[1], 2.0, rtol=0.1)
    np.testing.assert_allclose(found[1] / found[2], 2.0, rtol=0.05)
    mean_flow = losses.mean_flow(network, Marginal(), power=0.0)
    moved = jnp.full(BUMPS, 0.1)
    small = losses.alpha_flow(network, Marginal(), alpha=1e-5, power=0.0)
    np.testing.assert_allclose(
        gradient(small, moved, batch), gradient(mean_flow, moved, batch), rtol=1e-3
    )
    plain = losses.flow_matching(
        lambda p, t, x, *, key=None: network(p, t, x, r=batch["r"]), Marginal()
    )
    whole = losses.alpha_flow(network, Marginal(), alpha=1.0, power=0.0)
    np.testing.assert_allclose(
        gradient(whole, moved, batch), 2 * gradient(plain, moved, batch), rtol=1e-10
    )


def test_the_pair_teaches_what_its_marginal_teaches(x64):
    """Without an adaptive weight the mean gradient over pairs at one point is the marginal's.

    Given x_t the pair's velocity is normal; Gauss-Hermite quadrature over it is exact here.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    weights = weights / weights.sum()
    t, r, x = jnp.full(3, 0.3), jnp.full(3, 0.8), jnp.full((3, 1), 0.45)
    a, s = 0.3, 0.7
    total = (a * STD) ** 2 + s**2
    centre = MEAN + a * STD**2 / total * (x - a * MEAN)
    x1 = centre + np.sqrt(STD**2 * s**2 / total) * nodes[:, None]
    batch = {"t": t, "r": r, "s": t, "x0": (x - a * x1) / s, "x1": x1}
    moved = jnp.array([0.3, -0.2, 0.1])
    for factory in (losses.mean_flow, losses.improved_mean_flow):
        got = sum(
            weight * gradient(factory(network, paths.linear(), power=0.0), moved, pair_of(batch, i))
            for i, weight in enumerate(weights)
        )
        want = gradient(factory(network, Marginal(), power=0.0), moved, batch)
        np.testing.assert_allclose(got, want, rtol=1e-9)


def pair_of(batch, i):
    return jax.tree.map(lambda a: a[i : i + 1], batch)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda b: {k: b[k] for k in ("t", "x0", "x1")},
            r"lacks the times r .* draws\.spans\(times\)",
        ),
        (lambda b: {**b, "mask": jnp.ones(N, bool)}, "take no mask"),
    ],
)
def test_a_batch_that_is_none(change, told, key):
    with pytest.raises(ValueError, match=told):
        losses.mean_flow(network, paths.linear())(jnp.zeros(BUMPS), None, change(batch_of(key)))


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (
            lambda: losses.mean_flow(network, paths.linear(), scale=2.0),
            r"needs the null .* draws\.drop",
        ),
        (lambda: losses.mean_flow(network, paths.linear(), mix=1.0), "0 <= mix < 1, .* got 1.0"),
        (
            lambda: losses.lagrangian(network, paths.linear(), offset=0.0),
            "offset > 0; got power=0.0",
        ),
        (lambda: losses.semigroup(network, paths.linear(), by="ema"), "got 'ema'"),
        (
            lambda: losses.semigroup(network, paths.linear(), teacher=teacher, by="average"),
            "only the former beside a teacher; got 'average'",
        ),
        (lambda: losses.alpha_flow(network, paths.linear(), alpha=0.0), "0 < alpha <= 1; got 0.0"),
        (
            lambda: losses.alpha_flow(network, paths.cosine()),
            r"straight pairs, of paths\.linear\(\)",
        ),
    ],
)
def test_what_no_loss_is(call, told):
    with pytest.raises(ValueError, match=told):
        call()


def test_a_teacher_must_be_held(key):
    loss = losses.eulerian(network, paths.linear(), teacher=teacher)
    for held in (None, Held(jnp.zeros((), int), {}, None)):
        with pytest.raises(
            ValueError, match=r"it holds none: .* program\.init\(params, key, frozen\)"
        ):
            loss(jnp.zeros(BUMPS), None, batch_of(key), held)


def test_a_target_that_is_not_finite_weighs_nothing(key):
    """It is counted, and no gradient is NaN."""

    def broken(params, t, x, *, r, key=None):
        """Finite, with a derivative by time that is not, in the first example."""
        first = jnp.arange(len(x)) == 0
        return network(params, t, x, r=r) + expand(jnp.where(first, jnp.sqrt(t - t), 0.0), x)

    loss = losses.mean_flow(broken, paths.linear())
    value, told = loss(jnp.ones(BUMPS), None, batch_of(key))
    assert np.isfinite(value)
    assert told["masked"] == 1
    assert told["per_example"][0] == 0
    assert np.all(np.isfinite(gradient(loss, jnp.ones(BUMPS), batch_of(key))))


def test_guidance_is_that_of_its_formula(key):
    """(4) of each example, and the pair's own velocity where the condition is the null already."""

    def labelled(params, t, x, *, r, key=None, label):
        return average(t, r, x) + expand(label.astype(x.dtype), x)

    batch = {**batch_of(key, equal=1.0), "cond": {"label": jnp.arange(N) % 3}}
    loss = losses.mean_flow(labelled, Marginal(), scale=2.0, mix=0.25, null={"label": 2}, power=0.0)
    told = loss(jnp.zeros(()), None, batch)[1]["per_example"]
    label = np.arange(N) % 3
    # u is v + label, so the target less u is 0.25 label + (1 - 2.25) 2 - label, or -2 of the null.
    expected = np.where(label == 2, -2.0, 0.25 * label - 2.5 - label) ** 2
    np.testing.assert_allclose(told, expected, rtol=1e-4)

"""Losses of flow maps against maps that are known, of a Gaussian and of a mixture."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import draws, losses, paths, times
from jaxflow.arrays import expand
from jaxflow.records import record
from jaxflow.types import Held
from tests.losses.oracles import BUMPS, GAUSSIAN, MEAN, ORACLES, STD, Marginal

N = 64
network, average, teacher = GAUSSIAN.network, GAUSSIAN.average, GAUSSIAN.teacher


@functools.partial(jax.jit, static_argnames=("equal", "oracle"))
def batch_of(key, *, equal=0.25, oracle=GAUSSIAN, **given):
    keys = jax.random.split(key, 2)
    draw = draws.chain(draws.standard(paths.linear()), draws.spans(times.uniform(), equal=equal))
    return draw(keys[1], {"x1": oracle.sample(keys[0], (N, 2)), **given})


PLACES = np.concatenate([np.zeros((1, BUMPS)), 0.1 * np.eye(BUMPS)])
HELD = Held(jnp.zeros((), int), {"ema": jnp.zeros(BUMPS)}, jnp.zeros(BUMPS))
TAUGHT = "of a teacher"
EXACT = {
    "mean_flow": losses.mean_flow,
    "improved_mean_flow": losses.improved_mean_flow,
    "lagrangian": losses.lagrangian,
    "eulerian": losses.eulerian,
    "semigroup": losses.semigroup,
    "semigroup by the average": functools.partial(losses.semigroup, by="average"),
    "consistency": functools.partial(losses.consistency, warmup=0),
    "terminal_velocity": losses.terminal_velocity,
    "terminal_velocity by the average": functools.partial(losses.terminal_velocity, by="average"),
    f"lagrangian {TAUGHT}": losses.lagrangian,
    f"eulerian {TAUGHT}": losses.eulerian,
    f"semigroup {TAUGHT}": losses.semigroup,
    f"consistency {TAUGHT}": functools.partial(losses.consistency, warmup=0),
}
APART = {"alpha_flow", "drifting", "moment_matching", "distribution_matching"}


def exact(name, oracle):
    """The loss of an oracle's network on its own marginals."""
    given = {"teacher": ORACLES[oracle].teacher} if name.endswith(TAUGHT) else {}
    if oracle == "mixture" and "mean_flow" in name:
        given["power"] = 0.0  # not the weight of 100 at no error, which magnifies that of the solve
    return EXACT[name](ORACLES[oracle].network, Marginal(oracle), **given)


def gradient(loss, params, batch, held=HELD):
    return jax.jit(jax.grad(lambda p: loss(p, None, batch, held)[0]))(params)


def test_every_loss_is_here():
    names = {name.partition(" ")[0] for name in EXACT}
    assert names | APART == set(losses.flow_maps.__all__)


@pytest.mark.parametrize(
    ("name", "oracle"),
    [(name, "gaussian") for name in EXACT]
    + [(name, "mixture") for name in EXACT if " " not in name],
)
def test_the_gradient_vanishes_at_the_exact_map(name, oracle, x64, key):
    """And not where the map is moved, in any of three ways."""
    loss = exact(name, oracle)
    batch = batch_of(key, oracle=ORACLES[oracle])
    look = jax.grad(lambda p: loss(p, None, batch, HELD), has_aux=True)
    slopes, told = jax.tree.map(np.asarray, jax.jit(jax.vmap(look))(PLACES))
    within = {"gaussian": 1e-12, "mixture": 1e-6}[oracle]  # a closed form, and a solve
    np.testing.assert_allclose(slopes[0], 0.0, atol=within)
    assert np.sqrt(told["error"][0]) < within
    assert told["per_example"].shape == (1 + BUMPS, N)
    assert np.all(np.diag(slopes[1:]) > 1e-4), slopes


def test_alpha_flow_is_biased_by_its_order(x64, key):
    """The gradient at the exact map falls with alpha; at 1 the map is the straight line."""
    batch = batch_of(key, equal=0.0)
    found = [
        np.abs(
            gradient(losses.alpha_flow(network, path, alpha=a, power=0.0), jnp.zeros(BUMPS), batch)
        )
        for path in [Marginal("gaussian")]
        for a in (0.04, 0.02, 0.01)
    ]
    np.testing.assert_allclose(found[0] / found[1], 2.0, rtol=0.1)
    np.testing.assert_allclose(found[1] / found[2], 2.0, rtol=0.05)
    mean_flow = losses.mean_flow(network, Marginal("gaussian"), power=0.0)
    moved = jnp.full(BUMPS, 0.1)
    small = losses.alpha_flow(network, Marginal("gaussian"), alpha=1e-5, power=0.0)
    np.testing.assert_allclose(
        gradient(small, moved, batch), gradient(mean_flow, moved, batch), rtol=1e-3
    )
    plain = losses.flow_matching(
        lambda p, t, x, *, key=None: network(p, t, x, r=batch["r"]), Marginal("gaussian")
    )
    whole = losses.alpha_flow(network, Marginal("gaussian"), alpha=1.0, power=0.0)
    np.testing.assert_allclose(
        gradient(whole, moved, batch), 2 * gradient(plain, moved, batch), rtol=1e-10
    )


def test_the_pair_teaches_what_its_marginal_teaches(x64):
    """Without an adaptive weight the mean gradient over pairs at one point is the marginal's.

    Given x_t the pair's velocity is normal; Gauss-Hermite quadrature over it is exact here.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    weights = weights / weights.sum()
    t, r, x = np.full(3, 0.3), np.full(3, 0.8), np.full((3, 1), 0.45)
    a, s = 0.3, 0.7
    total = (a * STD) ** 2 + s**2
    centre = MEAN + a * STD**2 / total * (x - a * MEAN)
    x1 = centre + np.sqrt(STD**2 * s**2 / total) * nodes[:, None]
    batch = {"t": t, "r": r, "s": t, "x0": (x - a * x1) / s, "x1": x1}
    batch = jax.tree.map(jnp.asarray, batch)
    moved, pairs = jnp.array([0.3, -0.2, 0.1]), jax.tree.map(lambda a: a[:, None], batch)
    for factory in (losses.mean_flow, losses.improved_mean_flow):
        loss = factory(network, paths.linear(), power=0.0)
        each = jax.jit(jax.vmap(lambda b, loss=loss: gradient(loss, moved, b)))(pairs)
        got = weights @ np.asarray(each)
        want = gradient(factory(network, Marginal("gaussian"), power=0.0), moved, batch)
        np.testing.assert_allclose(got, want, rtol=1e-9)


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
        (
            lambda: losses.mean_flow(network, paths.linear(), scale=None),
            r"scale=None .* needs the null .* draws\.drop",
        ),
        (
            lambda: losses.mean_flow(network, paths.linear(), scale=None, mix=0.5),
            r"each example's scale: leave mix=0\.5 out",
        ),
        (lambda: losses.mean_flow(network, paths.linear(), mix=1.0), "0 <= mix < 1, .* got 1.0"),
        (
            lambda: losses.lagrangian(network, paths.linear(), offset=0.0),
            "offset > 0; got power=0.0",
        ),
        (lambda: losses.semigroup(network, paths.linear(), by="ema"), "got 'ema'"),
        (
            lambda: losses.semigroup(network, paths.linear(), teacher=teacher, by="average"),
            'by a teacher, or by="average" of its own',
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


@pytest.mark.parametrize("name", [*EXACT, "moment_matching", "drifting"])
def test_a_network_of_one_time(name):
    def one(params, t, x, *, key=None):
        return x

    factory = EXACT.get(name) or getattr(losses, name)
    with pytest.raises(TypeError, match=r"learns a flow map, of a network with a second time r: "):
        factory(one, paths.linear())


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
    look = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (value, told), slope = look(jnp.ones(BUMPS), None, batch_of(key))
    assert np.isfinite(value)
    assert told["masked"] == 1
    assert told["per_example"][0] == 0
    assert np.all(np.isfinite(slope))


@pytest.mark.parametrize("name", EXACT)
def test_examples_at_rest_are_told_from_those_that_move(name, key):
    """In groups or not a batch has the same loss, example by example, but for what rests."""
    loss = exact(name, "gaussian")

    @jax.jit
    def told_and_expected(params, grouped):
        flat = {k: v for k, v in grouped.items() if k != "groups"}
        moving, rest = (jax.tree.map(lambda a, i=i: a[:, i], flat) for i in range(2))
        told, apart = (loss(params, None, b, HELD)[1]["per_example"] for b in (grouped, moving))
        sample = Marginal("gaussian")(rest["t"], rest["x0"], rest["x1"])
        away = network(params, rest["t"], sample.x, r=rest["t"]) - sample.u
        if "consistency" in name:
            away = away / (jnp.linalg.norm(away, axis=1, keepdims=True) + 0.1)
        return told, apart, jnp.mean(away**2, axis=1)

    told, apart, still = map(
        np.asarray, told_and_expected(jnp.full(BUMPS, 0.1), batch_of(key, equal=0.5))
    )
    np.testing.assert_allclose(told[::2], apart, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(told[1::2], still, rtol=1e-4)


def test_guidance_is_that_of_its_formula(key):
    """(4) of each example, and the pair's own velocity where the condition is the null already."""

    def labelled(params, t, x, *, r, key=None, label):
        return average(t, r, x) + expand(label.astype(x.dtype), x)

    batch = batch_of(key, equal=1.0, cond={"label": jnp.arange(N) % 3})
    loss = losses.mean_flow(
        labelled, Marginal("gaussian"), scale=2.0, mix=0.25, null={"label": 2}, power=0.0
    )
    told = jax.jit(loss.__call__)(jnp.zeros(()), None, batch)[1]["per_example"]
    label = np.arange(N) % 3
    # u is v + label, so the target less u is 0.25 label + (1 - 2.25) 2 - label, or -2 of the null.
    expected = np.where(label == 2, -2.0, 0.25 * label - 2.5 - label) ** 2
    np.testing.assert_allclose(told, expected, rtol=1e-4)


@record
class Labelled:
    """The marginal velocity of an example's class, N(MEAN + z, STD^2)."""

    schedule = paths.linear().schedule

    def __call__(self, t, x0, x1, z):
        sample = paths.linear()(t, x0, x1)
        u = GAUSSIAN.velocity(t, sample.x - expand(t, z) * z) + z
        return dataclasses.replace(sample, u=u)


MEANS = np.array([0.0, 0.8, -0.5, 0.2])  # less MEAN; the last is the null's


def guided_map(params, t, x, *, r, key=None, label, guidance):
    """The average of the flow that is guided within an interval, moved in three ways.

    Classes of one deviation guided by a scale are the class of the mean that it leads to, so the
    map is three of Gaussians, one after another.
    """
    scale, low, high = (a[:, None] for a in guidance.T)
    own, null = jnp.asarray(MEANS)[label][:, None], MEANS[-1]
    t, r = expand(t, x), expand(r, x)
    ends = [t, jnp.clip(low, t, r), jnp.clip(high, t, r), r]
    carried = x
    for i, mean in enumerate((own, null + scale * (own - null), own)):
        a, b = ends[i : i + 2]
        lean = (carried - a * mean, a[:, 0], b[:, 0])
        carried = carried + (b - a) * (average(lean[1], lean[2], lean[0]) + mean)
    inside = (low <= t) & (t < high)
    mean = jnp.where(inside, null + scale * (own - null), own)
    still = GAUSSIAN.velocity(t[:, 0], x - t * mean) + mean
    h = r - t
    u = jnp.where(h == 0, still, (carried - x) / jnp.where(h == 0, 1.0, h))
    bumps = jnp.stack([jnp.ones_like(x), jnp.sin(x + t), h * x + r])
    return u + jnp.tensordot(params, bumps, 1)


@pytest.mark.parametrize("factory", [losses.mean_flow, losses.improved_mean_flow])
def test_guidance_that_is_told_vanishes_at_its_map(factory, x64, key):
    """At every scale and interval at once, dropped labels among them; not where it is moved."""
    draw = draws.chain(
        draws.standard(paths.linear()),
        draws.spans(times.uniform(), equal=0.25),
        draws.guidance(4.0),
    )

    @jax.jit
    def drawn(key):
        keys, label = jax.random.split(key, 3), jnp.arange(N) % 4
        x1 = GAUSSIAN.sample(keys[0], (N, 2)) + jnp.asarray(MEANS)[label][:, None]
        batch = draw(keys[1], {"x1": x1, "cond": {"label": label}})
        means = jnp.asarray(MEANS)[batch["cond"]["label"]]
        return batch | {"z": means[..., None] + jnp.zeros_like(batch["x1"])}

    batch = drawn(key)
    assert np.any(batch["t"] < batch["cond"]["guidance"][..., 1])  # unguided at first
    loss = factory(guided_map, Labelled(), scale=None, null={"label": 3})
    look = jax.grad(lambda p: loss(p, None, batch, None), has_aux=True)
    slopes, told = jax.tree.map(np.asarray, jax.jit(jax.vmap(look))(PLACES))
    np.testing.assert_allclose(slopes[0], 0.0, atol=1e-11)
    assert np.sqrt(told["error"][0]) < 1e-12
    assert np.all(np.abs(np.diag(slopes[1:])) > 1e-4), slopes


def test_guidance_that_is_told_needs_its_condition(key):
    batch = batch_of(key, equal=0.0, cond={"label": jnp.arange(N) % 3})
    loss = losses.mean_flow(network, paths.linear(), scale=None, null={"label": 2})
    with pytest.raises(ValueError, match=r"with the condition 'guidance': .* draws\.guidance\(\)"):
        loss(jnp.zeros(BUMPS), None, batch)

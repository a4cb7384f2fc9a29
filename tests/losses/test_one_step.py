"""Losses that compare laws: moment matching, drifting and distribution matching."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxflow import draws, losses, paths, sources, times, training
from jaxflow.losses.flow_maps.drifting import drift
from jaxflow.losses.flow_maps.moment_matching import MomentMatching
from jaxflow.types import Held
from tests.losses.oracles import BUMPS, GAUSSIAN, MEAN, ORACLES, STD, Flowing

N, SIZE = 32, 8


@partial(jax.jit, static_argnames=("spans", "oracle", "n", "size"))
def grouped(key, spans=None, oracle=GAUSSIAN, n=N, size=SIZE):
    keys = jax.random.split(key, 2)
    draw = draws.chain(draws.standard(paths.linear()), draws.groups(size, spans))
    return draw(keys[1], {"x1": oracle.sample(keys[0], (n, 2))})


SPANS = draws.spans(times.uniform(), equal=0.0)


@pytest.mark.parametrize("oracle", ORACLES)
def test_moment_matching_is_still_at_the_exact_map(oracle, x64, key):
    """Where both ways end in the same points; and not at a map moved in any of three ways."""
    oracle_ = ORACLES[oracle]
    loss = losses.moment_matching(oracle_.network, Flowing(oracle))
    batch = grouped(key, SPANS, oracle_)
    places = np.concatenate([np.zeros((1, BUMPS)), 0.1 * np.eye(BUMPS)])
    look = jax.jit(jax.vmap(jax.value_and_grad(lambda p: loss(p, None, batch)[0])))
    value, slopes = map(np.asarray, look(places))
    np.testing.assert_allclose(slopes[0], 0.0, atol=1e-12 if oracle == "gaussian" else 1e-6)
    np.testing.assert_allclose(value[0], 0.0, atol=1e-6)
    assert np.all(value[1:] > 1e-6)
    assert np.all(np.abs(np.diag(slopes[1:])) > 1e-6)


def test_the_times_and_weights_of_moment_matching(x64):
    """Of equations (4) and (5), with the log signal-to-noise ratio differentiated."""
    loss = losses.moment_matching(GAUSSIAN.network, paths.cosine(), gap=0.3, bias=2.0)
    assert isinstance(loss, MomentMatching)
    t = np.array([0.0, 0.2, 0.5, 0.8, 0.97])
    schedule = paths.cosine().schedule

    def ratio(t):
        return schedule.sigma(t) / schedule.alpha(t)

    def log_snr(t):
        return 2 * jnp.log(1 / ratio(t))

    @jax.jit
    def read(t, ends):
        s = loss._nearer(t, jnp.full(5, 0.95).at[-1].set(1.0))
        told = ratio(s[1:3]), ratio(t[1:3]), loss._weight(t), loss._weight(ends)
        rate = jax.vmap(jax.grad(log_snr))(t[1:])
        weight = 0.5 * jax.nn.sigmoid(2.0 - log_snr(t[1:])) * rate * schedule.alpha(t[1:])
        return s, *told, weight

    s, nearer, now, weight, at_ends, expected = map(np.asarray, read(t, np.array([0.0, 1.0])))
    np.testing.assert_allclose(nearer, now - 0.3)
    np.testing.assert_allclose(s[[0, 3, 4]], [0.0, 0.95, 1.0])
    np.testing.assert_allclose(weight[1:], expected)
    assert np.all(np.isfinite(at_ends))


drift_of = jax.jit(drift, static_argnums=2)


def test_the_drift_of_two_samples(x64):
    """In closed form: one point of data draws, one other pushes."""
    x, y, z = np.array([[0.1, 0.2]]), np.array([[1.0, -0.5]]), np.array([[-0.3, 0.6]])
    near, far = (np.exp(-np.linalg.norm(x - a) / 0.7) for a in (y, z))
    share = near / (near + far)
    expected = np.sqrt(share * (1 - share)) * (y - z)
    np.testing.assert_allclose(drift_of(x, y, 0.7, others=z), expected)


def test_the_drift_changes_its_sign_with_the_laws(x64, key):
    x, y, z = (jax.random.normal(k, (6, 3)) for k in jax.random.split(key, 3))
    one, other = drift_of(x, y, 0.5, others=z), drift_of(x, z, 0.5, others=y)
    np.testing.assert_allclose(one, -np.asarray(other), atol=1e-15)
    np.testing.assert_allclose(drift_of(x, y, 0.5, others=y), 0.0, atol=1e-15)


def test_samples_of_other_conditions_do_not_move_each_other(x64, key):
    """The drift of two classes is that of each by itself; of a class of one there is none."""
    x, y = (np.asarray(jax.random.normal(k, (8, 3))) for k in jax.random.split(key))
    label = np.array([0, 1, 1, 0, 1, 2, 0, 1])
    whole = np.asarray(drift_of(x, y, 0.5, alike=label[:, None] == label))
    for kind in (0, 1):
        mine = label == kind
        np.testing.assert_allclose(whole[mine], drift_of(x[mine], y[mine], 0.5), atol=1e-12)
    np.testing.assert_allclose(whole[5], 0.0, atol=1e-12)


def test_drifting_is_still_where_the_laws_agree(key):
    """The mean gradient over many groups, in standard errors; and it finds a map that is moved."""
    loss = losses.drifting(GAUSSIAN.network, paths.linear(), temperatures=(0.2, 1.0))
    batch = grouped(key, n=64 * 64, size=64)
    one = lambda p, b: loss(p, None, jax.tree.map(lambda a: a[None], b))[0]  # noqa: E731
    each = jax.jit(jax.vmap(jax.grad(one), (None, 0)))
    still = np.asarray(each(np.zeros(BUMPS, np.float32), batch))
    error = np.std(still, axis=0) / 64**0.5
    assert np.all(np.abs(np.mean(still, axis=0)) < 4 * error), (np.mean(still, axis=0), error)
    for i in range(BUMPS):
        moved = np.asarray(each(0.3 * np.eye(BUMPS, dtype=np.float32)[i], batch))[:, i]
        assert np.mean(moved) > 8 * np.std(moved) / 64**0.5


def shifted(delta):
    """The velocity of the linear path to N(MEAN + delta, STD^2)."""

    def critic(params, t, x, *, key=None):
        return delta + GAUSSIAN.velocity(t, x - t[:, None] * delta)

    return critic


@jax.jit
def with_noise(key):
    draw = draws.chain(draws.standard(paths.linear()), draws.noise(sources.normal()))
    return draw(key, {"x1": jnp.zeros((N, 2))})


@pytest.mark.parametrize("delta", [0.0, 0.3])
def test_distribution_matching_is_the_difference_of_two_flows(delta, x64, key):
    """Zero where the generator has the teacher's law; the closed form where its mean is off."""
    loss = losses.distribution_matching(
        GAUSSIAN.network, paths.linear(), teacher=GAUSSIAN.teacher, critic=shifted(delta)
    )
    batch = with_noise(key)
    params = {"generator": jnp.zeros(BUMPS).at[0].set(delta), "critic": jnp.zeros(1)}
    held = Held(jnp.zeros((), int), {}, jnp.zeros(BUMPS))
    slope = jax.jit(jax.grad(lambda p: loss(p, None, batch, held)[0]))(params)
    batch = jax.tree.map(np.asarray, batch)
    t, made = batch["t"][:, None], MEAN + delta + STD * batch["x0"]
    x = t * made + (1 - t) * batch["noise"]
    variance = (t * STD) ** 2 + (1 - t) ** 2
    taught = MEAN + t * STD**2 / variance * (x - t * MEAN)
    away = delta * (1 - t) ** 2 / variance  # between the posterior means of both
    weight = 1 / np.mean(np.abs(made - taught), axis=1, keepdims=True)
    np.testing.assert_allclose(slope["generator"][0], np.mean(weight * away), rtol=1e-9, atol=1e-14)
    if not delta:
        np.testing.assert_allclose(slope["generator"], 0.0, atol=1e-14)


def test_the_critic_learns_the_flow_of_what_is_made(x64, key):
    """Its gradient is that of flow matching on generated samples; the generator waits its turn."""

    def critic(params, t, x, *, key=None):
        return params[0] * x + params[1]

    loss = losses.distribution_matching(
        GAUSSIAN.network, paths.linear(), teacher=GAUSSIAN.teacher, critic=critic, turn=3
    )
    batch = with_noise(key)
    params = {"generator": jnp.full(BUMPS, 0.1), "critic": jnp.array([0.3, -0.2])}
    take = jax.jit(
        lambda step: jax.grad(lambda p: loss(p, None, batch, Held(step, {}, jnp.zeros(BUMPS)))[0])(
            params
        )
    )

    @jax.jit
    def slope_of_flow_matching(generator, critic_params):
        zero, one = jnp.zeros(N), jnp.ones(N)
        made = batch["x0"] + GAUSSIAN.network(generator, zero, batch["x0"], r=one)
        pairs = {"t": batch["t"], "x0": batch["noise"], "x1": made}
        plain = losses.flow_matching(critic, paths.linear())
        return jax.grad(lambda p: plain(p, None, pairs)[0])(critic_params)

    expected = slope_of_flow_matching(params["generator"], params["critic"])
    for step in range(4):
        slope = take(jnp.int32(step))
        np.testing.assert_allclose(slope["critic"], expected, rtol=1e-9)
        assert np.any(np.asarray(slope["generator"]) != 0) == (step % 3 == 0)


def test_an_optimiser_waits_for_its_turn():
    """Gradients of zero between change nothing of what it does."""
    waiting, plain = training.in_turn(optax.adam(0.1)), optax.adam(0.1)
    params = {"w": jnp.ones(2), "b": jnp.zeros(())}
    ours, theirs = (params, waiting.init(params)), (params, plain.init(params))
    for i in range(4):
        gradient = jax.tree.map(lambda p, i=i: jnp.full_like(p, i + 1.0), params)
        for value in (jax.tree.map(jnp.zeros_like, gradient), gradient):
            updates, state = waiting.update(value, ours[1], ours[0])
            ours = optax.apply_updates(ours[0], updates), state
        updates, state = plain.update(gradient, theirs[1], theirs[0])
        theirs = optax.apply_updates(theirs[0], updates), state
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_groups_are_the_same_for_every_split(key):
    """Microbatches take whole groups, so their mean is the loss of the batch."""
    loss = losses.drifting(GAUSSIAN.network, paths.linear())
    batch = grouped(key)
    assert batch["x1"].shape == (N // SIZE, SIZE, 2)
    slope = jax.jit(jax.grad(lambda p, b: loss(p, None, b)[0]))
    params = jnp.full(BUMPS, 0.1)
    parts = [slope(params, jax.tree.map(lambda a, i=i: a[i::2], batch)) for i in range(2)]
    np.testing.assert_allclose(slope(params, batch), (parts[0] + parts[1]) / 2, rtol=1e-5)


PLAIN = draws.standard(paths.linear())(jax.random.key(1), {"x1": jnp.zeros((N, 2))})
GROUPS = grouped(jax.random.key(1))
MATCHING = losses.distribution_matching(GAUSSIAN.network, paths.linear(), teacher=GAUSSIAN.teacher)
BOTH = {"generator": jnp.zeros(BUMPS), "critic": jnp.zeros(BUMPS)}


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (
            lambda: losses.drifting(GAUSSIAN.network, paths.linear())(BOTH, None, PLAIN),
            r"drifting compares the samples of a group: .* draws\.groups\(size\)",
        ),
        (
            lambda: losses.moment_matching(GAUSSIAN.network, paths.linear())(BOTH, None, GROUPS),
            r"lacks the times r: draws\.groups\(size, draws\.spans",
        ),
        (lambda: losses.moment_matching(GAUSSIAN.network, paths.bridge(1.0)), "has none"),
        (lambda: losses.moment_matching(GAUSSIAN.network, paths.linear(), gap=0.0), "got 0.0"),
        (
            lambda: losses.drifting(GAUSSIAN.network, paths.linear(), temperatures=(0.1, -1.0)),
            r"temperatures > 0; got \(0\.1, -1\.0\)",
        ),
        (lambda: MATCHING(jnp.zeros(BUMPS), None, PLAIN), "params={'generator': .* got "),
        (lambda: MATCHING(BOTH, None, PLAIN), r"lacks the noise .* draws\.noise\(source\)"),
        (
            lambda: MATCHING(BOTH, None, {**PLAIN, "noise": PLAIN["x0"]}),
            r"it holds none: .* program\.init\(params, key, frozen\)",
        ),
        (
            lambda: losses.distribution_matching(
                GAUSSIAN.network, paths.linear(), teacher=GAUSSIAN.teacher, turn=0
            ),
            "turn >= 1, a whole number; got 0",
        ),
        (lambda: draws.groups(1), "two members or more; got size=1"),
        (
            lambda: draws.groups(7)(jax.random.key(0), PLAIN),
            "batch of 32 does not divide into groups of 7",
        ),
    ],
)
def test_what_they_refuse(call, told):
    with pytest.raises(ValueError, match=told):
        call()

"""What every velocity keeps to, and everything else that `velocities` makes."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxflow import paths, velocities
from jaxflow.arrays import expand
from jaxflow.types import FlowMap, Velocity

LINEAR, VP = paths.linear(), paths.vp()


def network(w, t, x, *, key=None, r=None, label):
    """Of one or two times; what it holds is one number."""
    span = 0 * t if r is None else r - t
    value = w * jnp.tanh(x) * expand(label, x) + expand(jnp.sin(t) + span, x)
    return value.astype(x.dtype)


def told(w, t, x, *, key=None, guidance, label):
    return network(w, t, x, label=label * guidance[:, 0])


def function(w, t, x, label):
    return network(w, t, x, label=label)


def learned(w, prediction="velocity", path=LINEAR):
    return velocities.from_network(network, w, path=path, prediction=prediction)


def ruled(w, rule):
    return velocities.classifier_free(learned(w), scale=1 + w, null={"label": 0.0}, rule=rule)


def density(w, t, x, label):
    return -w * jnp.sum((x - expand(label, x)) ** 2, axis=(1, 2))


def call(velocity, t, x, cond):
    return velocity(t, x, **cond)


def call_map(flow_map, t, x, cond):
    return flow_map(t, 0.5 * t, x, **cond)


def call_at_a_step(diffusion, t, x, cond):
    return diffusion(2 * t, x, **cond)


def call_network(both, t, x, cond):
    network, w = both
    return network(w, t, x, **cond)


def mean_of(velocity, t, x, cond):
    return velocities.posterior_mean(velocity, t, x, **cond)


def converted(w, t, x, cond):
    value = network(w, t, x, **cond)
    return velocities.convert(value, t, x, path=VP, source="data", target="score")


class Row(NamedTuple):
    """What a factory makes of one number, and how that is called at `(t, x)`."""

    make: Callable[[jax.Array], Any]
    call: Callable[..., jax.Array] = call
    known: tuple[int, tuple[float, float], Any] | None = None  # of a velocity


TABLE = {
    "as_velocity": Row(
        lambda w: velocities.as_velocity(Partial(function, w)), known=(1, (0.0, 1.0), None)
    ),
    "from_network": Row(lambda w: learned(w, "data"), known=(1, (0.0, 0.9999), LINEAR)),
    "classifier_free": Row(
        lambda w: velocities.classifier_free(
            learned(jnp.float32(1.5), "noise"), scale=w, null={"label": 0.0}
        ),
        known=(2, (0.0001, 1.0), LINEAR),
    ),
    "autoguidance": Row(
        lambda w: velocities.autoguidance(learned(w), learned(jnp.float32(0.3), "data"), scale=w),
        known=(2, (0.0, 0.9999), LINEAR),
    ),
    "composed": Row(
        lambda w: velocities.composed(learned(w), scales={"label": w}, null={"label": 0.0}),
        known=(2, (0.0, 1.0), LINEAR),
    ),
    "guided_by": Row(
        lambda w: velocities.guided_by(learned(w), Partial(density, w), scale=w),
        known=(1, (0.0001, 1.0), LINEAR),
    ),
    "thresholded": Row(
        lambda w: velocities.thresholded(learned(w), bound=0.2, percentile=90.0),
        known=(1, (0.0, 0.9999), LINEAR),
    ),
    "plain": Row(lambda w: ruled(w, velocities.plain()), known=(2, (0.0, 1.0), LINEAR)),
    "rescaled": Row(lambda w: ruled(w, velocities.rescaled()), known=(2, (0.0, 1.0), LINEAR)),
    "zero_star": Row(lambda w: ruled(w, velocities.zero_star()), known=(2, (0.0, 1.0), LINEAR)),
    "frequency_decoupled": Row(
        lambda w: ruled(w, velocities.frequency_decoupled()), known=(2, (0.0, 1.0), LINEAR)
    ),
    "magnitude_aware": Row(
        lambda w: ruled(w, velocities.magnitude_aware()), known=(2, (0.0, 1.0), LINEAR)
    ),
    "tangential": Row(lambda w: ruled(w, velocities.tangential()), known=(2, (0.0, 1.0), LINEAR)),
    "projected": Row(
        lambda w: ruled(w, velocities.projected(norm=1.0)), known=(2, (0.0, 1.0), LINEAR)
    ),
    "temperature": Row(
        lambda w: velocities.temperature(learned(jnp.float32(1.5)), w),
        known=(1, (0.0, 1.0), LINEAR),
    ),
    "geometric": Row(lambda w: ruled(w, velocities.geometric()), known=(2, (0.0, 1.0), LINEAR)),
    "change_path": Row(
        lambda w: velocities.change_path(learned(w, path=VP), VP, LINEAR),
        known=(1, (0.00653, 1 / 1.001), LINEAR),
    ),
    "gaussian_mixture": Row(
        lambda w: velocities.gaussian_mixture(
            VP, weights=np.ones(1), means=np.ones((1, 2, 3)), covariances=w[None]
        ),
        known=(1, (0.0, 0.99999), VP),
    ),
    "from_diffusion": Row(
        lambda w: velocities.from_diffusion(network, w, betas=[0.1, 0.2, 0.3]),
        known=(1, (0.0, 2 / 3), paths.discrete([0.1, 0.2, 0.3])),
    ),
    "to_diffusion": Row(
        lambda w: velocities.to_diffusion(learned(w, path=VP), [0.1, 0.2, 0.3]), call_at_a_step
    ),
    "preconditioned": Row(
        lambda w: (velocities.preconditioned(Partial(network), VP), w), call_network
    ),
    "flow_map": Row(lambda w: velocities.flow_map(network, w), call_map),
    "at_scale": Row(lambda w: (velocities.at_scale(Partial(told), 1.5), w), call_network),
    "flow_map.velocity": Row(
        lambda w: velocities.flow_map(network, w, path=LINEAR).velocity,
        known=(1, (0.0, 1.0), LINEAR),
    ),
    "score": Row(lambda w: velocities.score(learned(w), LINEAR)),
    "score_from_network": Row(
        lambda w: velocities.score_from_network(network, w, paths.bridge(3.0))
    ),
    "posterior_mean": Row(learned, mean_of),
    "convert": Row(jnp.asarray, converted),
}
# Of two names and a path, which holds nothing; and of tokens, in tests/sampling/test_jumps.py and
# test_by_block.py, tests/paths/test_fisher.py and test_informed.py.
OTHERS = {
    "conversion_interval",
    "from_logits",
    "in_blocks",
    "informed",
    "tilted",
    "token_law",
    "top_p",
}

T, X = jnp.array([0.0, 0.3, 0.7, 1.0]), jax.random.normal(jax.random.key(0), (4, 2, 3))
COND = {"label": jnp.array([1.0, -2.0, 0.5, 3.0])}


def test_every_factory_is_in_the_table():
    public = {n for n in velocities.__all__ if inspect.isfunction(getattr(velocities, n))}
    assert public == {name.split(".")[0] for name in TABLE} | OTHERS


@pytest.mark.parametrize("name", TABLE)
def test_contract(name):
    """Shapes, dtypes and ends; new arrays do not retrace; no sample depends on its batch-mates."""
    row, traces = TABLE[name], []

    @jax.jit
    def run(made, t, x, cond):
        traces.append(None)
        return row.call(made, t, x, cond)

    made = row.make(jnp.float32(0.8))
    cond = {} if name == "gaussian_mixture" else COND
    found = run(made, T, X, cond)
    assert found.shape == X.shape
    assert found.dtype == X.dtype
    assert jnp.all(jnp.isfinite(found))
    other = run(row.make(jnp.float32(0.9)), T, X, cond)
    assert jnp.all(jnp.any(other != found, axis=(1, 2))[1:3])
    mates = run(made, T.at[1:].set(0.9), X.at[1:].set(7.0), jax.tree.map(_moved, cond))
    np.testing.assert_array_equal(mates[0], found[0])
    leaves, tree = jax.tree.flatten(made)
    assert leaves
    np.testing.assert_array_equal(run(jax.tree.unflatten(tree, leaves), T, X, cond), found)
    assert len(traces) == 1

    def alone(t, x, cond):
        t, x, cond = jax.tree.map(lambda a: a[None], (t, x, cond))
        return row.call(made, t, x, cond)[0]

    np.testing.assert_allclose(jax.jit(jax.vmap(alone))(T, X, cond), found, rtol=1e-4, atol=1e-5)
    half = jax.eval_shape(lambda x: row.call(made, T, x, cond), X.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    shown = repr(made)
    for own in (function, network, density, told):
        shown = shown.replace(repr(own), "")
    assert "0x" not in shown
    assert len(repr(made)) < 900


def _moved(a):
    return a.at[1:].add(1.0)


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if row.known])
def test_what_a_velocity_says_of_itself(name):
    velocity = TABLE[name].make(jnp.float32(0.8))
    evaluations, interval, path = TABLE[name].known
    assert isinstance(velocity, Velocity)
    assert velocity.evaluations == evaluations
    np.testing.assert_allclose(velocity.interval, interval, atol=1e-5)
    assert velocity.path == path
    assert velocities.as_velocity(velocity) is velocity
    assert type(velocity).__name__ in repr(velocity)


@pytest.mark.parametrize(
    "name", [n for n, row in TABLE.items() if row.known and row.known[1] != (0.0, 1.0)]
)
def test_beyond_its_interval_it_is_that_of_the_nearer_end(name):
    velocity = TABLE[name].make(jnp.float32(0.8))
    cond = {} if name == "gaussian_mixture" else COND
    low, high = velocity.interval
    ends = velocity(jnp.array([low, low, high, high]), X, **cond)
    beyond = velocity(jnp.array([0.0, low, high, 1.0]), X, **cond)
    np.testing.assert_allclose(beyond, ends, rtol=1e-6)


def test_a_network_of_a_flow_map_is_called_with_both_times(x64):
    """`x' = -x` from `s` to `t` multiplies by `exp(s - t)`; over no time its velocity is `-x`."""

    def decay(rate, t, x, *, key=None, r):
        keys.append(key)
        span = r - t
        still = span == 0
        mean = jnp.where(still, -rate, jnp.expm1(-rate * span) / jnp.where(still, 1.0, span))
        return mean[:, None] * x

    keys = []
    rate, s, t = jnp.float64(1.3), jnp.array([0.1, 0.9, 0.5]), jnp.array([0.8, 0.2, 0.5])
    x = jax.random.normal(jax.random.key(1), (3, 2))
    made = velocities.flow_map(decay, rate)
    assert isinstance(made, FlowMap)
    assert made.evaluations == 1
    expected = x * np.exp(-1.3 * (t - s))[:, None]
    np.testing.assert_allclose(made(s, t, x), expected, rtol=1e-12)
    np.testing.assert_allclose(made.velocity(s, x), -1.3 * x, rtol=1e-12)
    assert "1 parameters" in repr(made)
    instantaneous = made.velocity.network(rate, s, x, key=jax.random.key(5))
    np.testing.assert_allclose(instantaneous, -1.3 * x, rtol=1e-12)
    assert keys[-1] == jax.random.key(5)


@pytest.mark.parametrize("source", velocities.KINDS)
def test_a_time_a_frame_converts_each_frame(source, x64):
    """As every frame by itself, also where batch and frames are equally many."""
    x, value = jax.random.normal(jax.random.key(2), (2, 3, 3, 2))
    t = jnp.array([[0.1, 0.5, 0.9], [0.3, 0.2, 0.6], [0.7, 0.4, 0.8]])

    @jax.jit
    def all_targets(t, x, value):
        return {
            target: velocities.convert(value, t, x, path=VP, source=source, target=target)
            for target in velocities.KINDS
        }

    whole = all_targets(t, x, value)
    flat = all_targets(t.ravel(), x.reshape(9, 2), value.reshape(9, 2))
    for target, expected in flat.items():
        np.testing.assert_allclose(whole[target].reshape(9, 2), expected, rtol=1e-12)

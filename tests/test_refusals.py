"""Wrong uses that a newcomer meets in a notebook: each ends in one sentence with its remedy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxflow
from jaxflow import couplings, draws, losses, paths, sampling, sources, times, training, velocities
from jaxflow.networks import ConcatMLP, linen
from jaxflow.paths import schedules

PATH = paths.linear()
NETWORK = linen(ConcatMLP(width=4, depth=1))
X1 = jnp.ones((8, 2))
T = jnp.zeros(8)
KEYS = jax.random.split(jax.random.key(0), 8)
GRID = sampling.grids.uniform(2)
LOSS = losses.flow_matching(NETWORK, PATH)
DRAW = draws.standard(PATH)


def velocity(t, x):
    return -x


def run_of(**kwargs):
    return training.program(training.trainer(LOSS, optax.adam(1e-3), draw=kwargs.pop("draw", DRAW)))


def begin(run):
    return run.init(NETWORK.init(jax.random.key(0), T, X1), jax.random.key(1))


def used_up():
    run = run_of()
    state = begin(run)
    run.step(state, {"x1": X1})
    return run.step(state, {"x1": X1})


def on_host(method):
    run = run_of(draw=draws.standard(PATH, coupling=couplings.optimal_transport(on_host=True)))
    if method == "step":
        return run.step(begin(run), {"x1": X1})
    return run.steps(begin(run), lambda step: {"x1": X1}, 2)


def steps(stream):
    run = run_of()
    return run.steps(begin(run), stream, 2)


def root(t):
    return jnp.sqrt(1 - t**2)


WRONG = {
    "array as a stream": (lambda: steps(X1), "data.on_device"),
    "generator as a stream": (lambda: steps({"x1": X1} for _ in range(3)), "one by one"),
    "array as a batch": (lambda: run_of().step(begin(run_of()), X1), "a batch is a mapping"),
    "params as a state": (lambda: run_of().step({"w": X1}, {"x1": X1}), "program.init(params"),
    "a state used up": (used_up, "donate=False"),
    "loss as a trainer": (lambda: training.program(LOSS), "training.trainer(loss"),
    "array as a loss": (
        lambda: training.trainer(X1, optax.adam(1e-3), draw=DRAW),
        "losses.flow_matching(network, path)",
    ),
    "array as a draw": (
        lambda: training.trainer(LOSS, optax.adam(1e-3), draw=X1),
        "draws.standard(path)",
    ),
    "an optimizer uncalled": (lambda: training.trainer(LOSS, optax.adam, draw=DRAW), "call it"),
    "a number as an optimizer": (
        lambda: training.trainer(LOSS, 1e-3, draw=DRAW),
        "optax.adam(1e-3)",
    ),
    "a draw on the host": (lambda: on_host("step"), "training.ahead(trainer.draw, keys, batches)"),
    "steps on the host": (lambda: on_host("steps"), "training.ahead(trainer.draw, keys, batches)"),
    "array as a velocity": (lambda: sampling.fixed_step(X1, X1, GRID), "velocities.from_network"),
    "a method uncalled": (
        lambda: sampling.fixed_step(velocity, X1, GRID, method=sampling.heun),
        "method=sampling.heun(...)",
    ),
    "a grid uncalled": (
        lambda: sampling.fixed_step(velocity, X1, sampling.grids.uniform),
        "grid=sampling.grids.uniform(...)",
    ),
    "a number as a grid": (lambda: sampling.fixed_step(velocity, X1, 20), "two or more times"),
    "text as a grid": (
        lambda: sampling.adaptive(velocity, X1, "all"),
        "sampling.grids.uniform(20)",
    ),
    "tokens": (
        lambda: sampling.fixed_step(velocity, jnp.ones((8, 2), jnp.int32), GRID),
        "the state is int32",
    ),
    "tokens adaptively": (
        lambda: sampling.adaptive(velocity, jnp.ones((8, 2), jnp.int32)),
        "the state is int32",
    ),
    "a divergence uncalled": (
        lambda: sampling.log_prob(velocity, X1, divergence=sampling.hutchinson),
        "divergence=sampling.hutchinson(...)",
    ),
    "one key for many": (
        lambda: sampling.log_prob(
            velocity, X1, divergence=sampling.hutchinson(2), keys=jax.random.key(0)
        ),
        "jax.random.split(jax.random.key(0), 8)",
    ),
    "keys of another batch": (
        lambda: sampling.fixed_step(velocity, X1, GRID, keys=KEYS[:3]),
        "jax.random.split(jax.random.key(0), 8)",
    ),
    "an unknown norm": (
        lambda: sampling.adaptive(velocity, X1, per_sample=False, norm="max"),
        "one of worst, rms",
    ),
    "a coupling uncalled": (
        lambda: draws.standard(PATH, coupling=couplings.optimal_transport),
        "coupling=couplings.optimal_transport(...)",
    ),
    "times uncalled": (
        lambda: draws.standard(PATH, times=times.uniform),
        "times=times.uniform(...)",
    ),
    "array as times": (lambda: draws.standard(PATH, times=T), "times.uniform()"),
    "a source uncalled": (
        lambda: draws.standard(PATH, source=sources.normal),
        "sources.normal(...)",
    ),
    "array as a source": (lambda: draws.standard(PATH, source=X1), "sources.data(rows)"),
    "a path uncalled": (lambda: losses.flow_matching(NETWORK, paths.linear), "paths.linear(...)"),
    "array as a path": (lambda: draws.standard(X1), "paths.linear() is the usual one"),
    "a weight uncalled": (
        lambda: losses.flow_matching(NETWORK, PATH, weight=losses.weights.constant),
        "weight=losses.weights.constant(...)",
    ),
    "a module as a network": (
        lambda: losses.flow_matching(ConcatMLP(), PATH),
        "networks.linen(module)",
    ),
    "a module as a velocity": (
        lambda: velocities.from_network(ConcatMLP(), None),
        "networks.linen(module)",
    ),
    "a class as a network": (
        lambda: losses.flow_matching(ConcatMLP, PATH),
        "networks.ConcatMLP(...)",
    ),
    "bytes as data": (
        lambda: (
            draws.standard(PATH)(jax.random.key(0), {"x1": X1.astype(jnp.uint8)})
            and run_of().step(begin(run_of()), {"x1": X1.astype(jnp.uint8)})
        ),
        "x1 / 127.5 - 1",
    ),
    "a slope without end": (
        lambda: paths.affine(schedules.Custom(lambda t: t, root)),
        "interval=(0.0, 0.99999)",
    ),
    "a scale of another batch": (
        lambda: velocities.classifier_free(lambda t, x, y: x, scale=jnp.ones(2), null={"y": 0.0})(
            T, X1, y=T
        ),
        "one a sample",
    ),
    "a null of another shape": (
        lambda: draws.drop(0.5, {"y": jnp.zeros(3)})(
            jax.random.key(0), {"x1": X1, "cond": {"y": T}}
        ),
        "a value for one example",
    ),
    "an average of no decay": (lambda: training.average(1.0), "must lie in [0, 1); got 1.0"),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", WRONG)
def test_one_sentence(name):
    """Raised here and not in a tracer, with what was given and what to do."""
    call, remedy = WRONG[name]
    with pytest.raises((TypeError, ValueError)) as told:
        call()
    sentence = str(told.value)
    assert remedy in sentence
    assert "\n" not in sentence
    assert len(sentence) < 400


def test_a_plain_function_serves_wherever_a_record_does():
    """As source, coupling, times, path, schedule, draw, network, weight, loss and stream."""

    def path(t, x0, x1, z=None):
        return PATH(t, x0, x1)

    draw = draws.standard(
        path,
        source=lambda keys, shape: jax.vmap(lambda k: jax.random.normal(k, shape))(keys),
        coupling=lambda key, x0, x1, cond: (x0[::-1], x1, cond),
        times=lambda key, n: jax.random.uniform(key, (n,)),
        drop=lambda key, batch: {**batch, "cond": {}},
    )
    loss = losses.flow_matching(lambda p, t, x, key=None: p * x, path, weight=lambda t: 1 + t)
    run = training.program(training.trainer(loss, optax.sgd(0.1), draw=draw))
    state, metrics = run.steps(run.init(jnp.ones(()), jax.random.key(0)), lambda s: {"x1": X1}, 3)
    assert metrics["loss"].shape == (3,)
    assert float(state.params) != 1.0
    curved = paths.affine(lambda t: (t**2, 1 - t))
    np.testing.assert_allclose(curved(T + 0.5, X1, X1).x, 0.75)
    still = paths.affine(schedules.Custom(lambda t: t, lambda t: 0.5))
    np.testing.assert_allclose(still(T, X1, 3 * X1).u, 3.0)


def test_intervals_end_before_a_singular_end_in_float32():
    path = paths.affine(schedules.Custom(lambda t: t, root, interval=(0.0, 1 - 1e-9)))
    low, high = path.schedule.interval
    assert (low, np.float32(high) < 1) == (0.0, True)
    assert bool(jnp.isfinite(path(jnp.ones(8), X1, X1).u).all())


def test_names_and_comparison():
    assert {"data", "metrics", "networks", "sampling"} <= set(dir(jaxflow))
    one, other = (velocities.from_network(velocity, {"w": jnp.arange(3.0) + i}) for i in (0, 1))
    same = velocities.from_network(velocity, {"w": jnp.arange(3.0)})
    assert one == same
    assert one != other
    assert one != "a velocity"

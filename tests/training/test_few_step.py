"""Every objective of few steps trains the same run, however its step lies over devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxflow import draws, losses, paths, sources, times
from jaxflow.training import MODES, layout, program, trainer

N = 128
PATH = paths.linear()
X1 = np.random.default_rng(0).normal(size=(N, 3))
LABEL = np.arange(N) % 4
GRADIENT = optax.chain(optax.trace(decay=0.0), optax.scale(-0.1))


def network(params, t, x, *, r=None, key=None, label, guidance=None):
    r = t if r is None else r
    t = t if guidance is None else t + 0.1 * jnp.sum(guidance, axis=-1)
    h = jnp.concatenate([x, t[:, None], (r - t)[:, None], params["embed"][label]], -1)
    return jnp.tanh(h @ params["a"]) @ params["b"]


def parameters(seed):
    rng = np.random.default_rng(seed)
    shapes = {"a": (7, 8), "b": (8, 3), "embed": (5, 2)}
    return {k: jnp.asarray(rng.normal(size=s)) for k, s in shapes.items()}


SPANS = draws.spans(times.uniform())
APART = draws.spans(times.uniform(), equal=0.0)
GUIDED = {"scale": 2.0, "mix": 0.25, "null": {"label": 4}}
CASES = {
    "mean_flow": (losses.mean_flow, SPANS),
    "mean_flow, guided": (functools.partial(losses.mean_flow, **GUIDED), SPANS),
    "improved_mean_flow": (losses.improved_mean_flow, SPANS),
    "improved_mean_flow, told": (
        functools.partial(losses.improved_mean_flow, scale=None, null={"label": 4}),
        draws.chain(SPANS, draws.guidance(4.0)),
    ),
    "lagrangian": (losses.lagrangian, SPANS),
    "eulerian": (losses.eulerian, SPANS),
    "semigroup": (losses.semigroup, draws.dyadic()),
    "semigroup, average": (functools.partial(losses.semigroup, by="average"), draws.dyadic()),
    "lagrangian, taught": (functools.partial(losses.lagrangian, teacher=network), SPANS),
    "semigroup, taught": (functools.partial(losses.semigroup, teacher=network), SPANS),
    "alpha_flow": (losses.alpha_flow, SPANS),
    "terminal_velocity": (losses.terminal_velocity, APART),
    "consistency": (losses.consistency, draws.to_end()),
    "consistency_flow_matching": (losses.consistency_flow_matching, None),
    "moment_matching": (losses.moment_matching, draws.groups(4, APART)),
    "drifting": (losses.drifting, draws.groups(4)),
    "distribution_matching": (
        functools.partial(losses.distribution_matching, teacher=network),
        draws.noise(sources.normal()),
    ),
}


def gradient_of(name, mode, microbatches, devices):
    """Gradient and metrics of one step."""
    factory, then = CASES[name]
    usual = draws.standard(PATH, drop=draws.drop(0.2, {"label": 4}))
    run = trainer(
        factory(network, PATH),
        GRADIENT,
        draw=usual if then is None else draws.chain(usual, then),
        microbatches=microbatches,
        axis_name=None if mode == "jit" else "data",
    )
    compiled = program(run, mode=mode, layout=layout(devices=jax.devices()[:devices]))
    params = parameters(1)
    if name == "distribution_matching":
        params = {"generator": params, "critic": parameters(2)}
    state = compiled.init(params, jax.random.key(5), parameters(3))
    batch = {"x1": jnp.asarray(X1), "cond": {"label": jnp.asarray(LABEL)}}
    state, metrics = compiled.step(state, compiled.place(batch))
    return jax.tree.map(np.asarray, (state.opt_state[0].trace, dict(metrics)))


def test_every_objective_is_here():
    names = {name.partition(",")[0] for name in CASES}
    assert names == {*losses.flow_maps.__all__, "consistency_flow_matching"}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    ("mode", "microbatches"),
    [
        pytest.param(mode, m, marks=[] if (mode, m) == ("shard_map", 2) else pytest.mark.slow)
        for mode in MODES
        for m in (1, 2)
    ],
)
def test_gradients_are_those_of_one_device(name, mode, microbatches, x64):
    """Of eight devices, with condition dropout and every pair of times in the draw."""
    expected, told = gradient_of(name, "jit", 1, 1)
    got, told_ = gradient_of(name, mode, microbatches, 8)
    scale = optax.tree.norm(expected)
    assert scale > 1e-6
    assert optax.tree.norm(jax.tree.map(jnp.subtract, got, expected)) < 1e-11 * scale
    assert told_["loss"] == pytest.approx(told["loss"], rel=1e-11)


def test_groups_that_devices_cannot_share():
    """Refused, for the partitioner would move examples between them."""
    usual = draws.chain(draws.standard(PATH), SPANS)
    loss = losses.mean_flow(network, PATH)
    run = program(trainer(loss, GRADIENT, draw=usual), layout=layout(devices=jax.devices()[:8]))
    state = run.init(parameters(1), jax.random.key(5))
    batch = {"x1": jnp.asarray(X1[:48]), "cond": {"label": jnp.asarray(LABEL[:48])}}
    with pytest.raises(ValueError, match="batch of 12 groups of 4 does not divide over 8 devices"):
        run.step(state, run.place(batch))

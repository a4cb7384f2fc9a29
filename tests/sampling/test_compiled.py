"""Samplers are compiled inside: once a shape and kind of velocity, and they nest."""

import itertools

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxflow import paths, sampling, velocities
from jaxflow.sampling import grids
from jaxflow.training import layout

X = jnp.array([[0.5, 0.2], [1.0, -1.0], [0.3, 0.3], [0.0, 2.0]])
LABEL = jnp.arange(4.0)
KEYS = jax.random.split(jax.random.key(0), 4)


def counted():
    """A network that counts its traces."""
    traces = []

    def network(params, t, x, *, key=None, label=0.0, r=None):
        traces.append(None)
        shift = jnp.reshape(jnp.broadcast_to(label, t.shape), (-1, 1))
        return params["w"] * jnp.tanh(x) + t[:, None] + 0.1 * shift

    return network, traces


def velocity_of(network, w):
    return velocities.from_network(network, {"w": jnp.float32(w)}, path=paths.linear())


RUNS = {
    "fixed_step": lambda v, x, **kw: sampling.fixed_step(v, x, grids.uniform(4), **kw).x,
    "fixed_step saved": lambda v, x, **kw: (
        sampling.fixed_step(v, x, grids.uniform(4), method=sampling.ab2(), save=True, **kw).xs
    ),
    "adaptive": lambda v, x, **kw: sampling.adaptive(v, x, rtol=1e-3, atol=1e-3, **kw).x,
    "adaptive shared": lambda v, x, **kw: (
        sampling.adaptive(
            v, x, rtol=1e-3, atol=1e-3, per_sample=False, norm="rms", solver=diffrax.Bosh3(), **kw
        ).x
    ),
    "log_prob": lambda v, x, **kw: sampling.log_prob(v, x, rtol=1e-3, atol=1e-3, **kw).value,
    "log_prob by probes": lambda v, x, **kw: (
        sampling.log_prob(
            v, x, divergence=sampling.hutchinson(2), keys=KEYS, rtol=1e-3, atol=1e-3, **kw
        ).value
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_one_trace_for_new_parameters_conditions_and_data(name):
    network, traces = counted()
    ends = []
    for w, x, label in [(0.5, X, LABEL), (0.9, X, LABEL), (0.9, 2 * X, LABEL), (0.9, X, 1 - LABEL)]:
        ends.append(RUNS[name](velocity_of(network, w), x, cond={"label": label}))
        if len(ends) == 1:
            first = len(traces)
    assert first > 0
    assert len(traces) == first
    assert all(not np.allclose(ends[0], end) for end in ends[1:])
    expected = jax.jit(RUNS[name])(velocity_of(network, 0.5), X, cond={"label": LABEL})
    np.testing.assert_allclose(ends[0], expected, rtol=1e-5, atol=1e-6)


def test_new_times_and_tolerances_do_not_retrace():
    network, traces = counted()
    v = velocity_of(network, 0.5)
    for rtol in (1e-3, 1e-5):
        sampling.adaptive(v, X, (0.0, 1.0 - rtol), rtol=rtol)
    once = len(traces)
    sampling.adaptive(v, X, (1.0, 0.0), rtol=1e-4)
    assert len(traces) == once
    for grid in (grids.uniform(5), grids.shifted(5, 3.0), grids.uniform(5, 1.0, 0.0)):
        sampling.fixed_step(v, X, grid)
    assert len(traces) < 2 * once + 3


def test_a_flow_map_is_compiled_too():
    network, traces = counted()
    for w in (0.1, 0.2):
        flow_map = velocities.flow_map(network, {"w": jnp.float32(w)})
        end = sampling.flow_map(flow_map, X, grids.uniform(3)).x
    assert len(traces) == 1
    x, times = X, grids.uniform(3)
    for s, t in itertools.pairwise(times):
        x = flow_map(jnp.full(4, s), jnp.full(4, t), x)
    np.testing.assert_allclose(end, x, rtol=1e-5)
    np.testing.assert_allclose(
        flow_map.velocity(LABEL / 4, X), 0.2 * jnp.tanh(X) + LABEL[:, None] / 4, rtol=1e-6
    )


@pytest.mark.parametrize("name", ["fixed_step", "adaptive", "adaptive shared", "log_prob"])
def test_they_nest(name):
    """In jit, vmap and shard_map, and under grad of what a velocity closes over."""
    network, _ = counted()
    run, v = RUNS[name], velocity_of(network, 0.5)
    bare = run(v, X)
    np.testing.assert_allclose(jax.jit(run)(v, X), bare, rtol=1e-5, atol=1e-6)
    mapped = jax.vmap(lambda x: run(v, x[None])[0])(X)
    np.testing.assert_allclose(mapped, bare, rtol=2e-3, atol=2e-3)
    spec = PartitionSpec("data")
    sharded = jax.shard_map(
        lambda v, x: run(v, x),
        mesh=layout(devices=jax.devices()[:4]).mesh,
        in_specs=(PartitionSpec(), spec),
        out_specs=spec,
        check_vma=False,
    )
    np.testing.assert_allclose(jax.jit(sharded)(v, X), bare, rtol=2e-3, atol=2e-3)


def test_gradients_through_what_a_function_closes_over(x64):
    """`x' = w x`, so that the end is `e^w x` and its slope in `w` the end itself."""

    def end(w, run):
        return run(lambda t, x: w * x, jnp.ones((1, 1)))[0, 0]

    for run in (
        lambda v, x: sampling.fixed_step(v, x, grids.uniform(40), method=sampling.rk4()).x,
        lambda v, x: sampling.adaptive(v, x, per_sample=False, rtol=1e-8, atol=1e-8).x,
    ):
        slopes = [jax.grad(end)(jnp.float64(w), run) for w in (0.5, 1.0)]
        np.testing.assert_allclose(slopes, np.exp([0.5, 1.0]), rtol=1e-6)


def test_forward_mode(x64):
    """By Diffrax's adjoint for it: `d e^{-2 w} / dw`, and of a likelihood's closed form."""
    forward = {"adjoint": diffrax.ForwardMode(), "rtol": 1e-9, "atol": 1e-9}

    def end(w):
        return sampling.adaptive(lambda t, x: -2 * w * x, jnp.ones((1, 1)), **forward).x[0, 0]

    def density(w):
        return sampling.log_prob(lambda t, x: w * x, jnp.ones((1, 1)), **forward).value[0]

    one = jnp.ones(())
    np.testing.assert_allclose(jax.jvp(end, (one,), (one,))[1], -2 * np.exp(-2), rtol=1e-6)
    slope = jax.jvp(density, (one,), (one,))[1]  # log p = -e^{-2w} / 2 - w
    np.testing.assert_allclose(slope, np.exp(-2) - 1, rtol=1e-6)


def test_both_norms_of_a_shared_step(x64):
    """The worst sample bounds the step, or the root mean square over all of them."""

    def stiff(t, x):
        return jnp.where(jnp.arange(64)[:, None] == 0, 30.0, 0.1) * jnp.cos(40 * t[:, None] * x)

    x, run = jnp.ones((64, 1)), {"per_sample": False, "rtol": 1e-6, "atol": 1e-6}
    exact = sampling.adaptive(stiff, x, per_sample=False, rtol=1e-11, atol=1e-11).x
    worst, rms = (sampling.adaptive(stiff, x, norm=norm, **run) for norm in ("worst", "rms"))
    assert int(rms.nfe[0]) < int(worst.nfe[0])
    errors = [float(jnp.abs(s.x - exact).max()) for s in (worst, rms)]
    assert errors[0] < errors[1]
    assert sampling.adaptive(stiff, x, **run).nfe[0] == worst.nfe[0]

"""What a solve computes in: as exact as its tolerance, whatever the network was trained in."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import losses, networks, paths, sampling, velocities
from jaxflow.sampling import grids

PATH = paths.linear()
X = jax.random.normal(jax.random.key(0), (4, 8))
COND = {"label": jnp.arange(4)}
RNG = np.random.default_rng(0)


def network(dtype):
    return networks.linen(networks.MLP(width=32, depth=2, num_classes=4, dtype=dtype))


SHAPES = jax.eval_shape(lambda: network(None).init(jax.random.key(0), jnp.zeros(4), X, **COND))
PARAMS = jax.tree.map(lambda a: jnp.asarray(RNG.normal(size=a.shape) / 10, jnp.float32), SHAPES)
WRAPPED = {
    "itself": lambda v: v,
    "guided": lambda v: velocities.classifier_free(v, scale=2.0, null={"label": 4}),
    "on another path": lambda v: velocities.change_path(v, PATH, paths.cosine()),
}
SOLVES = {
    "adaptive": lambda v, **how: sampling.adaptive(v, X, cond=COND, **how),
    "log_prob": lambda v, **how: sampling.log_prob(v, X, cond=COND, **how),
}

OWN = "HIGHEST"  # what Diffrax says of its own products, whatever is said of others


def velocity(dtype, wrapped="itself"):
    return WRAPPED[wrapped](velocities.from_network(network(dtype), PARAMS, path=PATH))


@pytest.mark.parametrize("tolerance", [1e-2, 1e-5])
@pytest.mark.parametrize("name", SOLVES)
def test_a_short_network_is_solved_as_a_long_one(name, tolerance):
    """To the bit: with its own rounding it would take more calls, and err by it."""
    how = {"rtol": tolerance, "atol": tolerance}
    short, long = (SOLVES[name](velocity(dtype), **how) for dtype in (jnp.bfloat16, None))
    jax.tree.map(np.testing.assert_array_equal, short, long)


def test_what_its_own_rounding_costs():
    with pytest.warns(UserWarning, match="^a tolerance of 1e-05 lies below what bfloat16 tells"):
        own = SOLVES["adaptive"](velocity(jnp.bfloat16), precision="network")
    assert np.mean(own.nfe) > 1.5 * np.mean(SOLVES["adaptive"](velocity(jnp.bfloat16)).nfe)


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_networks_are_found_within_velocities(wrapped):
    short, long = (
        SOLVES["adaptive"](velocity(dtype, wrapped), rtol=1e-3, atol=1e-3).x
        for dtype in (jnp.bfloat16, None)
    )
    np.testing.assert_array_equal(short, long)


def test_a_fixed_grid_computes_as_the_network_and_otherwise_when_told():
    def end(dtype, **how):
        return sampling.fixed_step(velocity(dtype), X, grids.uniform(3), cond=COND, **how).x

    np.testing.assert_array_equal(end(jnp.bfloat16), end(None, precision="bfloat16"))
    np.testing.assert_array_equal(end(jnp.bfloat16, precision="float32"), end(None))
    assert not np.array_equal(end(jnp.bfloat16), end(None))


def products(run, **how):
    """Dtypes and precision of every product in the program of a solve."""
    program = jax.jit(lambda v: run(v, **how)).lower(velocity(jnp.bfloat16)).as_text()
    found = re.findall(r"dot_general.*?: \(tensor<[\dx]*x(\w+)>", program)
    assert len(found) == len(re.findall("dot_general", program)) > 0
    told = re.findall(r"dot_general.*?precision = \[(\w+), (\w+)\]", program)
    return set(found), {each for pair in told for each in pair}


@pytest.mark.parametrize("name", SOLVES)
def test_no_product_of_a_solve_is_shorter_than_asked_for(name):
    assert products(SOLVES[name]) == ({"f32"}, {OWN})
    assert products(SOLVES[name], precision="tensorfloat32") == ({"f32"}, {"HIGH", OWN})
    dtypes, told = products(SOLVES[name], precision="network", rtol=1e-2, atol=1e-2)
    assert "bf16" in dtypes
    assert told == {"DEFAULT", OWN}


def test_float64_stays_float64():
    with jax.enable_x64(True):
        wide, x = jax.tree.map(lambda a: a.astype(jnp.float64), (PARAMS, X))
        short, long = (
            velocities.from_network(network(dtype), wide, path=PATH)
            for dtype in (jnp.bfloat16, jnp.float64)
        )
        ends = [sampling.adaptive(v, x, rtol=1e-6, atol=1e-6, cond=COND).x for v in (short, long)]
    assert ends[0].dtype == jnp.float64
    np.testing.assert_array_equal(*ends)


def test_a_tolerance_that_float32_cannot_tell_is_told():
    with pytest.warns(UserWarning, match="^a tolerance of 1e-08 lies below what float32 .* larger"):
        SOLVES["adaptive"](velocity(None), rtol=1e-8, atol=1e-8)


def test_training_computes_as_it_was_told():
    """A solve leaves the network that it was given as it is."""
    v = velocity(jnp.bfloat16)
    SOLVES["adaptive"](v, rtol=1e-2, atol=1e-2)
    assert v.network.module.dtype == jnp.bfloat16
    assert losses.flow_matching(v.network, PATH).network.module.dtype == jnp.bfloat16


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_precision_is_refused():
    for call in (
        lambda: sampling.adaptive(velocity(None), X, cond=COND, precision="float23"),
        lambda: sampling.fixed_step(
            velocity(None), X, grids.uniform(2), cond=COND, precision="float23"
        ),
        lambda: sampling.log_prob(velocity(None), X, cond=COND, precision="float23"),
        lambda: sampling.flow_map(
            velocities.flow_map(network(None), PARAMS), X, grids.uniform(1), precision="float23"
        ),
    ):
        with pytest.raises(ValueError, match=r"^precision is 'float23' \(did you mean 'float32'"):
            call()

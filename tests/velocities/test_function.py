"""A plain function is a velocity wherever one is taken."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxflow import paths, velocities
from jaxflow.sampling import fixed_step, grids
from jaxflow.types import Velocity
from jaxflow.velocities import as_velocity


def contract(t, x):
    return -x


def scaled(rate, t, x):
    return rate * x


def test_a_function_says_what_a_velocity_says():
    velocity = as_velocity(contract)
    assert isinstance(velocity, Velocity)
    assert (velocity.evaluations, velocity.interval, velocity.path) == (1, (0.0, 1.0), None)
    assert as_velocity(velocity) is velocity


def test_what_a_function_says_of_itself_is_kept():
    def short(t, x):
        return x

    short.interval = (0.0, 0.5)
    velocity = as_velocity(short)
    assert velocity.interval == (0.0, 0.5)
    assert velocity.evaluations == 1


def test_it_passes_through_jit_and_its_arrays_do_not_retrace():
    traces = []

    @jax.jit
    def run(velocity, x):
        traces.append(None)
        return fixed_step(velocity, x, grids.uniform(2)).x

    x = jnp.ones((1, 1))
    ends = [run(as_velocity(Partial(scaled, jnp.float32(rate))), x).item() for rate in (-1, -2)]
    np.testing.assert_allclose(ends, [(1 - 0.5 + 0.125) ** 2, (1 - 1 + 0.5) ** 2], rtol=1e-6)
    run(as_velocity(contract), x)
    assert len(traces) == 2


def test_combinators_take_functions():
    moved = velocities.change_path(contract, paths.linear(), paths.cosine())
    assert moved.evaluations == 1
    guided = velocities.classifier_free(lambda t, x, y: x * y, scale=2.0, null={"y": 0.0})
    assert guided.evaluations == 2
    t, x = jnp.zeros(1), jnp.ones((1, 1))
    np.testing.assert_allclose(jax.jit(lambda v: v(t, x, y=x))(guided), 2.0)

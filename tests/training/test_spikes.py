"""The guard against spikes is the inner optimiser wherever the loss stays on course."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxflow.training import without_spikes

PARAMS = {"w": jnp.ones(3)}
GRADIENT = {"w": jnp.array([1.0, -2.0, 0.5])}


def course(optimizer, values):
    """The updates and the last state over losses."""
    state, taken = optimizer.init(PARAMS), []
    update = jax.jit(lambda s, v: optimizer.update(GRADIENT, s, PARAMS, value=v))
    for value in values:
        updates, state = update(state, jnp.float32(value))
        taken.append(updates["w"])
    return np.asarray(taken), state


def test_steady_losses_pass_untouched():
    values = 1 + 0.1 * np.random.default_rng(0).normal(size=60)
    with jax.disable_jit():  # two programs may round differently
        guarded, state = course(without_spikes(optax.adam(0.1), warmup=20), values)
        plain, inner = course(optax.with_extra_args_support(optax.adam(0.1)), values)
    np.testing.assert_array_equal(guarded, plain)
    jax.tree.map(np.testing.assert_array_equal, state.inner, inner)
    assert int(state.spikes) == 0


def test_a_spike_changes_nothing_but_its_count():
    values = 1 + 0.1 * np.random.default_rng(0).normal(size=60)
    optimizer = without_spikes(optax.adam(0.1), warmup=20)
    _, before = course(optimizer, values)
    updates, after = course(optimizer, [*values, 50.0])
    np.testing.assert_array_equal(updates[-1], 0)
    assert int(after.spikes) == int(after.refused) == 1
    count = {"spikes": before.spikes, "refused": before.refused}
    jax.tree.map(np.testing.assert_array_equal, after._replace(**count), before)


def test_a_jump_that_lasts_is_a_new_course():
    """And a spike above that course is one again."""
    rng = np.random.default_rng(0)
    before, after = 1 + 0.01 * rng.normal(size=60), 3 + 0.01 * rng.normal(size=60)
    optimizer = without_spikes(optax.sgd(0.1), warmup=20)
    updates, state = course(optimizer, [*before, *after, 9.0, 3.0])
    taken = np.any(updates != 0, axis=1)
    assert taken[:60].all()
    assert not taken[60:80].any()
    assert taken[80:120].all()
    assert taken[120:].tolist() == [False, True]
    assert int(state.spikes) == 21
    assert float(state.mean) == pytest.approx(3, abs=0.1)


@given(st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=30))
def test_moments_are_those_of_the_losses(values):
    """While the guard's memory grows, the plain mean and variance."""
    optimizer = without_spikes(optax.sgd(0.1), warmup=1000, decay=0.9999)
    _, state = course(optimizer, values)
    assert float(state.mean) == pytest.approx(np.mean(values), abs=1e-4)
    assert float(state.variance) == pytest.approx(np.var(values), abs=1e-3)


def test_numbers_outside_their_range_are_named():
    for kwargs, received in [
        ({"deviations": 0.0}, r"got 0\.0, 0\.\d+ and \d+$"),
        ({"decay": 1.0}, r"got \d+\.0, 1\.0 and \d+$"),
        ({"warmup": 1}, r"got \d+\.0, 0\.\d+ and 1$"),
        ({"deviations": np.nan}, r"got nan, 0\.\d+ and \d+$"),
    ]:
        with pytest.raises(ValueError, match=received):
            without_spikes(optax.sgd(0.1), **kwargs)

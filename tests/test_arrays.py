"""The array operations that every room shares."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxflow import arrays


@pytest.mark.parametrize("lead", [1, 2, 3])
def test_expand_multiplies_each_by_its_own_time(lead):
    x = jnp.ones((2, 3, 4))
    t = jnp.arange(float(np.prod(x.shape[:lead]))).reshape(x.shape[:lead])
    expected = np.array([t[index[:lead]] for index in np.ndindex(x.shape)]).reshape(x.shape)
    assert jnp.array_equal(arrays.expand(t, x) * x, expected)


@pytest.mark.parametrize("shape", [(), (3,), (2, 4), (1,), (2, 3, 4, 1)])
def test_expand_refuses_other_times(shape):
    with pytest.raises(ValueError, match="one time an example"):
        arrays.expand(jnp.ones(shape), jnp.ones((2, 3, 4)))


def test_at_least_float32(x64):
    for dtype, kept in [
        (jnp.bfloat16, jnp.float32),
        (jnp.float16, jnp.float32),
        (jnp.float32, jnp.float32),
        (jnp.float64, jnp.float64),
        (jnp.int8, jnp.int8),
        (jnp.bool_, jnp.bool_),
    ]:
        assert arrays.at_least_float32(jnp.ones(2, dtype)).dtype == kept


def test_sums_do_not_lose_half_precision():
    x = jnp.full((1, 4096), 0.1, jnp.bfloat16)
    one = float(x[0, 0])
    np.testing.assert_allclose(arrays.event_sum(x), [4096 * one], rtol=1e-5)
    np.testing.assert_allclose(arrays.event_mean(x), [one], rtol=1e-5)
    assert arrays.event_sum(jnp.ones(3)).tolist() == [1.0] * 3


def test_batch_size_and_conditions():
    assert arrays.batch_size({"a": jnp.ones((3, 2)), "b": (jnp.ones(3), None)}) == 3
    assert arrays.check_batch(jnp.ones((3, 2)), {"label": jnp.ones(3)}) == 3
    for wrong in ({}, jnp.ones(()), {"a": jnp.ones(3), "b": jnp.ones(2)}):
        with pytest.raises(ValueError, match="leading batch axis"):
            arrays.batch_size(wrong)
    for shape in ((), (2,)):
        with pytest.raises(ValueError, match="'label'"):
            arrays.check_batch(jnp.ones((3, 2)), {"label": jnp.ones(shape)})


def test_is_concrete():
    seen = []
    jax.jit(lambda x: seen.append(arrays.is_concrete(x)))(jnp.ones(2))
    assert seen == [False]
    assert arrays.is_concrete(jnp.ones(2))
    assert arrays.is_concrete((0.0, 1.0))


@jax.jit
def _cube_root(y, scale):
    return arrays.bisect(lambda x: scale * x**3, y, -2.0, 2.0)


@given(st.floats(-7.9, 7.9))
def test_bisect_inverts_to_the_last_bits(y):
    with jax.enable_x64(True):
        root = _cube_root(jnp.array([y]), 1.0)[0]
        assert abs(root - np.cbrt(y)) < 1e-14
    root = _cube_root(jnp.array([y]), 1.0)[0]
    assert abs(root - np.cbrt(y)) < 1e-6


def test_bisect_is_differentiable(x64):
    """In what it inverts and in what the function holds; outside the range it stands still."""
    y = jnp.array([1.0, 4.0])
    by_y, by_scale = jax.jacfwd(_cube_root, argnums=(0, 1))(y, 2.0)
    root = np.cbrt(np.asarray(y) / 2)
    np.testing.assert_allclose(jnp.diag(by_y), 1 / (6 * root**2), rtol=1e-10)
    np.testing.assert_allclose(by_scale, -root / 6, rtol=1e-10)
    back = jax.grad(lambda y: jnp.sum(_cube_root(y, 2.0)))(y)
    np.testing.assert_allclose(back, jnp.diag(by_y), rtol=1e-12)
    outside = jnp.array([-100.0, 100.0, jnp.inf])
    np.testing.assert_array_equal(_cube_root(outside, 1.0), [-2, 2, 2])
    assert jnp.all(jax.grad(lambda y: jnp.sum(_cube_root(y, 1.0)))(outside) == 0)


def test_parameter_summary():
    assert arrays.parameter_summary({"a": jnp.ones((1000, 2)), "b": jnp.ones(())}) == (
        "2,001 parameters"
    )

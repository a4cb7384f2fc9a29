"""The array operations that every room shares."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxflow import arrays, checks


@pytest.mark.parametrize("lead", [1, 2, 3])
def test_expand_multiplies_each_by_its_own_time(lead):
    x = jnp.ones((2, 3, 4))
    t = jnp.arange(float(np.prod(x.shape[:lead]))).reshape(x.shape[:lead])
    expected = np.array([t[index[:lead]] for index in np.ndindex(x.shape)]).reshape(x.shape)
    assert jnp.array_equal(arrays.expand(t, x) * x, expected)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("shape", [(), (3,), (2, 4), (1,), (2, 3, 4, 1)])
def test_expand_refuses_other_times(shape):
    with pytest.raises(ValueError, match=r"and x \(2, 3, 4\): t needs one time an example"):
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
        floating = kept if jnp.issubdtype(kept, jnp.floating) else jnp.float32
        assert arrays.as_floats(jnp.ones(2, dtype)).dtype == floating


def test_sums_do_not_lose_half_precision():
    x = jnp.full((1, 4096), 0.1, jnp.bfloat16)
    one = float(x[0, 0])
    np.testing.assert_allclose(arrays.event_sum(x), [4096 * one], rtol=1e-5)
    np.testing.assert_allclose(arrays.event_mean(x), [one], rtol=1e-5)
    assert arrays.event_sum(jnp.ones(3)).tolist() == [1.0] * 3


def test_batch_size_and_conditions():
    assert arrays.batch_size({"a": jnp.ones((3, 2)), "b": (jnp.ones(3), None)}) == 3
    assert checks.check_batch(jnp.ones((3, 2)), {"label": jnp.ones(3)}) == 3
    for wrong in ({}, jnp.ones(()), {"a": jnp.ones(3), "b": jnp.ones(2)}):
        with pytest.raises(
            ValueError, match="every array needs the same leading batch axis; got shapes"
        ):
            arrays.batch_size(wrong)
    for shape in ((), (2,)):
        with pytest.raises(
            ValueError, match=r"^condition 'label' has shape .*, but the batch is 3"
        ):
            checks.check_batch(jnp.ones((3, 2)), {"label": jnp.ones(shape)})


def test_is_concrete():
    seen = []
    jax.jit(lambda x: seen.append(arrays.is_concrete(x)))(jnp.ones(2))
    assert seen == [False]
    assert arrays.is_concrete(jnp.ones(2))
    assert arrays.is_concrete((0.0, 1.0))


def _distances(x, y):
    return ((np.asarray(x, float)[:, None] - np.asarray(y, float)[None]) ** 2).sum((2, 3))


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "uint8", "bool"])
def test_squared_distances_are_those_of_the_differences(dtype):
    """On the host and compiled, whatever the dtype: a byte does not wrap."""
    x, y = (np.random.default_rng(0).uniform(0, 2, (n, 3, 2)) for n in (20, 7))
    if dtype == "uint8":
        x, y = 120 * x, 120 * y
    x, y = (np.asarray(jnp.asarray(a, dtype)) if dtype != "float64" else a for a in (x, y))
    expected = _distances(x, y)
    for found in (arrays.squared_distances(x, y), _compiled_distances(jnp.asarray(x), y)):
        np.testing.assert_allclose(found, expected, atol=1e-6 * expected.max())
    assert arrays.squared_distances(x, y).dtype == (x.dtype if dtype == "float64" else np.float32)
    assert isinstance(arrays.squared_distances(x, y), np.ndarray)
    wide = np.repeat(x, 16, axis=1), np.repeat(y, 16, axis=1)
    np.testing.assert_allclose(
        arrays.squared_distances(*wide), 16 * expected, atol=2e-5 * expected.max()
    )
    assert arrays.squared_distances(x[:0], y).shape == (0, 7)


@jax.jit
def _compiled_distances(x, y):
    return arrays.squared_distances(x, y)


def test_squared_distances_far_from_the_origin():
    """Centring keeps a common offset from cancelling the digits; nothing is negative."""
    x, y = np.random.default_rng(0).normal(size=(2, 20, 3, 1))
    far = [jnp.asarray(a + 1000.0, jnp.float32) for a in (x, y)]
    np.testing.assert_allclose(_compiled_distances(*far), _distances(x, y), atol=1e-2)
    found = arrays.squared_distances(x + 1e6, y + 1e6)
    np.testing.assert_allclose(found, _distances(x, y), atol=1e-8)
    same = jnp.asarray(x, jnp.float32)
    assert jnp.all(_compiled_distances(same, same) >= 0)
    assert "HIGHEST" in str(jax.make_jaxpr(arrays.squared_distances)(same, same))


def test_squared_distances_have_the_gradient_of_the_differences(x64):
    x, y = (jnp.asarray(a) for a in np.random.default_rng(0).normal(size=(2, 5, 2)))
    y = y.at[0].set(x[0])
    weight = jnp.arange(25.0).reshape(5, 5)
    found = jax.grad(lambda x, y: jnp.sum(weight * arrays.squared_distances(x, y)), (0, 1))(x, y)
    offset = 2 * weight[:, :, None] * (x[:, None] - y[None])
    np.testing.assert_allclose(found[0], offset.sum(1), atol=1e-10)
    np.testing.assert_allclose(found[1], -offset.sum(0), atol=1e-10)


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


@jax.jit
def _power_root(y):
    return arrays.bisect(lambda x: x**0.1, y, 0.0, 1.0)


def test_bisect_is_exact_close_to_zero():
    """A root of 1e-30 has as many digits as one of 1; both ends of the interval are met."""
    y = np.array([1e-3, 0.1, 0.5, 0.9, 1.0, 0.0, 2.0, -1.0, np.nan])
    expected = np.clip(y, 0, 1) ** 10
    np.testing.assert_allclose(_power_root(jnp.asarray(y, jnp.float32)), expected, rtol=2e-6)
    with jax.enable_x64(True):
        found = jax.vmap(_power_root)(jnp.asarray(y))
        np.testing.assert_allclose(found, expected, rtol=1e-14)
        slope = jax.vmap(jax.grad(_power_root))(jnp.asarray(y[:4]))
        np.testing.assert_allclose(slope, 10 * y[:4] ** 9, rtol=1e-12)


@given(st.floats(-1, 1, width=32))
def test_bisect_finds_every_number(y):
    """The identity's root is the number itself, to the bit, across zero and both ends."""
    for x64, low in ((False, -1.0), (True, -0.75)):
        with jax.enable_x64(x64):
            found = _identity_root(jnp.array(y), low)
            assert found == max(np.asarray(y, found.dtype), low) or abs(y) < 1e-37


@partial(jax.jit, static_argnums=1)
def _identity_root(y, low):
    return arrays.bisect(lambda x: x, y, low, 1.0)


def test_bisect_takes_integers_and_half_precision():
    for y in (jnp.array([0, 1]), jnp.array([0, 1], jnp.float16), jnp.array([False, True])):
        found = arrays.bisect(lambda x: x**3, y, 0.0, 2.0)
        assert found.dtype == jnp.float32
        np.testing.assert_array_equal(found, [0.0, 1.0])


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

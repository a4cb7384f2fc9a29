"""Layers are their equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow.networks.initialisers import xavier
from jaxflow.networks.layers import Attention, GroupNorm, layer_norm
from jaxflow.networks.resampling import double, doubling_conv, halve

X = np.random.default_rng(0).standard_normal((2, 4, 6, 8)).astype(np.float32)


def test_layer_norm_has_mean_zero_and_variance_one():
    y = np.asarray(layer_norm(jnp.asarray(3.0 + 2.0 * X)))
    np.testing.assert_allclose(y.mean(-1), 0.0, atol=1e-5)
    np.testing.assert_allclose(y.var(-1), 1.0, rtol=1e-4)


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_group_norm_is_its_equation(groups):
    scale, bias = np.linspace(1, 2, 8, dtype=np.float32), np.linspace(-1, 1, 8, dtype=np.float32)
    x = 5.0 + 2.0 * X
    y = GroupNorm(groups).apply({"params": {"scale": scale, "bias": bias}}, jnp.asarray(x))
    grouped = x.astype(np.float64).reshape(2, 24, groups, -1)
    mean = grouped.mean((1, 3), keepdims=True)
    variance = grouped.var((1, 3), keepdims=True)
    expected = ((grouped - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape) * scale + bias
    np.testing.assert_allclose(y, expected, atol=2e-5)


def test_group_norm_takes_the_groups_that_it_is_told():
    with pytest.raises(ValueError, match=r"^5 groups do not divide 8 channels: take a multiple"):
        GroupNorm(5).init(jax.random.key(0), jnp.asarray(X))


@pytest.mark.parametrize("channels", [6, 8, 32, 50, 64, 128, 144, 256])
def test_group_norm_leaves_what_a_condition_adds(channels):
    """Of a shift of each channel at most the mean of a group is taken away: a quarter of it."""
    rng = np.random.default_rng(0)
    x, shift = (rng.standard_normal((3, *places, channels)) for places in ((4, 4), (1, 1)))
    params = {"scale": np.ones(channels, np.float32), "bias": np.zeros(channels, np.float32)}
    plain, moved = (
        np.asarray(GroupNorm().apply({"params": params}, jnp.asarray(a, jnp.float32)))
        for a in (x, x + shift)
    )
    kept = np.mean(np.square(np.mean(moved - plain, axis=(1, 2))))
    assert kept > 0.2 * np.mean(np.square(shift))


def test_norms_keep_the_dtype_but_not_its_rounding():
    offset = jnp.asarray(100.0 + X, jnp.bfloat16)
    y = layer_norm(offset)
    exact = layer_norm(offset.astype(jnp.float32))
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(jnp.float32), exact, rtol=1e-2, atol=1e-2)


def test_attention_is_softmax_of_products():
    x = jnp.asarray(X[0])
    module = Attention(heads=2)
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda p: rng.standard_normal(p.shape).astype(np.float32),
        jax.eval_shape(module.init, jax.random.key(0), x)["params"],
    )
    y = module.apply({"params": params}, x)
    qkv = X[0] @ params["qkv"]["kernel"] + params["qkv"]["bias"]
    q, k, v = qkv.reshape(4, 6, 2, 3, 4).transpose(3, 0, 2, 1, 4)
    weights = np.asarray(jax.nn.softmax(q @ k.swapaxes(-1, -2) / 2.0, axis=-1))
    heads = (weights @ v).swapaxes(1, 2).reshape(4, 6, 8)
    expected = heads @ params["out"]["kernel"] + params["out"]["bias"]
    np.testing.assert_allclose(y, expected, rtol=1e-3, atol=1e-3)


def test_halving_undoes_doubling():
    np.testing.assert_array_equal(double(jnp.asarray(X)), X.repeat(2, axis=1).repeat(2, axis=2))
    np.testing.assert_allclose(halve(double(jnp.asarray(X))), X, rtol=1e-6)


def test_a_doubling_convolution_is_doubling_then_convolution():
    kernel = xavier(jax.random.key(0), (3, 3, 8, 5))

    def plain(x, kernel):
        return jax.lax.conv_general_dilated(
            double(x), kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def pulled_back(convolve):
        y, pull = jax.vjp(convolve, jnp.asarray(X), kernel)
        return y, *pull(jnp.cos(y))

    ours, theirs = (jax.jit(pulled_back, static_argnums=0)(f) for f in (doubling_conv, plain))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), ours, theirs)

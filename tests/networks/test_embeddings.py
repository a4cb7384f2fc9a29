"""Embeddings are what their formulas say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow.networks import (
    GuidanceEmbedding,
    LabelEmbedding,
    SpanEmbedding,
    TimeEmbedding,
    positions,
    sinusoidal,
)
from tests.networks.small import perturbed


def test_sinusoidal_is_its_formula():
    t = np.array([0.0, 0.25, 1.0], np.float32)
    w = 10000.0 ** (-np.arange(8) / 8)
    angles = 10.0 * t[:, None].astype(np.float64) * w
    expected = np.concatenate([np.cos(angles), np.sin(angles)], axis=-1)
    np.testing.assert_allclose(sinusoidal(jnp.asarray(t), 16), expected, atol=2e-4)


@pytest.mark.parametrize("embedding", [TimeEmbedding(6), SpanEmbedding(6)])
def test_a_time_is_embedded_alike_wherever_it_stands(embedding):
    t = jnp.linspace(-1.0, 1.0, 12)
    params = perturbed(embedding.init(jax.random.key(0), t))
    rows = embedding.apply(params, t)
    np.testing.assert_allclose(
        embedding.apply(params, t.reshape(2, 3, 2)), rows.reshape(2, 3, 2, 6), atol=1e-6
    )
    assert np.linalg.norm(np.diff(rows, axis=0), axis=-1).min() > 1e-3


def test_no_span_is_the_zero_vector_whatever_the_parameters():
    """And no other is told apart from it at initialisation."""
    embedding, span = SpanEmbedding(6), jnp.array([0.0, 0.5])
    params = embedding.init(jax.random.key(0), span)
    assert np.all(embedding.apply(params, span) == 0)
    zero, other = embedding.apply(jax.tree.map(lambda p: 100.0 * p, perturbed(params)), span)
    assert np.all(zero == 0)
    assert np.linalg.norm(other) > 1.0


@pytest.mark.usefixtures("unchecked")
def test_no_guidance_is_the_zero_vector_whatever_the_parameters():
    """A scale of 1 at all times; any other is told apart, by each of its three numbers."""
    embedding = GuidanceEmbedding(6)
    told = jnp.array([[1.0, 0.0, 1.0], [2.0, 0.0, 1.0], [1.0, 0.2, 1.0], [1.0, 0.0, 0.8]])
    params = embedding.init(jax.random.key(0), told)
    assert np.all(embedding.apply(params, told) == 0)
    zero, *others = embedding.apply(jax.tree.map(lambda p: 100.0 * p, perturbed(params)), told)
    assert np.all(zero == 0)
    others = np.stack([zero, *others])
    assert np.linalg.norm(others[:, None] - others[None], axis=-1)[~np.eye(4, dtype=bool)].min() > 1
    with pytest.raises(ValueError, match=r"guidance has shape \(2,\): .* \[batch, 3\]"):
        embedding.init(jax.random.key(0), jnp.ones(2))


def test_sinusoidal_is_float32_for_half_precision_and_float64_for_double():
    assert sinusoidal(jnp.zeros(2, jnp.bfloat16), 4).dtype == jnp.float32
    with jax.enable_x64(True):
        assert sinusoidal(jnp.zeros(2, jnp.float64), 4).dtype == jnp.float64


def test_sinusoidal_tells_near_times_apart_alike_everywhere():
    """By how far two times are apart alone, in closed form, and no two times are the same."""
    t = jnp.linspace(0.0, 1.0, 101)
    e = np.asarray(sinusoidal(t, 64))
    w = 10.0 * 10000.0 ** (-np.arange(32) / 32)
    expected = 2 * np.sqrt(np.sum(np.sin(w * 0.01 / 2) ** 2))
    np.testing.assert_allclose(np.linalg.norm(np.diff(e, axis=0), axis=-1), expected, rtol=1e-3)
    distances = np.linalg.norm(e[:, None] - e[None], axis=-1)
    assert distances[~np.eye(101, dtype=bool)].min() > 0.9 * expected


def test_positions_are_all_different_and_shift_by_a_rotation():
    table = positions(6, 7, 32)
    assert table.shape == (42, 32)
    distances = np.linalg.norm(table[:, None] - table[None], axis=-1)
    assert distances[~np.eye(42, dtype=bool)].min() > 0.5
    inner = (table @ table.T).reshape(6, 7, 6, 7)
    np.testing.assert_allclose(inner[0, 0, 1, 2], inner[3, 4, 4, 6], rtol=1e-5)


def test_the_last_label_is_the_null_one():
    table = LabelEmbedding(3, 5)
    params = table.init(jax.random.key(0), jnp.zeros(1, int))
    rows = params["params"]["Embed_0"]["embedding"]
    assert rows.shape == (4, 5)
    np.testing.assert_array_equal(table.apply(params, jnp.array([3, 0])), rows[jnp.array([3, 0])])


@pytest.mark.parametrize("call", [lambda: sinusoidal(jnp.zeros(1), 3), lambda: positions(2, 2, 6)])
def test_widths_that_cannot_be_shared(call):
    with pytest.raises(ValueError, match="features"):
        call()

"""What every metric keeps to: units, symmetry, dtypes, gradients and sentences."""

import inspect
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import metrics

KEY = jax.random.key(0)


class Row(NamedTuple):
    """How a metric reads two sets `[n, *event]`, and what holds of the number it gives."""

    call: Callable
    uses: tuple[str, ...]
    degree: int  # of the units of the data in its own
    equal: float | None = 0.0  # what two equal sets give
    symmetric: bool = True
    compiles: bool = True  # and is differentiable


def halves(y):
    return [y[: len(y) // 2], y[len(y) // 2 :]]


def moments_of_both(x, y):
    streamed = metrics.streamed_moments(halves(np.asarray(y)))
    return metrics.frechet_from_moments(metrics.moments(x), streamed)


def two_sample(x, y):
    return metrics.classifier_two_sample(KEY, x, y).accuracy


def accuracy(x, y):
    """Of a classifier of the sum's sign, fitted to one set and asked for the other's."""

    def label(z):
        total = np.sum(np.asarray(z, float), axis=(1, 2))
        return total > (np.median(total) if len(total) else 0)

    return metrics.class_accuracy(metrics.fit_classifier(x, label(x)), y, label(y)).value


TABLE = {
    "wasserstein": Row(
        lambda x, y: jnp.sum(metrics.wasserstein(x, y, order=2.0)), ("wasserstein",), 1
    ),
    "sliced_wasserstein": Row(
        lambda x, y: metrics.sliced_wasserstein(KEY, x, y, projections=8),
        ("sliced_wasserstein",),
        1,
    ),
    "mmd_squared": Row(metrics.mmd_squared, ("mmd_squared",), 0, equal=None),
    "energy_distance": Row(metrics.energy_distance, ("energy_distance",), 1, equal=None),
    "median_distance": Row(metrics.median_distance, ("median_distance",), 1, equal=None),
    "frechet": Row(metrics.frechet, ("frechet",), 2, compiles=False),
    "moments": Row(
        moments_of_both,
        ("frechet_from_moments", "moments", "streamed_moments", "Moments"),
        2,
        compiles=False,
    ),
    "nearest": Row(
        lambda x, y: jnp.sum(metrics.nearest(x, y).distance),
        ("nearest", "Nearest"),
        1,
        symmetric=False,
    ),
    "classifier_two_sample": Row(
        two_sample,
        ("classifier_two_sample", "TwoSample"),
        0,
        equal=None,
        symmetric=False,
        compiles=False,
    ),
    "class_accuracy": Row(
        accuracy,
        ("class_accuracy", "fit_classifier", "Accuracy"),
        0,
        equal=None,
        symmetric=False,
        compiles=False,
    ),
}
# They compare no sets of points; those of tokens: tests/metrics/test_text.py.
OF_TOKENS = {"longest_copy", "ngram_entropy", "ngram_kl", "perplexity", "spelling_rate", "words_of"}
OTHERS = {"bits_per_dim", "fit_features", "importance_weighted", *OF_TOKENS}
COMPILE = [name for name, row in TABLE.items() if row.compiles]


def sets():
    """Whole numbers, so that every dtype holds them; two samples coincide in and across sets."""
    x, y = (np.random.default_rng(i).integers(0, 200, (n, 2, 2)) for i, n in ((0, 12), (1, 15)))
    x[1], y[0], y[1] = x[0], x[0], x[2]
    return x, y


def test_every_public_name_is_in_the_table():
    public = {n for n in metrics.__all__ if not inspect.ismodule(getattr(metrics, n))}
    assert public == {name for row in TABLE.values() for name in row.uses} | OTHERS


@pytest.mark.parametrize("name", TABLE)
def test_contract(name):
    """Units and symmetry; every dtype, and lists, give the same number."""
    row = TABLE[name]
    x, y = (z.astype(np.float32) for z in sets())
    value = row.call(x, y)
    assert np.isfinite(value)
    np.testing.assert_allclose(row.call(2 * x, 2 * y), 2**row.degree * value, rtol=2e-6)
    if row.symmetric:
        with jax.enable_x64(True):
            x64, y64 = x.astype(np.float64), y.astype(np.float64)
            np.testing.assert_allclose(row.call(y64, x64), row.call(x64, y64), rtol=1e-9)
    if row.equal is not None:
        assert abs(row.call(x, x) - row.equal) <= 1e-9
    for other in ("uint8", "int32", "float16"):
        np.testing.assert_allclose(row.call(x.astype(other), y.astype(other)), value, rtol=2e-6)
    np.testing.assert_allclose(row.call(x.tolist(), y.tolist()), value, rtol=2e-6)


@pytest.mark.parametrize("name", COMPILE)
def test_compiled_and_dtypes(name):
    row = TABLE[name]
    x, y = (jnp.asarray(z, jnp.float32) for z in sets())
    found = jax.jit(row.call)(x, y)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, row.call(x, y), rtol=1e-5)
    half = jax.eval_shape(row.call, *(z.astype(jnp.bfloat16) for z in (x, y)))
    assert half.dtype == jnp.float32
    with jax.enable_x64(True):
        assert jax.eval_shape(row.call, *(z.astype(jnp.float64) for z in (x, y))).dtype == "float64"


@pytest.mark.parametrize("name", COMPILE)
def test_gradients_are_the_slopes(name, x64):
    """Against central differences, though samples coincide; and finite where all of them do."""
    row = TABLE[name]
    x, y = (jnp.asarray(z / 100) for z in sets())
    if "wasserstein" in name:  # whose slopes on both sides of a tie differ
        x, y = (z + 0.01 * jax.random.normal(jax.random.key(1), z.shape) for z in (x, y))
    slope = jax.jit(jax.grad(row.call, argnums=(0, 1)))
    along = jax.tree.map(lambda z: jax.random.normal(KEY, z.shape, z.dtype), (x, y))

    @jax.jit
    def difference(h):
        ahead, behind = (
            row.call(*jax.tree.map(lambda z, d, s=s: z + s * d, (x, y), along)) for s in (h, -h)
        )
        return (ahead - behind) / (2 * h)

    total = sum(jnp.sum(g * d) for g, d in zip(slope(x, y), along, strict=True))
    np.testing.assert_allclose(total, difference(1e-6), rtol=1e-4, atol=1e-5)
    if name != "mmd_squared":  # whose bandwidth is then zero
        for leaf in jax.tree.leaves(slope(x, jnp.concatenate([x, x[:3]]))):
            assert np.all(np.isfinite(leaf))
        for leaf in jax.tree.leaves(slope(0 * x, 0 * y)):
            assert not np.any(leaf)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", TABLE)
def test_empty_sets_and_other_events_are_refused(name):
    x, y = (z.astype(np.float32) for z in sets())
    row = TABLE[name]
    for a, b in ((x[:0], y), (x, y[:0]), (x, y[:, :1, :])):
        with pytest.raises(ValueError, match=r"samples|features|label"):
            row.call(a, b)

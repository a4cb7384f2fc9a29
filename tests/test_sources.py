"""Sources: a sample a key, whatever its batch, and densities in nats."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxflow import sources

ROWS = jnp.arange(20.0).reshape(5, 2, 2)
TABLE = {
    "normal": {},
    "uniform": {"low": -1.0, "high": 3.0},
    "mask": {"token": 7},
    "data": {"rows": ROWS},
    "uniform_tokens": {"vocabulary": 5},
    "tokens": {"weights": jnp.arange(1.0, 13.0).reshape(2, 2, 3)},
}
ALL = [pytest.param(getattr(sources, n)(**kwargs), id=n) for n, kwargs in TABLE.items()]


def test_every_factory_is_in_the_table():
    public = {n for n in sources.__all__ if inspect.isfunction(getattr(sources, n))}
    assert public == {*TABLE, "as_source", "product"}


@pytest.mark.parametrize("source", ALL)
def test_contract(source, key):
    """Shape, and a sample that depends on its own key alone, inside and outside of jit."""
    sample = jax.jit(lambda source, keys: source.sample(keys, (2, 2)))
    keys = jax.random.split(key, 6)
    x = np.asarray(sample(source, keys))
    assert x.shape == (6, 2, 2)
    assert np.array_equal(x[2:4], sample(source, keys[2:4]))
    assert np.array_equal(x, source.sample(keys, (2, 2)))
    leaves, tree = jax.tree.flatten(source)
    again = jax.tree.unflatten(tree, leaves)
    assert np.array_equal(x, again.sample(keys, (2, 2)))
    hash(tree)
    assert type(source).__name__ in repr(source)


def test_densities(key, x64):
    x = np.asarray(jax.random.normal(key, (4, 3)))
    np.testing.assert_allclose(
        sources.normal().log_prob(jnp.asarray(x)), scipy.stats.norm.logpdf(x).sum(1), rtol=1e-12
    )
    inside, outside = jnp.zeros((1, 3)), jnp.full((1, 3), 5.0)
    box = sources.uniform(-1.0, 3.0)
    np.testing.assert_allclose(box.log_prob(inside), [-3 * np.log(4)], rtol=1e-12)
    assert box.log_prob(outside)[0] == -jnp.inf
    assert sources.mask(7).log_prob(jnp.full((1, 3), 7))[0] == 0
    assert sources.mask(7).log_prob(jnp.array([[7, 7, 6]]))[0] == -jnp.inf
    half = sources.normal().log_prob(jnp.zeros((1, 3), jnp.bfloat16))
    assert half.dtype == jnp.float32


@pytest.mark.parametrize(
    ("source", "reference"),
    [
        (sources.normal(), scipy.stats.norm()),
        (sources.uniform(-1.0, 3.0), scipy.stats.uniform(-1.0, 4.0)),
    ],
    ids=["normal", "uniform"],
)
def test_samples_follow_the_density(source, reference, key):
    sample = jax.jit(lambda keys: source.sample(keys, (2,)))
    x = np.asarray(sample(jax.random.split(key, 3000)))
    assert scipy.stats.kstest(x.ravel(), reference.cdf).pvalue > 1e-4
    correlation = np.corrcoef(x.T)[0, 1] * np.sqrt(len(x))
    assert abs(correlation) < 4


def test_parts_are_independent(key):
    """Of one shape and one distribution too; densities add up."""
    source = sources.product({"b": sources.normal(), "a": sources.normal()})
    keys = jax.random.split(key, 1000)
    sample = jax.jit(lambda keys: source.sample(keys, {"a": (2,), "b": (2,)}))
    x = sample(keys)
    a, b = (np.asarray(x[k], float) for k in "ab")
    assert not np.any(a == b)
    for other in (b, b[:, ::-1], b**2 - 1):
        product = a * other
        assert np.all(np.abs(product.mean(0)) / product.std(0) * np.sqrt(len(a)) < 4)
    some = sample(keys[3:5])
    np.testing.assert_array_equal(some["a"], np.asarray(x["a"])[3:5])
    expected = scipy.stats.norm.logpdf(a).sum(1) + scipy.stats.norm.logpdf(b).sum(1)
    np.testing.assert_allclose(jax.jit(source.log_prob)(x), expected, rtol=1e-5)


def test_a_plain_function_is_a_source(key):
    source = sources.as_source(lambda keys, shape: jnp.full((len(keys), *shape), 2.0))
    np.testing.assert_array_equal(source.sample(jax.random.split(key, 3), (2,)), np.full((3, 2), 2))
    with pytest.raises(ValueError, match=r"^the source .* is a function that draws and tells no"):
        source.log_prob(jnp.ones((3, 2)))
    assert sources.as_source(sources.normal()) == sources.normal()
    with pytest.raises(TypeError, match=r"^a source has sample\(keys, event_shape\) .*; got int: "):
        sources.as_source(3)


def test_rows_are_drawn_evenly(key):
    x = sources.data(ROWS).sample(jax.random.split(key, 2000), (2, 2))
    counts = np.bincount((np.asarray(x)[:, 0, 0] / 4).astype(int), minlength=5)
    assert scipy.stats.chisquare(counts).pvalue > 1e-4


def test_float64_samples_use_all_their_bits(x64):
    x = sources.normal().sample(jax.random.split(jax.random.key(0), 2), (2,))
    assert x.dtype == jnp.float64
    assert not jnp.array_equal(x, x.astype(jnp.float32).astype(jnp.float64))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "received"),
    [
        (lambda: sources.product({}), "^a product needs the source of at least one part$"),
        (
            lambda: sources.product({"a": sources.normal()}).sample(
                jax.random.split(jax.random.key(0)), {"b": (2,)}
            ),
            r"^the source has the parts \['a'\], but the events are \{'b': \(2,\)\}$",
        ),
        (lambda: sources.uniform(1.0, 1.0), r"^uniform needs low < high; got low=1\.0, high=1\.0$"),
        (
            lambda: sources.normal().sample(jax.random.key(0), (2,)),
            r"^keys has shape \(\): one typed key a sample is needed",
        ),
        (
            lambda: sources.normal().sample(jnp.zeros((3, 2), jnp.uint32), (2,)),
            r"^keys has shape \(3, 2\): one typed key a sample is needed",
        ),
        (
            lambda: sources.data(ROWS).sample(jax.random.split(jax.random.key(0)), (4,)),
            r"^the source's rows have event shape \(2, 2\), but the data \(4,\): ",
        ),
        (lambda: sources.data(ROWS).log_prob(ROWS), "^a source of 5 data rows has no density, so"),
    ],
)
def test_errors_name_what_they_got(call, received):
    with pytest.raises(ValueError, match=received):
        call()

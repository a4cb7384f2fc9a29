"""Batches on the device, and the shuffle that they rest on."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow.data import check, on_device, stream, toy, transforms
from jaxflow.data.permutation import shuffled

ORDERS = jax.jit(
    lambda key, epochs, n: shuffled(key, jnp.arange(epochs)[:, None], jnp.arange(n)[None], n),
    static_argnums=(1, 2),
)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 16, 97, 1437])
def test_every_epoch_is_a_permutation(n, key):
    orders = np.asarray(ORDERS(key, 20, n))
    assert (np.sort(orders, axis=1) == np.arange(n)).all()


def test_a_large_permutation_is_a_bijection(key):
    n = 1_281_167
    order = jax.jit(lambda key: shuffled(key, 7, jnp.arange(n), n))(key)
    assert np.bincount(np.asarray(order), minlength=n).max() == 1


def chi_square_z(counts, expected):
    freedom = counts.size - 1
    return (((counts - expected) ** 2) / expected).sum() / math.sqrt(2 * freedom) - math.sqrt(
        freedom / 2
    )


@pytest.mark.parametrize("n", [3, 4, 5])
def test_all_orders_are_equally_likely(n, key):
    epochs = 60_000
    orders = np.asarray(ORDERS(key, epochs, n))
    counts = np.unique(orders @ 10 ** np.arange(n), return_counts=True)[1]
    assert len(counts) == math.factorial(n)
    assert abs(chi_square_z(counts, epochs / len(counts))) < 4


def test_neighbours_are_independent(key):
    epochs, n = 40_000, 37
    orders = np.asarray(ORDERS(key, epochs, n))
    steps = np.diff(orders, axis=1) % n
    counts = np.bincount(steps.ravel(), minlength=n)[1:]
    assert abs(chi_square_z(counts, steps.size / (n - 1))) < 4
    first = np.bincount(orders[:, 0], minlength=n)
    assert abs(chi_square_z(first, epochs / n)) < 4


def images(n=10):
    return {
        "image": np.arange(n * 12, dtype=np.uint8).reshape(n, 2, 2, 3),
        "label": np.arange(n, dtype=np.uint8),
    }


def test_an_epoch_holds_every_example_once():
    data = on_device(images(), batch_size=4, seed=0)
    labels = jnp.concatenate([data.batch(step)["cond"]["label"] for step in range(10)])
    epochs = np.asarray(labels).reshape(4, 10)
    assert labels.dtype == jnp.int32
    assert (np.sort(epochs, axis=1) == np.arange(10)).all()
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 4


@pytest.mark.parametrize("step", [0, 1, 123_456, 2**31 - 1])
def test_far_steps_are_where_whole_numbers_say(step):
    n, size = 10, 4
    data = on_device(images(n), batch_size=size, seed=0)
    positions = [step * size + row for row in range(size)]
    key = jax.random.fold_in(data.key, 0)
    expected = [
        int(shuffled(key, jnp.uint32(p // n % 2**32), jnp.array(p % n), n)) for p in positions
    ]
    assert data.indices(step).tolist() == expected


def test_batches_are_pure_and_traceable():
    chain = (transforms.flip(), transforms.dequantise())
    data = on_device(images(), batch_size=4, seed=0, transforms=chain)
    _, scanned = jax.lax.scan(lambda c, step: (c, data.batch(step)), None, jnp.arange(3, 6))
    one = jax.jit(lambda data, step: data.batch(step))(data, 4)
    np.testing.assert_array_equal(one["x1"], scanned["x1"][1])
    np.testing.assert_array_equal(one["cond"]["label"], scanned["cond"]["label"][1])
    assert one["x1"].dtype == jnp.float32
    check(one)


def test_arrays_are_leaves():
    data = on_device(images(), batch_size=4, seed=0)
    assert any(leaf.shape == (10, 2, 2, 3) for leaf in jax.tree.leaves(data))
    traces = []
    f = jax.jit(lambda data: traces.append(1) or data.batch(0)["x1"])
    f(data), f(on_device(images(), batch_size=4, seed=1))
    assert len(traces) == 1


def test_scale_matches_the_host():
    data = on_device(images(), batch_size=10, seed=0, transforms=(transforms.scale(),))
    batch = data.batch(0)
    rows = images()["image"][np.asarray(batch["cond"]["label"])]
    np.testing.assert_array_equal(transforms.pixels(batch["x1"]), rows)


def test_stream_is_fresh_and_repeatable():
    data = stream(toy.moons(), batch_size=8, seed=0)
    batch = jax.jit(lambda data, step: data.batch(step))
    np.testing.assert_array_equal(batch(data, 5)["x1"], batch(data, 5)["x1"])
    assert not np.array_equal(batch(data, 5)["x1"], batch(data, 6)["x1"])
    assert check(batch(data, 0))["x1"].shape == (8, 2)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: on_device({"y": np.ones(3)}, batch_size=1, seed=0), "'x1' or 'image'"),
        (lambda: on_device({"x1": np.ones(3)}, batch_size=0, seed=0), "batch_size = 0"),
        (lambda: on_device({"x1": np.ones((0, 3))}, batch_size=1, seed=0), "0 examples"),
        (lambda: on_device({"x1": np.ones(3)}, batch_size=2**30, seed=0), "use pipeline"),
        (lambda: on_device({"x1": np.ones(3), "y": np.ones(2)}, batch_size=1, seed=0), "leading"),
        (lambda: stream(toy.moons(), batch_size=0, seed=0), "batch_size = 0"),
    ],
)
def test_wrong_arguments_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()

"""Transport that leaves the noise of a class alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from jaxflow import couplings
from jaxflow.couplings import conditional_optimal_transport

RNG = np.random.default_rng(0)
N = 24
X0, X1 = RNG.normal(size=(2, N, 2))
LABEL = RNG.integers(0, 3, N)
BOTH = pytest.mark.parametrize("on_host", [False, True])


def order_of(coupling, cond, x0=X0, x1=X1):
    """Which source each datum has, read off the rows."""
    run = coupling if coupling.on_host else jax.jit(coupling.__call__)
    y0, y1, after = run(jax.random.key(0), x0, x1, cond)
    np.testing.assert_array_equal(y1, x1)
    jax.tree.map(np.testing.assert_array_equal, after, cond)
    same = np.all(np.asarray(y0)[:, None] == np.asarray(jnp.asarray(x0))[None], axis=-1)
    assert (same.sum(1) == 1).all()
    return same.argmax(1)


def squares(a, b):
    return ((a[:, None] - b[None]) ** 2).sum(-1)


def cost_of(order, costs):
    return costs[order, np.arange(len(order))].sum()


@BOTH
def test_each_class_is_transported_by_itself(on_host, x64):
    """The cost within a class is scipy's; the whole lies between plain transport's and none's."""
    order = order_of(conditional_optimal_transport(on_host=on_host), {"label": LABEL})
    costs = squares(X0, X1)
    np.testing.assert_array_equal(LABEL[order], LABEL)
    for k in range(3):
        members = np.flatnonzero(k == LABEL)
        part = costs[np.ix_(members, members)]
        best = part[linear_sum_assignment(part)].sum()
        found = costs[order[members], members].sum()
        np.testing.assert_allclose(found, best, rtol=1e-12)
    plain = order_of(couplings.optimal_transport(on_host=on_host), {"label": LABEL})
    assert cost_of(plain, costs) < cost_of(order, costs) < np.trace(costs)


@BOTH
def test_classes_stay_apart_whatever_the_scale(on_host):
    """In single precision, from hairs to light years, where one class is far from its noise."""
    scale = 10.0 ** RNG.integers(-6, 7, (N, 1))
    x0, x1 = (np.asarray(x, np.float32) for x in (X0 * scale, X1 * scale[::-1]))
    x1[LABEL == 1] += 1e8
    order = order_of(conditional_optimal_transport(on_host=on_host), {"label": LABEL}, x0, x1)
    np.testing.assert_array_equal(LABEL[order], LABEL)


def test_other_classes_cost_no_digit():
    """Compiled in single precision: a class of tiny costs beside one of huge ones is exact."""
    x0, x1 = (np.asarray(x, np.float32) for x in (X0, X1))
    near, far = np.flatnonzero(LABEL == 0), np.flatnonzero(LABEL != 0)
    x0[far] *= 1e6

    def cost(a, b):
        return jnp.sum((a[:, None] - b[None]) ** 2, -1)

    order = order_of(conditional_optimal_transport(cost=cost), {"label": LABEL}, x0, x1)
    part = squares(x0.astype(float), x1.astype(float))[np.ix_(near, near)]
    found = squares(x0.astype(float), x1.astype(float))[order[near], near].sum()
    assert found == pytest.approx(part[linear_sum_assignment(part)].sum(), rel=1e-6)


def law(coupling, key, batches=600, n=16):
    """z-scores of the mean and covariance of the noise of each of two classes."""

    def one(key):
        source, classes, spread = jax.random.split(key, 3)
        label = jax.random.randint(classes, (n,), 0, 2)
        x1 = jax.random.normal(spread, (n, 2)) * 0.3 + 2.0 * label[:, None] - 1.0
        x0 = jax.random.normal(source, (n, 2))
        return coupling(key, x0, x1, {"label": label})[0], label

    x0, label = jax.jit(jax.vmap(one))(jax.random.split(key, batches))
    x0, label = np.asarray(x0, float).reshape(-1, 2), np.asarray(label).ravel()
    scores = []
    for k in (0, 1):
        x, root = x0[label == k], np.sqrt((label == k).sum())
        scores += list(x.mean(0) * root)
        scores += list(((x**2).mean(0) - 1) * root / np.sqrt(2))
        scores.append(x.prod(1).mean() * root)
    return np.abs(scores)


def test_noise_of_a_class_stays_normal(key):
    """Mean and covariance given the class are the source's; plain transport's are far off."""
    assert law(conditional_optimal_transport(), key).max() < 4
    assert law(couplings.optimal_transport(), key).max() > 20


@BOTH
def test_continuous_conditions_cost_their_distance(on_host, x64):
    """The sum is scipy's of the written cost; its ends are plain transport and none at all."""
    text = RNG.normal(size=(N, 3, 2))
    pose = RNG.normal(size=N)
    cond = {"text": {"tokens": text}, "pose": pose}
    flat = np.concatenate([text.reshape(N, -1), pose[:, None]], 1)
    for weight in (0.0, 0.1, 1.0, 1e6):
        costs = squares(X0, X1) + weight * squares(flat, flat)
        coupling = conditional_optimal_transport(weight, on_host=on_host)
        order = order_of(coupling, cond)
        best = costs[linear_sum_assignment(costs)].sum()
        assert cost_of(order, costs) == pytest.approx(best, rel=1e-10)
        if weight == 1e6:
            np.testing.assert_array_equal(order, np.arange(N))


@BOTH
def test_every_kind_of_condition(on_host, x64):
    """Several discrete ones match all together, whatever their dtypes; nested or not."""
    bits = RNG.integers(0, 2, (N, 2)).astype(bool)
    large = np.array([2**63, 2**63 + 1], np.uint64)[RNG.integers(0, 2, N)]
    cond = {
        "label": LABEL.astype(np.int8),
        "text": {"mask": bits, "id": large},
        "pose": RNG.normal(size=(N, 1)).astype(np.float32),
    }
    order = order_of(conditional_optimal_transport(0.5, on_host=on_host), cond)
    for kept in (LABEL, bits, large):
        np.testing.assert_array_equal(kept[order], kept)
    classes = {(k, *b, u) for k, b, u in zip(LABEL, bits.tolist(), large, strict=True)}
    assert 1 < len(classes) < N
    assert (order != np.arange(N)).any()


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_bad_values_end_the_compiled_solver_and_stop_the_host(bad, key):
    x0 = jax.random.normal(key, (N, 2))
    label = {"label": LABEL}
    for x1 in (x0.at[3, 1].set(bad), x0 * bad):
        jax.jit(conditional_optimal_transport().__call__)(key, x0, x1, label)[0].block_until_ready()
        with pytest.raises(ValueError, match=r"^optimal transport met a value that is not finite"):
            conditional_optimal_transport(on_host=True)(key, x0, x1, label)
    with pytest.raises(ValueError, match=r"not finite in x0, x1 or a condition$"):
        conditional_optimal_transport(1.0, on_host=True)(key, x0, x0, {"pose": x0 * bad})


@pytest.mark.usefixtures("unchecked")
def test_errors(key):
    plain = conditional_optimal_transport()
    for empty in ({}, {"text": {}}):
        with pytest.raises(ValueError, match=r"^conditional_optimal_transport met a batch without"):
            plain(key, X0, X1, empty)
    with pytest.raises(ValueError, match=r"^condition 'text.pose' is continuous \(float32\): say"):
        plain(key, X0, X1, {"text": {"pose": np.ones(N, np.float32)}})
    with pytest.raises(ValueError, match=r"^condition 'wave' has dtype complex64: "):
        plain(key, X0, X1, {"wave": np.ones(N, np.complex64)})
    with pytest.raises(ValueError, match=r"^condition 'label' has shape \(3,\), but the batch is"):
        plain(key, X0, X1, {"label": LABEL[:3]})
    with pytest.raises(ValueError, match=r"^x0 has shape \(3, 2\) but x1"):
        plain(key, X0[:3], X1, {"label": LABEL})
    for weight in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=rf"^weight is {weight}: the weight of the"):
            conditional_optimal_transport(weight)
    host = conditional_optimal_transport(on_host=True)
    with pytest.raises(ValueError, match=r"^conditional_optimal_transport\(on_host=True\) cannot"):
        jax.jit(lambda x: host(key, x, x, {"label": LABEL})[0])(X0)

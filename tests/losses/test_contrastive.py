"""Contrastive flow matching: its minimum in closed form, and the pairs that it keeps away from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxflow import draws, losses, paths

N = 6


def as_output(output, t, x, *, key=None):
    """A network whose parameters are its output."""
    return output


@pytest.mark.parametrize("path", [paths.linear(), paths.vp()])
def test_the_minimum_is_the_flow_moved_away_from_the_mean(path, x64):
    """Every example against every pair: the gradient vanishes at (2), and nowhere else."""
    keys = jax.random.split(jax.random.key(0), 2)
    x0, x1 = (jax.random.normal(k, (N, 3)) for k in keys)
    t, repulsion = jnp.full(N, 0.3), 0.2
    loss = losses.contrastive(as_output, path, repulsion=repulsion)
    own = np.asarray(jax.jit(path.__call__)(t, x0, x1).u)

    def expected(output):
        """The mean over all assignments of another pair, by cyclic shifts."""
        shifts = [{"x0": jnp.roll(x0, i, axis=0), "x1": jnp.roll(x1, i, axis=0)} for i in range(N)]
        batch = {"t": t, "x0": x0, "x1": x1}
        values = [loss(output, None, {**batch, "negative": pair})[0] for pair in shifts]
        return sum(values) / N

    best = (own - repulsion * own.mean(axis=0)) / (1 - repulsion)
    gradient = jax.jit(jax.grad(expected))
    np.testing.assert_allclose(gradient(best), 0.0, atol=1e-14)
    assert np.abs(gradient(own)).max() > 1e-3
    batch = {"t": t, "x0": x0, "x1": x1, "negative": {"x0": x0, "x1": x1}}
    value, told = jax.jit(loss.__call__)(best, None, batch)
    assert told["per_example"].shape == (N,)
    np.testing.assert_allclose(value, told["attraction"] - repulsion * told["repulsion"])


def test_without_repulsion_it_is_flow_matching(key):
    draw = draws.chain(draws.standard(paths.cosine()), draws.negatives())
    output = jnp.ones((8, 2))

    @jax.jit
    def both(key):
        batch = draw(key, {"x1": jax.random.normal(key, (8, 2))})
        ours = losses.contrastive(as_output, paths.cosine(), repulsion=0.0)
        plain = losses.flow_matching(as_output, paths.cosine())
        return [loss(output, None, batch)[0] for loss in (ours, plain)]

    ours, plain = both(key)
    np.testing.assert_allclose(ours, plain, rtol=1e-6)


def negatives_of(differing, label, keys):
    """The index of the other example, for every key."""
    n = len(label)
    x = jnp.arange(n, dtype=jnp.float32)[:, None]
    batch = {"x0": -x, "x1": x, "t": jnp.zeros(n), "z": None, "cond": {"label": label}}
    draw = draws.negatives(differing)

    def one(key):
        pair = draw(key, batch)["negative"]
        return pair["x1"][:, 0], pair["x0"][:, 0]

    found, sources = jax.jit(jax.vmap(one))(keys)
    np.testing.assert_array_equal(found, -sources)
    return np.asarray(found).astype(int)


def test_another_example_is_any_other(key):
    """One of the others, all alike: a joint chi-square over them."""
    runs = 4000
    label = jnp.zeros(N, int)
    found = negatives_of(None, label, jax.random.split(key, runs))
    assert not np.any(found == np.arange(N))
    counts = np.array([np.bincount(found[:, i], minlength=N)[np.arange(N) != i] for i in range(N)])
    expected = runs / (N - 1)
    for row in counts:
        p = scipy.stats.chi2.sf(np.sum((row - expected) ** 2 / expected), N - 2)
        assert p > 1e-4 / N


def test_another_example_differs_where_one_does(key):
    label = jnp.array([0, 0, 1, 2, 2, 2])
    found = negatives_of("label", label, jax.random.split(key, 500))
    assert np.all(np.asarray(label)[found] != np.asarray(label))
    for i in range(N):
        assert set(found[:, i]) == set(np.flatnonzero(np.asarray(label) != label[i]))
    alike = negatives_of("label", jnp.zeros(N, int), jax.random.split(key, 50))
    assert not np.any(alike == np.arange(N))


def test_what_it_cannot_do_is_one_sentence(key):
    loss = losses.contrastive(as_output, paths.linear())
    batch = draws.standard(paths.linear())(key, {"x1": jnp.ones((4, 2))})
    with pytest.raises(ValueError, match=r"^the batch lacks the pairs .* draws\.negatives\(\)\)$"):
        loss(jnp.ones((4, 2)), None, batch)
    with pytest.raises(ValueError, match="0 <= repulsion < 1; got 1"):
        losses.contrastive(as_output, paths.linear(), repulsion=1)
    with pytest.raises(ValueError, match="a batch of 1 has no other example"):
        draws.negatives()(key, {"x1": jnp.ones((1, 2))})
    with pytest.raises(ValueError, match=r"condition 'class', but the batch has \[\]"):
        draws.negatives("class")(key, batch)

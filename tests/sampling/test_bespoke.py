"""Solvers learned for a velocity: what they start from, what they reach, where they serve."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxflow import paths, sampling
from jaxflow.sampling import adaptive, bespoke, fixed_step, grids
from jaxflow.velocities import from_network, gaussian_mixture

MIXTURE = gaussian_mixture(
    paths.linear(),
    weights=jnp.array([0.5, 0.2, 0.3]),
    means=jnp.array([[1.0, -0.5], [-1.5, 0.3], [0.2, 2.0]]),
    covariances=jnp.array([0.1, 0.2, 0.05]),
)
X = np.random.default_rng(0).standard_normal((256, 2))
FRESH = np.random.default_rng(1).standard_normal((256, 2))


def at(fitted, velocity, x, **kwargs):
    return fixed_step(velocity, x, fitted.grid, method=fitted.method, **kwargs)


def typical(x, exact):
    """The geometric mean over samples of the root mean square over a sample."""
    return np.exp(np.mean(np.log(np.mean((x - exact) ** 2, axis=1))) / 2)


@functools.cache
def learned(n):
    """Of the mixture, in float32."""
    return bespoke(MIXTURE, jnp.asarray(X, jnp.float32), grids.uniform(n))


@pytest.mark.parametrize("grid", [grids.shifted(4, 2.0, 0.1, 0.9), grids.cosine(3)[::-1], [0, 1]])
def test_it_starts_from_ab2(grid, x64):
    """Nothing learned yet, the grid and all states are those of `ab2`, but for rounding."""
    module, n = sys.modules["jaxflow.sampling.bespoke"], len(grid) - 1
    parts = module._solver(module._unmoved(n, jnp.float64), jnp.asarray(grid, jnp.float64))
    start = sampling.Bespoke(*parts, jnp.zeros(()), jnp.zeros(()))
    np.testing.assert_allclose(start.grid, grid, rtol=1e-14)
    there = at(start, MIXTURE, jnp.asarray(X), save=True)
    plain = fixed_step(MIXTURE, jnp.asarray(X), grid, method=sampling.ab2(), save=True)
    np.testing.assert_allclose(there.xs, plain.xs, rtol=1e-12, atol=1e-13)
    assert there.nfe.tolist() == [n] * len(X)


def test_a_linear_flow_is_solved(x64):
    """`N(0, s^2)` with two widths: the flow scales each axis by its own `s`, known exactly."""
    widths = np.array([0.5, 2.0])
    velocity = gaussian_mixture(
        paths.linear(),
        weights=np.ones(1),
        means=np.zeros((1, 2)),
        covariances=np.diag(widths**2)[None],
    )
    two = bespoke(velocity, jnp.asarray(X), grids.uniform(2), rtol=1e-10, atol=1e-10)
    error = typical(at(two, velocity, jnp.asarray(FRESH)).x, FRESH * widths)
    plain = fixed_step(velocity, jnp.asarray(FRESH), grids.uniform(2), method=sampling.ab2()).x
    assert error < 1e-5
    assert error < 1e-4 * typical(plain, FRESH * widths)


@pytest.mark.parametrize("n", [4, 6])
def test_it_beats_ordinary_solvers_at_equal_calls(n):
    """On noise that it never saw, by the typical error and by the root mean square.

    What it says of itself is measured on the last 64 pairs, exactly for `ab2`; for what was learned
    it was chosen by them, and the typical error of new samples is within four standard errors.
    """
    made, x, held = learned(n), jnp.asarray(FRESH, jnp.float32), jnp.asarray(X[192:], jnp.float32)
    exact, exact_held = adaptive(MIXTURE, x).x, adaptive(MIXTURE, held).x
    start = fixed_step(MIXTURE, held, grids.uniform(n), method=sampling.ab2()).x
    np.testing.assert_allclose(made.before, typical(start, exact_held), rtol=1e-3)
    np.testing.assert_allclose(
        made.after, typical(at(made, MIXTURE, held).x, exact_held), rtol=2e-2
    )
    assert made.after < made.before / 5
    end = at(made, MIXTURE, x)
    assert end.nfe.tolist() == [n] * len(x)
    spread = np.std(np.log(np.mean((end.x - exact) ** 2, axis=1)) / 2)
    apart = np.log(typical(end.x, exact) / made.after)
    assert abs(apart) < 4 * spread * np.sqrt(1 / 64 + 1 / 256)
    for name in ("euler", "ab2", "midpoint"):
        method = getattr(sampling, name)()
        other = fixed_step(MIXTURE, x, grids.uniform(n // method.calls), method=method)
        assert other.nfe[0] == n
        assert typical(end.x, exact) < typical(other.x, exact) / 5, name
        assert jnp.mean((end.x - exact) ** 2) < jnp.mean((other.x - exact) ** 2), name


def growth(t, x, rate):
    return jax.tree.map(lambda a: jnp.expand_dims(rate, range(1, a.ndim)) * a, x)


def test_conditions_and_parts(x64):
    """Each pair keeps its condition, and a state of parts is measured over all its numbers."""
    rate = jnp.asarray(np.random.default_rng(2).uniform(0.5, 1.0, len(X)))
    x = {"a": jnp.asarray(X), "b": jnp.asarray(X[:, 0])}
    tight = {"rtol": 1e-9, "atol": 1e-9}
    made = bespoke(growth, x, grids.uniform(3), steps=400, cond={"rate": rate}, **tight)
    end, factor = at(made, growth, x, cond={"rate": rate}).x, np.exp(rate)
    apart = np.concatenate(
        [end["a"] - x["a"] * factor[:, None], (end["b"] - x["b"] * factor)[:, None]], axis=1
    )
    np.testing.assert_allclose(made.after, typical(apart[192:], 0), rtol=1e-3)
    assert made.after < made.before / 20


def test_it_ends_on_the_posterior_mean():
    """Of a prediction of data, singular at `t = 1`: the own grid ends before, by its own step."""
    velocity = from_network(
        lambda p, t, x, key=None: p * jnp.tanh(x), 2.0, path=paths.linear(), prediction="data"
    )
    x = jnp.asarray(X, jnp.float32)
    made = bespoke(velocity, x, grids.uniform(4), steps=200)
    assert made.grid[-1] == velocity.interval[1] < 1
    end = at(made, velocity, x)
    assert end.nfe.tolist() == [4] * len(x)
    assert bool(end.success.all())
    exact = adaptive(velocity, x).x
    np.testing.assert_allclose(typical(end.x[192:], exact[192:]), made.after, rtol=1e-2)
    assert made.after < made.before


def test_it_is_a_record_that_nests():
    """Through jit, vmap and grad as an argument; its gradient is that of finite differences."""
    four = learned(4)
    x = jnp.asarray(X[:4], jnp.float32)
    bare = at(four, MIXTURE, x).x
    run = jax.jit(lambda fitted, x: at(fitted, MIXTURE, x).x)
    np.testing.assert_allclose(run(four, x), bare, rtol=1e-5, atol=1e-6)
    mapped = jax.vmap(lambda x: run(four, x[None])[0])(x)
    np.testing.assert_allclose(mapped, bare, rtol=1e-5, atol=1e-6)
    both = jax.vmap(run, in_axes=(0, None))(jax.tree.map(lambda a: jnp.stack([a, a]), four), x)
    np.testing.assert_allclose(both, jnp.stack([bare, bare]), rtol=1e-5, atol=1e-6)
    with jax.enable_x64(True):
        check_grads(
            lambda x: at(four, lambda t, x: jnp.sin(x) * (1 + t[:, None]), x).x,
            (jnp.asarray(X[:4]),), order=1, modes=["rev"], rtol=1e-6,
        )  # fmt: skip


def test_new_velocities_do_not_retrace():
    """Of one kind: parameters, samples and times are arguments."""
    traces = []

    def network(params, t, x, *, key=None):
        traces.append(None)
        return params * jnp.tanh(x)

    x = jnp.asarray(X[:8], jnp.float32)
    for w, grid in ((0.5, grids.uniform(2)), (1.0, grids.cosine(2))):
        bespoke(from_network(network, jnp.float32(w)), w * x, grid, steps=2)
        first = len(traces) if w == 0.5 else first
    assert len(traces) == first > 0


STEPS = r"^the method was made for the 4 steps of its own grid"


def test_another_grid_is_refused():
    four = learned(4)
    x = jnp.asarray(X[:4], jnp.float32)
    with pytest.raises(ValueError, match=STEPS):
        fixed_step(MIXTURE, x, grids.uniform(5), method=four.method)
    with pytest.raises(ValueError, match=r"^the method was made for its own grid .* alone; got"):
        fixed_step(MIXTURE, x, grids.uniform(4), method=four.method)
    run = jax.jit(lambda grid: fixed_step(MIXTURE, x, grid, method=four.method))
    with pytest.raises(ValueError, match=STEPS):
        run(jnp.asarray(grids.uniform(5)))
    with pytest.raises(ValueError, match=r"^fitted measures steps one by one"):
        grids.fitted(MIXTURE, x, 2, four.method, fine=4)


REFUSALS = {
    "few samples": ({"x0": jnp.ones((3, 2))}, "^bespoke needs at least 4 samples.*got 3 samples"),
    "no steps": ({"steps": 0}, "^bespoke needs .* steps=0, batch=64$"),
    "no pairs": ({"batch": 0}, "^bespoke needs .* batch=0$"),
    "a grid a sample": ({"grid": np.ones((3, 4))}, "^a grid is a sequence of two or more times"),
    "tokens": ({"x0": jnp.ones((4, 2), jnp.int32)}, "^the state is int32"),
    "unsolved": ({"velocity": lambda t, x: x * jnp.nan}, "^bespoke needs exact ends"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(name):
    changed, sentence = REFUSALS[name]
    given = {"velocity": MIXTURE, "x0": jnp.ones((4, 2)), "grid": grids.uniform(2)} | changed
    with pytest.raises(ValueError, match=sentence):
        bespoke(**given)

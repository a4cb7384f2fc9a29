"""Sampling by a flow map: exact however few the steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import paths, sampling
from jaxflow.sampling import grids
from jaxflow.velocities import flow_map


def decay(rate, t, x, *, key=None, r, scale):
    """The average velocity of `x' = -rate scale x` from `t` to `r`."""
    return (jnp.expm1(-rate * scale * (r - t)) / (r - t))[:, None] * x


MAP = flow_map(decay, jnp.float32(0.7))
X = jnp.arange(1.0, 7.0).reshape(3, 2)
COND = {"scale": jnp.array([1.0, 2.0, -1.0])}


@pytest.mark.parametrize(
    "grid", [grids.uniform(1), grids.shifted(4, 3.0), grids.uniform(3, 0.9, 0.2)]
)
def test_it_is_exact_on_every_grid(grid):
    solution = sampling.flow_map(MAP, X, grid, cond=COND)
    span = grid[-1] - grid[0]
    expected = X * np.exp(-0.7 * COND["scale"] * span)[:, None]
    np.testing.assert_allclose(solution.x, expected, rtol=2e-6)
    assert solution.nfe.tolist() == [len(grid) - 1] * 3
    assert solution.nfe.dtype == jnp.int32
    assert solution.success.tolist() == [True] * 3
    assert solution.xs is None


def test_every_step_starts_where_the_last_one_ended():
    """The calls, in order, are `(t_i, t_{i+1})`; conditions and the state's dtype are kept."""
    seen = []

    def told(s, t, x):
        jax.debug.callback(lambda s, t: seen.append((float(s[0]), float(t[0]))), s, t, ordered=True)
        return x + 1

    half = sampling.flow_map(told, X.astype(jnp.bfloat16), [0.0, 0.25, 1.0])
    jax.effects_barrier()
    assert seen == [(0.0, 0.25), (0.25, 1.0)]
    assert half.x.dtype == jnp.bfloat16
    np.testing.assert_array_equal(half.x, (X + 2).astype(jnp.bfloat16))


def test_new_parameters_do_not_retrace_and_nan_is_told():
    traces = []

    def counted(params, t, x, *, key=None, r):
        traces.append(None)
        return jnp.where(x > 3, jnp.nan, params)

    for w in (1.0, 2.0):
        solution = sampling.flow_map(flow_map(counted, jnp.float32(w)), X, grids.uniform(2))
    assert len(traces) == 1
    assert solution.success.tolist() == [True, False, False]
    fine = sampling.flow_map(lambda s, t, x: jnp.where(x > 5, jnp.nan, x), X, grids.uniform(2))
    assert fine.success.tolist() == [True, True, False]


def test_errors():
    with pytest.raises(
        ValueError, match=r"^times lie in \[0, 1\]; the grid runs from 0\.0 to 1\.5$"
    ):
        sampling.flow_map(MAP, X, [0.0, 1.5], cond=COND)
    with pytest.raises(
        ValueError, match=r"^condition 'scale' has shape \(2,\), but the batch is 3"
    ):
        sampling.flow_map(MAP, X, grids.uniform(1), cond={"scale": jnp.ones(2)})
    with pytest.raises(TypeError, match=r"^flow_map is velocities\.flow_map itself, and not what"):
        sampling.flow_map(flow_map, X, grids.uniform(1))


MEAN, STD = 0.7, 0.4


def gaussian(s, t, x):
    """The exact map of the linear path to N(MEAN, STD^2)."""
    s, t = s[:, None], t[:, None]
    spread = lambda t: jnp.sqrt((t * STD) ** 2 + (1 - t) ** 2)  # noqa: E731
    return t * MEAN + spread(t) / spread(s) * (x - s * MEAN)


@pytest.mark.parametrize("noise", [0.4, 1.0])
def test_noise_given_back_keeps_the_law(noise, key):
    """Of an exact map, whose every step ends in the marginal: mean and covariance, |z| < 4."""
    n, keys = 20_000, jax.random.split(key, 20_000)
    x0 = jax.random.normal(jax.random.key(1), (n, 2))
    grid = jnp.array([0.0, 0.3, 0.8, 1.0])
    x = sampling.flow_map(gaussian, x0, grid, noise=noise, keys=keys, path=paths.linear()).x
    z = (np.asarray(x, float) - MEAN) / STD
    moments = np.stack([z[:, 0], z[:, 1], z[:, 0] ** 2 - 1, z[:, 1] ** 2 - 1, z[:, 0] * z[:, 1]])
    scores = moments.mean(1) * np.sqrt(n) / np.sqrt([1, 1, 2, 2, 1])
    assert np.sum(scores**2) < 25, scores  # chi-square of 5, z < 4
    plain = sampling.flow_map(gaussian, x0, grid).x
    assert not np.allclose(x, plain, atol=0.1)


def test_starting_anew_is_that_of_consistency_models(key):
    """Data of every step, joined to new noise; a sample depends on its own key alone."""
    path, keys = paths.cosine(), jax.random.split(key, 3)
    ends = lambda s, t, x: jnp.tanh(x) + t[:, None]  # noqa: E731
    x = sampling.flow_map(ends, X, [0.0, 0.6, 1.0], noise=1.0, keys=keys, path=path).x
    z = jax.vmap(lambda k: jax.random.normal(jax.random.fold_in(k, 0), (2,)))(keys)
    schedule = path.schedule
    t = jnp.float32(0.6)
    first = schedule.alpha(t) * (jnp.tanh(X) + 1) + schedule.sigma(t) * z
    np.testing.assert_allclose(x, jnp.tanh(first) + 1, rtol=1e-5)
    alone = sampling.flow_map(ends, X[1:2], [0.0, 0.6, 1.0], noise=1.0, keys=keys[1:2], path=path).x
    np.testing.assert_allclose(alone, x[1:2], rtol=1e-6)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"noise": 1.5}, r"in \[0, 1\]; got 1\.5"),
        ({"noise": 0.5}, "noise needs keys, one a sample"),
        ({"noise": 0.5, "keys": jax.random.split(jax.random.key(0), 3)}, "give path="),
        (
            {
                "noise": 0.5,
                "keys": jax.random.split(jax.random.key(0), 3),
                "path": paths.linear(),
                "grid": [1.0, 0.5, 0.0],
            },
            "let the grid rise",
        ),
    ],
)
def test_noise_that_cannot_be(given, told):
    given = dict(given)
    grid = given.pop("grid", grids.uniform(2))
    with pytest.raises(ValueError, match=told):
        sampling.flow_map(gaussian, X, grid, **given)


def test_a_velocity_is_no_flow_map_nor_the_reverse():
    with pytest.raises(TypeError, match=r"is a velocity, which leads to no other time: .*adaptive"):
        sampling.flow_map(MAP.velocity, X, grids.uniform(2), cond=COND)
    for call in (sampling.adaptive, sampling.log_prob):
        with pytest.raises(TypeError, match=r"a flow map is no velocity: .* flow_map\.velocity"):
            call(MAP, X, cond=COND)
    with pytest.raises(TypeError, match=r"a flow map is no velocity: .* flow_map\.velocity"):
        sampling.fixed_step(MAP, X, grids.uniform(2), cond=COND)

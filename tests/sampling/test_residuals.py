"""Residuals of flow maps that are known: an exact one, and ones that are off by a formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow.arrays import expand
from jaxflow.sampling import lagrangian_residual, semigroup_residual
from jaxflow.velocities import flow_map

MEAN, STD = 0.7, 0.4
T, S, R = (np.array(times) for times in ((0.0, 0.2, 0.5), (0.3, 0.2, 0.8), (0.9, 1.0, 1.0)))
X = np.array([[0.3, -1.0], [0.8, 0.1], [2.0, 0.7]])


def spread(t):
    """Standard deviation at `t` of the linear path to N(MEAN, STD^2)."""
    return jnp.sqrt((t * STD) ** 2 + (1 - t) ** 2)


def exact(t, r, x):
    t, r = expand(t, x), expand(r, x)
    return r * MEAN + spread(r) / spread(t) * (x - t * MEAN)


def average(params, t, x, *, r, key=None):
    """The average velocity of the exact map and its limit at equal times, moved by `params`."""
    a, b = expand(t, x), expand(r, x)
    divided = (STD**2 + 1) * (a + b) - 2  # (spread(r)^2 - spread(t)^2) / (r - t)
    exactly = MEAN + divided / (spread(a) + spread(b)) / spread(a) * (x - a * MEAN)
    return exactly + params * (b - a)


def rms(x):
    return np.sqrt(np.square(np.asarray(x)).reshape(len(x), -1).mean(1))


def both(X_, cond=None):
    return (
        semigroup_residual(X_, T, S, R, X, cond=cond),
        lagrangian_residual(X_, T, R, X, cond=cond),
    )


@pytest.mark.parametrize("map_", [exact, flow_map(average, 0.0)], ids=["function", "network"])
def test_the_map_of_a_flow_has_none(map_, x64):
    """In steps of any order of the times, too."""
    semigroup, lagrangian = both(map_)
    for found in (semigroup, lagrangian, semigroup_residual(map_, R, T, S, X)):
        np.testing.assert_allclose(found.error, 0.0, atol=1e-12)
        assert found.relative < 1e-12
    np.testing.assert_allclose(semigroup.scale, rms(exact(T, R, X) - X), rtol=1e-12)
    end, r = exact(T, R, X), R[:, None]
    velocity = MEAN + (r * STD**2 - (1 - r)) / spread(r) ** 2 * (end - r * MEAN)
    np.testing.assert_allclose(lagrangian.scale, rms(velocity), rtol=1e-12)


def test_a_drift_that_gathers_speed(x64):
    """X = x + h c + h^2 e, with h = r - t: v = c, so that the end moves by 2 h e too fast, and two
    steps end by 2 (r - s) (s - t) e short of one.
    """
    c, e = np.array([1.0, -2.0]), np.array([[0.5, 0.1], [1.0, -1.0], [0.0, 0.0]])
    h, n = (R - T)[:, None], np.arange(3)

    def hurried(t, r, x, *, row):
        h = (r - t)[:, None]
        return x + h * c + h**2 * jnp.asarray(e)[row]

    semigroup, lagrangian = both(hurried, {"row": n})
    np.testing.assert_allclose(semigroup.error, 2 * (R - S) * (S - T) * rms(e), atol=1e-15)
    np.testing.assert_allclose(semigroup.scale, rms(h * c + h**2 * e), rtol=1e-12)
    np.testing.assert_allclose(lagrangian.error, 2 * (R - T) * rms(e), atol=1e-15)
    np.testing.assert_allclose(lagrangian.scale, rms(np.tile(c, (3, 1))), rtol=1e-12)
    expected = np.sqrt(np.mean(semigroup.error**2) / np.mean(semigroup.scale**2))
    np.testing.assert_allclose(semigroup.relative, expected, rtol=1e-12)


def test_a_step_of_eulers(x64):
    """Two steps are off one by (r - s) times what the velocity changes on the first."""

    def v(t, x):
        return jnp.sin(3 * x) + t[:, None]

    def euler(t, r, x):
        return x + (r - t)[:, None] * v(t, x)

    semigroup, lagrangian = both(euler)
    change = v(S, euler(T, S, X)) - v(T, X)
    np.testing.assert_allclose(semigroup.error, rms((R - S)[:, None] * change), atol=1e-15)
    end = v(R, euler(T, R, X))
    np.testing.assert_allclose(lagrangian.error, rms(v(T, X) - end), rtol=1e-12)
    np.testing.assert_allclose(lagrangian.scale, rms(end), rtol=1e-12)


def test_rest_has_none_and_a_jump_from_rest_has_no_scale():
    for found in both(lambda t, r, x: x):
        assert found.relative == 0
    jump = lagrangian_residual(lambda t, r, x: x + (r - t)[:, None] ** 2, T, R, X)
    assert jump.relative == np.inf


def test_parts_count_by_their_entries():
    """One map over a state in two parts of unlike sizes, and over the same entries in one."""

    def of_parts(t, r, x):
        return jax.tree.map(lambda a: a + jnp.sin(a) * expand(r - t, a) ** 2, x)

    whole = np.arange(12.0, dtype=np.float32).reshape(3, 4)
    parts = {"a": whole[:, :1], "b": whole[:, 1:].reshape(3, 1, 3)}
    for residual, times in ((semigroup_residual, (T, S, R)), (lagrangian_residual, (T, R))):
        for field in ("error", "scale"):
            a, b = (getattr(residual(of_parts, *times, x), field) for x in (parts, whole))
            np.testing.assert_allclose(a, b, rtol=1e-6)


def test_one_trace_for_all_parameters():
    traces = []

    def counted(params, t, x, *, r, key=None):
        traces.append(None)
        return average(params, t, x, r=r)

    errors = []
    for w in (0.0, 0.5):
        learned = flow_map(counted, jnp.float32(w))
        errors.append([float(found.relative) for found in both(learned)])
        assert len(traces) == 3 + 2
    assert all(a < 1e-5 < b for a, b in zip(*errors, strict=True))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("residual", [semigroup_residual, lagrangian_residual])
@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        ({"r": np.float64(1.0)}, ValueError, r"^t has shape \(\) and x \(3, 2\): t needs one time"),
        (
            {"cond": {"y": np.ones(2)}},
            ValueError,
            r"^condition 'y' has shape \(2,\), but the batch",
        ),
        ({"flow_map": flow_map}, TypeError, r"^flow_map is velocities\.flow_map itself, and not "),
    ],
)
def test_what_is_refused(residual, change, error, told):
    given = {"flow_map": exact, "t": T, "r": R, "x": X}
    given |= {"s": S} if residual is semigroup_residual else {}
    with pytest.raises(error, match=told):
        residual(**{**given, **change})

"""Grids, and what samplers say of those they cannot take."""

import inspect

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import paths
from jaxflow.sampling import adaptive, fixed_step, grids
from jaxflow.velocities import from_network, gaussian_mixture
from tests.problems import COVARIANCES, CURVES, MEANS, points, some_fast

GRIDS = {
    "uniform": {},
    "shifted": {"shift": 3.0},
    "cosine": {},
    "karras": {},
    "flux": {"tokens": 1024},
    "beta": {},
    "linear_quadratic": {},
}
OTHERS = {"fitted"}  # of a velocity: see test_fitted


@pytest.mark.parametrize("name", GRIDS)
def test_grids(name):
    """From 0 to 1 in `n` growing steps, and a sampler takes them."""
    make = getattr(grids, name)
    for n in (3, 10):
        grid = make(n, **GRIDS[name])
        assert grid.shape == (n + 1,)
        assert grid.dtype == np.float64
        assert grid[0] == 0
        assert grid[-1] == 1
        assert np.all(np.diff(grid) > 0)
    if name != "karras":
        part = make(5, **GRIDS[name], start=0.2, stop=0.7)
        np.testing.assert_allclose(part, 0.2 + 0.5 * make(5, **GRIDS[name]))
        back = make(5, **GRIDS[name], start=1.0, stop=0.0)
        np.testing.assert_allclose(back, 1 - make(5, **GRIDS[name]), atol=1e-15)
    velocity = gaussian_mixture(
        paths.linear(), weights=np.ones(1), means=MEANS[:1], covariances=COVARIANCES[:1]
    )
    solution = fixed_step(velocity, jnp.asarray(points(2), jnp.float32), make(10, **GRIDS[name]))
    assert bool(solution.success.all())


def test_grids_are_those_of_the_papers(x64):
    """The shift acts on the noise time; Karras' steps are equal in the root of the ratio."""
    u = 1 - np.linspace(0, 1, 6)
    np.testing.assert_allclose(1 - grids.shifted(5, 3.0), 3 * u / (1 + 2 * u), atol=1e-15)
    for path in (paths.linear(), paths.cosine(), paths.vp()):
        inner = jnp.asarray(grids.karras(8, rho=7.0, path=path)[1:-1])
        ratio = path.schedule.sigma(inner) / path.schedule.alpha(inner)
        np.testing.assert_allclose(np.diff(ratio ** (1 / 7), 2), 0.0, atol=1e-10)
        np.testing.assert_allclose(ratio[jnp.array([0, -1])], [80.0, 0.002], rtol=1e-9)


@pytest.mark.parametrize(("tokens", "mu"), [(256, 0.5), (4096, 1.15), (1024, 0.63)])
def test_flux_shifts_by_the_number_of_tokens(tokens, mu):
    """The times of noise `e^mu / (e^mu + 1 / u - 1)`, with `mu` on a line through two points."""
    u = np.linspace(1, 0, 9)[1:-1]
    expected = np.exp(mu) / (np.exp(mu) + 1 / u - 1)
    np.testing.assert_allclose(1 - grids.flux(8, tokens)[1:-1], expected, rtol=1e-12)


def test_beta_times_are_quantiles():
    """In closed form for `a = b = 1/2` (arcsine) and `b = 1` (a power); mirrored by exchanging."""
    share = np.arange(8) / 7
    np.testing.assert_allclose(grids.beta(7, 0.5, 0.5), np.sin(np.pi / 2 * share) ** 2, atol=1e-14)
    np.testing.assert_allclose(grids.beta(7, 2.0, 1.0), share**0.5, atol=1e-14)
    np.testing.assert_allclose(
        1 - grids.beta(7, 0.8, 0.3)[::-1], grids.beta(7, 0.3, 0.8), atol=1e-14
    )


def test_linear_quadratic_is_that_of_movie_gen():
    """25 steps of 1000 equal ones, then 25 more whose lengths grow by as much every time."""
    grid = grids.linear_quadratic(50)
    np.testing.assert_allclose(grid[:26], np.arange(26) / 1000, atol=1e-15)
    grown = np.diff(grid[25:], 2)
    np.testing.assert_allclose(grown, grown[0], rtol=1e-9)
    # The parabola leaves the line with its slope: half a growth lies between their lengths.
    assert np.diff(grid)[25] - 1e-3 == pytest.approx(grown[0] / 2)
    np.testing.assert_allclose(grids.linear_quadratic(6, 0.5), np.arange(7) / 6, atol=1e-15)


def test_every_grid_is_in_the_table():
    assert {n for n in grids.__all__ if inspect.isfunction(getattr(grids, n))} == set(
        GRIDS
    ) | OTHERS


def falling(t, x):
    return -x


DATA = from_network(lambda p, t, x, key=None: x, None, path=paths.linear(), prediction="data")


@pytest.mark.parametrize("sampler", [fixed_step, adaptive])
@pytest.mark.parametrize(
    ("velocity", "grid", "cond", "received"),
    [
        (falling, (0.0, 0.0), {}, r"strictly decrease; got \(0\.0, 0\.0\)"),
        (falling, (0.0, 0.6, 0.5), {}, r"strictly decrease; got \(0\.0, 0\.6, 0\.5\)"),
        (falling, (0.0,), {}, r"two or more times.*; got shape \(1,\)"),
        (falling, (-0.1, 1.0), {}, r"the grid runs from -0\.1 to 1\.0"),
        (falling, (1.2, 0.0), {}, r"the grid runs from 0\.0 to 1\.2"),
        (falling, (0.0, np.nan), {}, r"strictly decrease; got \(0\.0, nan\)"),
        (DATA, (0.0, 0.99995, 1.0), {}, r"may lie beyond it, yet 0\.99995 does too"),
        (
            falling,
            (0.0, 1.0),
            {"label": jnp.ones(3)},
            r"condition 'label' has shape \(3,\), but the batch is 2",
        ),
    ],
)
def test_errors_name_what_they_got(sampler, velocity, grid, cond, received):
    with pytest.raises(ValueError, match=received):
        sampler(velocity, jnp.ones((2, 2)), grid, cond=cond)


def test_other_errors():
    with pytest.raises(TypeError, match="Kvaerno5"):
        adaptive(falling, jnp.ones((2, 2)), solver=diffrax.Kvaerno5())
    with pytest.raises(ValueError, match="pass the grid as a numpy array"):
        jax.jit(lambda grid: fixed_step(DATA, jnp.ones((2, 2)), grid))(jnp.linspace(0, 1, 3))
    mixed = np.array([[0.0, 0.0], [0.5, 0.5], [1.0, 0.9]])
    with pytest.raises(
        ValueError, match=r"the grids of a batch all end beyond it or none does; got \[1\.  0\.9\]"
    ):
        fixed_step(DATA, jnp.ones((2, 2)), mixed)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: grids.uniform(0), "^a grid needs at least one step; got n=0$"),
        (lambda: grids.cosine(-3), "^a grid needs at least one step; got n=-3$"),
        *(
            (lambda shift=shift: grids.shifted(3, shift), f"^shifted needs shift > 0; got {shift}$")
            for shift in (0.0, -2.0, np.nan, np.inf)
        ),
        (lambda: grids.flux(4, 0), "^flux needs at least one token; got 0$"),
        (lambda: grids.beta(4, 0.0), r"beta needs a > 0 and b > 0|positive"),
        (lambda: grids.beta(9, 1e-3, 1e-3), r"^beta\(n=9, a=0\.001, b=0\.001\) repeats a time"),
        (lambda: grids.linear_quadratic(1), "^linear_quadratic needs steps of both kinds; got n=1"),
        (
            lambda: grids.linear_quadratic(4, 0.6),
            r"so that steps do not shrink; got threshold=0\.6$",
        ),
        *(
            (lambda arguments=arguments: grids.karras(**arguments), f"^karras needs.*; got {got}")
            for arguments, got in [
                ({"n": 2}, "n=2, sigma_min=0.002,"),
                ({"n": 5, "sigma_min": 3.0, "sigma_max": 2.0}, "n=5, sigma_min=3.0, sigma_max=2.0"),
                ({"n": 5, "sigma_max": np.inf}, "n=5, sigma_min=0.002, sigma_max=inf"),
                ({"n": 5, "sigma_min": np.nan}, "n=5, sigma_min=nan"),
                ({"n": 5, "rho": 0.0}, "n=5, .*rho=0.0$"),
            ]
        ),
    ],
)
def test_grids_refuse_in_a_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


@pytest.mark.parametrize("name", some_fast(CURVES, ("linear", "linear(.1)", "linear_vp")))
def test_karras_meets_no_time_twice(name):
    """Where the ratio can be met, at exactly its time; samplers take every one of these grids."""
    path = CURVES[name].path
    if name in ("linear(.1)", "inverse_cosine", "ve", "edm"):  # whose ratios end within these
        with pytest.raises(ValueError, match=r"^karras\(n=7, sigma_min=0\.002.*repeats a time"):
            grids.karras(7, path=path)
        return
    low, high = path.schedule.interval
    for n in (3, 200):
        grid = grids.karras(n, path=path)
        assert np.all(np.diff(grid) > 0)
        assert low < grid[1]
        assert grid[-2] <= high
    inner = grids.karras(50, sigma_min=0.01, path=path)[1:-1]
    curve = CURVES[name]
    ratio = np.array([curve.sigma(t) / curve.alpha(t) for t in inner])
    expected = np.linspace(80.0 ** (1 / 7), 0.01 ** (1 / 7), 49) ** 7
    np.testing.assert_allclose(ratio, expected, rtol=1e-9)


@pytest.mark.parametrize("ends", [{"sigma_min": 1e-18}, {"sigma_max": 1e9, "path": paths.vp()}])
def test_karras_names_ratios_that_meet(ends):
    with pytest.raises(ValueError, match=r"^karras\(n=9, sigma_min=.*repeats a time"):
        grids.karras(9, **ends)


@pytest.mark.parametrize(("start", "stop"), [(0.1, 0.99999), (0.3, 0.9999), (0.7, 0.1), (0.2, 0.9)])
def test_ends_of_a_grid_are_met(start, stop):
    """To the bit, since a stop beyond a velocity's interval means another last step."""
    for make in (
        grids.uniform,
        grids.cosine,
        lambda *a: grids.shifted(a[0], 3.0, *a[1:]),
        lambda n, *a: grids.beta(n, 0.6, 0.6, *a),
        lambda n, *a: grids.linear_quadratic(n + 1, 0.025, None, *a),
    ):
        for n in (1, 7, 49):
            grid = make(n, start, stop)
            assert (grid[0], grid[-1]) == (start, stop)

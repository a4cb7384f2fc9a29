"""Guided fields against closed forms: classes of a mixture, and attributes that are independent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxflow import paths, velocities
from jaxflow.sampling import euler, fixed_step
from jaxflow.velocities.guidance.parts import data_rate, velocity_of_score
from tests.problems import CURVES, points, some_fast
from tests.velocities.guidances import NONE, SHARES, exact, mixture, mixtures, told

CASES = [("vp", "velocity"), *(("linear", kind) for kind in velocities.KINDS)]

T = np.tile([0.07, 0.3, 0.5, 0.8, 0.93], 4)
X = points(20)
LABEL = np.tile([0, 1, 0, 1, 1], 4)
SCALE = np.repeat([0.0, 1.0, 2.5, -1.0], 5)  # at every time
SOME = {"label": NONE}
COND = {"label": LABEL}


def grown(t):
    return 1 + 3 * t**2


@jax.jit
def sides(mixtures):
    """The velocities of all data and of each example's class."""
    return [told(mixtures, label, "__call__", T, X) for label in (0 * LABEL + NONE, LABEL)]


def unlabelled(velocity, t, x, label):
    return velocity(t, x, label=jnp.full_like(label, NONE))


@jax.jit
def call_all(guided, t, x, cond):
    return [v(t, x, **cond) for v in guided]


def check(sides, scales, *guided):
    """`(1 - s) u + s c` for each."""
    u, c = sides
    for s, found in zip(scales, call_all(guided, T, X, COND), strict=True):
        expected = (1 - s[:, None]) * u + s[:, None] * c
        np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize(("curve", "kind"), CASES)
def test_classifier_free_and_autoguidance_of_classes(curve, kind, x64):
    """Whatever the network predicts; a weak velocity that knows no class is a null."""
    path = CURVES[curve].path
    velocity = exact(path, kind)
    check(
        sides(mixtures(path)),
        [SCALE, grown(T), SCALE, SCALE],
        velocities.classifier_free(velocity, scale=SCALE, null=SOME),
        velocities.classifier_free(velocity, scale=grown, null=SOME),
        velocities.composed(velocity, scales={"label": SCALE}, null=SOME),
        velocities.autoguidance(velocity, Partial(unlabelled, velocity), scale=SCALE),
    )


def log_share(mixtures, t, x, label):
    """`log p(class | x_t)` by Bayes' rule."""
    mine, every = (told(mixtures, y, "log_prob", t, x) for y in (label, 0 * label + NONE))
    return jnp.log(SHARES)[label] + mine - every


@pytest.mark.parametrize("curve", some_fast(CURVES))
def test_a_classifier_makes_the_velocity_of_its_class(curve, x64):
    """At scale 1 exactly; at others on the line through both velocities."""
    path = CURVES[curve].path
    classifier = Partial(log_share, mixtures(path))
    guided = velocities.guided_by(mixture(path, NONE), classifier, scale=SCALE, withheld=("label",))
    check(sides(mixtures(path)), [SCALE], guided)
    assert guided.evaluations == 1


@pytest.mark.parametrize("curve", CURVES)
def test_rates_are_those_of_conversions(curve, x64):
    """How a conversion answers to a change of what is converted; and by the schedule's letters."""
    it, t, x = CURVES[curve], jnp.asarray(T[:5]), jnp.asarray(X[:5])
    a, s, a_dot, s_dot = (
        np.array([f(v) for v in T[:5]]) for f in (it.alpha, it.sigma, it.alpha_dot, it.sigma_dot)
    )
    cases = [
        (data_rate, "velocity", "data", -s / (a * s_dot - s * a_dot)),
        (velocity_of_score, "score", "velocity", -s * (a * s_dot - s * a_dot) / a),
    ]

    @jax.jit
    def read(t, x):
        found = []
        for rate, source, target, _ in cases:

            def convert(value, source=source, target=target):
                return velocities.convert(value, t, x, path=it.path, source=source, target=target)

            _, slope = jax.jvp(convert, (x,), (jnp.ones_like(x),))
            found.append((rate(it.path, t, x), slope))
        return found

    for (found, slope), (*_, expected) in zip(read(t, x), cases, strict=True):
        found = np.asarray(found)
        np.testing.assert_allclose(found * np.ones((5, 2)), slope, rtol=1e-9)
        np.testing.assert_allclose(found[:, 0], expected, rtol=1e-9)


def test_conditions_that_are_independent_given_the_point_compose(x64):
    """Two attributes, each of its own coordinate: at scales 1 the velocity given both."""
    path, t, x = paths.cosine(), T[:5], X[:5]
    a, b = np.array([0, 1, 1, 0, 1]), np.array([1, 1, 0, 0, 1])
    every = [
        velocities.gaussian_mixture(
            path, weights=np.full(2, 0.5), means=np.array(means), covariances=np.full(2, 0.2)
        )
        for means in ([[0.0], [0.0]], [[1.0], [1.0]], [[0.0], [1.0]])  # the last is told nothing
    ]
    every = jax.tree.map(lambda *a: jnp.stack(a), *every)

    def flow(t, x, a, b):
        each = [told(every, y, "__call__", t, x[:, i : i + 1]) for i, y in enumerate((a, b))]
        return jnp.concatenate(each, axis=1)

    none = 0 * a + NONE
    null = {"a": NONE, "b": NONE}
    weights = {"a": np.linspace(0, 2, 5), "b": grown}
    both, weighted = (
        velocities.composed(flow, scales=scales, null=null)
        for scales in ({"a": 1.0, "b": 1.0}, weights)
    )
    assert both.evaluations == 3
    found = call_all((both, weighted), t, x, {"a": a, "b": b})
    pairs = ((none, none), (a, none), (none, b), (a, b))
    run = jax.jit(flow)
    base, first, second, whole = (np.asarray(run(t, x, *pair)) for pair in pairs)
    np.testing.assert_allclose(found[0], whole, atol=1e-10)
    expected = base + weights["a"][:, None] * (first - base)
    expected = expected + grown(t)[:, None] * (second - base)
    np.testing.assert_allclose(found[1], expected, atol=1e-10)


def test_guidance_in_an_interval_alone(x64):
    """From its first time on to before its last, or to the end; the conditional field elsewhere."""
    velocity = velocities.as_velocity(lambda t, x, label: x * (1 + label[:, None]))
    t, x, cond = jnp.array([0.1, 0.25, 0.5, 0.75, 1.0]), X[:5], {"label": LABEL[:5]}
    guided = [
        velocities.classifier_free(velocity, scale=3.0, null=SOME, interval=interval)
        for interval in ((0.0, 1.0), (0.25, 0.75), (0.0, 0.5), (0.5, 1.0))
    ]
    full, within, early, late, alone = call_all([*guided, velocity], t, x, cond)
    assert not np.any(np.isclose(full, alone))
    for found, guided in (
        (within, [0, 1, 1, 0, 0]), (early, [1, 1, 0, 0, 0]), (late, [0, 0, 1, 1, 1])
    ):  # fmt: skip
        np.testing.assert_array_equal(found, np.where(np.array(guided)[:, None], full, alone))


def test_a_solve_in_pieces_saves_what_an_interval_does_not(x64):
    """Euler's steps through an interval are those of three solves, at fewer calls of a network."""
    path = paths.linear()
    velocity = exact(path)
    x, cond = jnp.asarray(X[:5]), {"label": LABEL[:5]}
    grid = np.linspace(0, 1, 9)
    guided = velocities.classifier_free(velocity, scale=3.0, null=SOME)
    at_once = velocities.classifier_free(velocity, scale=3.0, null=SOME, interval=(0.25, 0.75))
    whole = fixed_step(at_once, x, grid, method=euler(), cond=cond)
    calls = 0
    for field, piece in ((velocity, grid[:3]), (guided, grid[2:7]), (velocity, grid[6:])):
        solution = fixed_step(field, x, piece, method=euler(), cond=cond)
        x, calls = solution.x, calls + int(solution.nfe[0]) * field.evaluations
    np.testing.assert_allclose(whole.x, x, atol=1e-12)
    assert int(whole.nfe[0]) * at_once.evaluations == 16
    assert calls == 12

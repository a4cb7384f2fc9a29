"""Every guidance of every kind of prediction: neutral scales, times, parts, devices and costs."""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import paths, velocities
from jaxflow.arrays import expand
from jaxflow.sampling import adaptive, euler, fixed_step, grids
from jaxflow.training import layout
from jaxflow.velocities import guidance
from tests.velocities.guidances import (
    EVALUATIONS,
    FACTORY,
    GUIDANCES,
    PATH,
    PER_EVENT,
    call,
)

T = jnp.array([0.0, 0.3, 0.7, 1.0])
X = jax.random.normal(jax.random.key(0), (4, 3, 2))
LABEL = {"label": jnp.array([1.0, -2.0, 0.5, 3.0])}


def network(params, t, x, *, key=None, label):
    """Of one array, at a time a sample or a frame; or of parts, each by itself."""
    if isinstance(x, dict):
        times = t if isinstance(t, dict) else dict.fromkeys(x, t)
        return {k: network(params, times[k], a, label=label) for k, a in x.items()}
    return params * jnp.tanh(x) * expand(label, x) + expand(jnp.sin(t), x) + 0.1 * x


def learned(kind="velocity", path=PATH):
    return velocities.from_network(network, jnp.asarray(0.8), path=path, prediction=kind)


def test_every_factory_is_in_the_table():
    public = {n for n in guidance.__all__ if inspect.isfunction(getattr(guidance, n))}
    public.remove("at_scale")  # of a network: in the table of test_contract
    public -= {"geometric", "tilted"}  # of tokens: in tests/sampling/test_jumps.py
    rules = public - {*FACTORY.values()}
    assert public <= {*GUIDANCES, *FACTORY.values()}
    assert rules <= {*GUIDANCES}
    assert set(guidance.__all__) <= set(velocities.__all__)


@jax.jit
def read(guided, velocity, t, x, cond):
    """Both fields, and the gradients of the guided one."""

    def total(t, x):
        v = guided(t, x, **cond)
        return jnp.sum(v), v

    gradients, v = jax.grad(total, argnums=(0, 1), has_aux=True)(t, x)
    return v, gradients, velocity(jnp.clip(t, *guided.interval), x, **cond)


@pytest.mark.parametrize("kind", velocities.KINDS)
@pytest.mark.parametrize("name", GUIDANCES)
def test_of_every_kind(name, kind, x64):
    """Not there at its neutral scale, there at another, finite with its gradients at the ends."""
    t, x = jnp.asarray(T, float), jnp.asarray(X, float)
    velocity = learned(kind)
    neutral, guided = (GUIDANCES[name](velocity, s) for s in (1.0, 3.0))
    assert guided.evaluations == EVALUATIONS[name]
    assert guided.path == PATH
    found, _, plain = read(neutral, velocity, t, x, LABEL)
    inside = slice(1, 3) if name in ("thresholded", "dynamic") else slice(None)
    np.testing.assert_allclose(found[inside], plain[inside], rtol=1e-12, atol=1e-12)
    found, gradients, plain = read(guided, velocity, t, x, LABEL)
    assert all(np.isfinite(a).all() for a in jax.tree.leaves((found, gradients)))
    assert not np.allclose(found[1], plain[1])


PRODUCT = {"a": PATH, "b": paths.vp()}
TRIED = jnp.array([0.1, 0.3, 0.7, 0.9])
FRAMES = jnp.broadcast_to(TRIED[:, None], (4, 3))
OWN = FRAMES * jnp.array([0.5, 0.8, 1.0])


def of_time(t):
    return 1 + 2 * t


@pytest.mark.parametrize("name", GUIDANCES)
def test_times_of_frames_scales_of_samples_and_parts(name, x64):
    def guided(scale=of_time, path=PATH):
        return GUIDANCES[name](learned(path=path), scale)

    @jax.jit
    def everything(t, frames, own, x, label):
        cond = {"label": label}
        parts = {"a": x, "b": 2 * x[:, :, 0]}
        flat = own.ravel(), x.reshape(12, 2)
        both = guided(path=paths.product(PRODUCT))
        times = {"a": t, "b": t / 2}
        return {
            "plain": guided()(t, x, **cond),
            "of the frames": guided()(frames, x, **cond),
            "a sample": guided(of_time(t))(t, x, **cond),
            "own": guided()(own, x, **cond),
            "flat": guided()(*flat, label=jnp.repeat(label, 3)).reshape(x.shape),
            "parts": both(t, parts, **cond)["b"],
            "parts at their own": both(times, parts, **cond),
            "each": guided(path=PRODUCT["b"])(t, parts["b"], **cond),
            "each at its own": {
                k: guided(path=p)(times[k], parts[k], **cond) for k, p in PRODUCT.items()
            },
        }

    double = [jnp.asarray(a, float) for a in (TRIED, FRAMES, OWN, X, LABEL["label"])]
    found = everything(*double)
    assert found["own"].shape == X.shape

    def same(a, b):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12),
            found[a],
            found[b],
        )

    same("of the frames", "plain")
    same("a sample", "plain")
    same("parts", "each")
    same("parts at their own", "each at its own")
    if name not in PER_EVENT:
        same("own", "flat")


@pytest.mark.parametrize("name", GUIDANCES)
def test_no_row_of_a_sharded_batch_moves(name):
    sharding = jax.sharding.NamedSharding(layout().mesh, jax.sharding.PartitionSpec("data"))
    guided = GUIDANCES[name](learned(), jnp.linspace(0.0, 2.0, 16))
    if FACTORY[name] != "thresholded":
        assert any(jnp.shape(leaf) == (16,) for leaf in jax.tree.leaves(guided))
    put = jax.device_put((jnp.ones(16), jnp.ones((16, 3, 2)), {"label": jnp.ones(16)}), sharding)
    text = call.lower(guided, *put).compile().as_text()
    assert "num_partitions=8" in text
    assert not re.search("collective-permute|all-gather|all-to-all|all-reduce", text)


@pytest.mark.parametrize("name", GUIDANCES)
def test_evaluations_are_the_calls_that_are_made(name):
    """Rows that the network is called with, a sample."""
    seen = []

    def counted(params, t, x, *, key=None, label):
        seen.append(len(x))
        return network(params, t, x, label=label)

    velocity = velocities.from_network(counted, jnp.float32(0.8), path=PATH)
    guided = GUIDANCES[name](velocity, 2.0)
    jax.eval_shape(lambda: guided(T, X, **LABEL))
    assert sum(seen) == len(X) * guided.evaluations


def test_calls_of_a_solve_are_those_that_the_host_counts():
    """Outside the interval of guidance too."""
    seen = []

    def counted(params, t, x, *, key=None, label):
        jax.debug.callback(lambda _: seen.append(len(x)), x)
        return network(params, t, x, label=label)

    velocity = velocities.from_network(counted, jnp.float32(0.8), path=PATH)
    guided = velocities.classifier_free(
        velocity, scale=2.0, null={"label": 0.0}, interval=(0.4, 0.6)
    )
    solution = fixed_step(guided, X, grids.uniform(3), cond=LABEL)
    jax.effects_barrier()
    assert sum(seen) == int(jnp.sum(solution.nfe)) * guided.evaluations == 4 * 6 * 2


def test_samples_that_are_solved_each_by_itself():
    """Several guidances within each other, solved per sample."""
    guided = GUIDANCES["guided_by"](GUIDANCES["projected"](learned(), 1.5), 1.5)
    found = adaptive(guided, X, (0.2, 1.0), rtol=1e-4, atol=1e-4, cond=LABEL)
    assert found.success.all()
    fixed = fixed_step(guided, X, np.linspace(0.2, 1, 401), method=euler(), cond=LABEL)
    np.testing.assert_allclose(found.x, fixed.x, rtol=1e-2, atol=1e-2)


def narrow(t, x, label):
    return 0.5 * network(0.8, t, x, label=label)


narrow.interval = (0.2, 0.9)


def test_beyond_the_interval_of_either_it_stands_still(x64):
    """Both fields, and a scale of time, are those of the nearer end."""
    for make in (GUIDANCES["classifier_free"], GUIDANCES["composed"]):
        guided = make(velocities.as_velocity(narrow), of_time)
        both = velocities.autoguidance(learned(), narrow, scale=of_time)
        for velocity in (guided, both):
            assert velocity.interval == narrow.interval
            found, ends = (
                call(velocity, np.array(t), X, LABEL)
                for t in ([0.0, 0.5, 0.9, 1.0], [0.2, 0.5, 0.9, 0.9])
            )
            np.testing.assert_array_equal(found, ends)
    with pytest.raises(ValueError, match="share no time"):
        velocities.autoguidance(narrow, velocities.as_velocity(early), scale=2.0)


def early(t, x, label):
    return x


early.interval = (0.0, 0.2)


def test_new_numbers_do_not_retrace():
    """Scales, intervals and the numbers of a rule are arguments of the program."""
    traces = []

    @jax.jit
    def run(v, t, x, cond):
        traces.append(None)
        return v(t, x, **cond)

    for k in (1, 2):
        for rule in (
            velocities.rescaled(k / 4),
            velocities.projected(k / 4, norm=float(k)),
            velocities.frequency_decoupled(k / 4, width=float(k)),
            velocities.magnitude_aware(float(k)),
        ):
            run(
                velocities.classifier_free(
                    learned(), scale=float(k), null={"label": 0.0}, rule=rule,
                    interval=(k / 10, 0.5),
                ),
                T, X, LABEL,
            )  # fmt: skip
        run(velocities.thresholded(learned(), bound=k / 2, percentile=80.0 + k), T, X, LABEL)
    assert len(traces) == 5


def test_guidance_of_guidance_counts_and_composes(x64):
    """Thresholds around projected classifier-free guidance of a strong and a weak network."""
    velocity = learned()
    twice = velocities.autoguidance(
        velocities.classifier_free(velocity, scale=2.0, null={"label": 0.0}), velocity, scale=1.5
    )
    assert twice.evaluations == 3
    whole = velocities.thresholded(twice, bound=0.5)
    assert whole.evaluations == 3
    t, x = jnp.asarray(T, float)[1:3], jnp.asarray(X, float)[1:3]
    label = LABEL["label"][1:3]

    @jax.jit
    def both(twice, whole):
        given, none = (velocity(t, x, label=a) for a in (label, 0 * label))
        mean = velocities.posterior_mean(whole, t, x, label=label)
        return given, none, twice(t, x, label=label), mean

    given, none, found, mean = both(twice, whole)
    np.testing.assert_allclose(found, given + 1.5 * (none + 2 * (given - none) - given), rtol=1e-12)
    assert np.abs(mean).max() <= 0.5 + 1e-12


def pathless(t, x, label):
    return x


def free(**kwargs):
    return velocities.classifier_free(pathless, **{"scale": 2.0, "null": {"label": 0}, **kwargs})


WRONG = {
    "an interval of other times": (lambda: free(interval=(0.2, 1.2)), "0 <= low < high <= 1"),
    "an empty interval": (lambda: free(interval=(0.5, 0.5)), r"is \(0.5, 0.5\)"),
    "a rule without a path": (lambda: free(rule=velocities.projected()), "path=..."),
    "a rule that is none": (lambda: free(rule=velocities.rescaled), r"rescaled\(\.\.\.\)"),
    "a rule of another shape": (
        lambda: free(rule=lambda t, x, a, b, s: a[0])(T, X, **LABEL),
        r"the rule of guidance returns shape \(3, 2\)",
    ),
    "a scale of events": (lambda: free(scale=jnp.ones((4, 3))), r"shape \(4, 3\): give one number"),
    "a scale of more than time": (
        lambda: free(scale=lambda t: jnp.ones((4, 3)))(T, X, **LABEL),
        "function of t alone",
    ),
    "a null of another condition": (
        lambda: velocities.composed(pathless, scales={"a": 1.0}, null={"a": 0})(T, X, **LABEL),
        r"the conditions are \['label'\]",
    ),
    "a null of another shape": (
        lambda: free(null={"label": jnp.zeros(3)})(T, X, **LABEL),
        "a value for one example",
    ),
    "a scale without a null": (
        lambda: velocities.composed(pathless, scales={"lable": 1.0}, null={"label": 0}),
        "did you mean 'label'",
    ),
    "a null without a scale": (
        lambda: velocities.composed(pathless, scales={"a": 1.0}, null={"a": 0, "b": 0}),
        "a null of composed guidance is 'b'",
    ),
    "no scale": (
        lambda: velocities.composed(pathless, scales={}, null={}), "as {'label': 2.0}"
    ),
    "a weak velocity of another path": (
        lambda: velocities.autoguidance(learned(), learned(path=paths.vp()), scale=2.0),
        "velocities.change_path",
    ),
    "a gradient without a path": (
        lambda: velocities.guided_by(pathless, lambda t, x: x), "give path=..."
    ),
    "a gradient of numbers": (
        lambda: velocities.guided_by(learned(), lambda t, x, label: jnp.sum(x))(T, X, **LABEL),
        r"log_prob returns shape \(\) for a batch of 4",
    ),
    "a withheld condition that is missing": (
        lambda: velocities.guided_by(learned(), pathless, withheld=("text",))(T, X, **LABEL),
        "withholds the condition 'text'",
    ),
    "thresholds without a path": (lambda: velocities.thresholded(pathless), "give path=..."),
    "a bound of zero": (lambda: velocities.thresholded(learned(), bound=0.0), "got 0.0"),
    "a percentile of more": (
        lambda: velocities.thresholded(learned(), percentile=101.0), "got 101.0"
    ),
    "a share of more": (lambda: velocities.rescaled(1.5), r"in \[0, 1\]; got 1.5"),
    "a time of more": (lambda: velocities.zero_star(2.0), r"in \[0, 1\]; got 2.0"),
    "a negative share of low frequencies": (
        lambda: velocities.frequency_decoupled(-0.1), "got low=-0.1, width=1.5"
    ),
    "an infinite blur": (
        lambda: velocities.frequency_decoupled(width=np.inf), "got low=0.5, width=inf"
    ),
    "a negative rate": (lambda: velocities.magnitude_aware(-1.0), "got -1.0"),
    "a norm of zero": (lambda: velocities.projected(norm=0.0), "got 0.0"),
}  # fmt: skip


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", WRONG)
def test_refusals(name):
    """One sentence, with what was given and what to do."""
    make, told = WRONG[name]
    with pytest.raises((TypeError, ValueError), match=told) as error:
        make()
    assert "\n" not in str(error.value)

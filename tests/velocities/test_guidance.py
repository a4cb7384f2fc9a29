"""Classifier-free guidance: one doubled call, and its ends of the scale."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow.sampling import adaptive, fixed_step, grids
from jaxflow.training import layout
from jaxflow.velocities import at_scale, classifier_free, from_network


def network(params, t, x, *, key=None, label, other):
    return params * x * label[:, None] + other[:, None] + t[:, None]


T, X = jnp.array([0.2, 0.7, 1.0]), jnp.arange(6.0).reshape(3, 2)
COND = {"label": jnp.array([1, 2, 3]), "other": jnp.array([0.5, 0.5, 1.0])}
VELOCITY = from_network(network, jnp.float32(0.3))


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_combination(scale):
    """`w = 0` ignores the condition, `w = 1` obeys it, and both sides keep what has no null."""
    null = {**COND, "label": jnp.full(3, 10)}
    conditional, unconditional = VELOCITY(T, X, **COND), VELOCITY(T, X, **null)
    guided = classifier_free(VELOCITY, scale=scale, null={"label": 10})
    expected = unconditional + scale * (conditional - unconditional)
    np.testing.assert_allclose(guided(T, X, **COND), expected, rtol=1e-6)
    assert guided.evaluations == 2
    assert guided.interval == VELOCITY.interval
    assert guided.path is VELOCITY.path


def test_a_scale_a_sample():
    """Square, so that broadcasting over the last axis would pass unseen."""
    t, x, cond = T[:2], X[:2, :2], {k: v[:2] for k, v in COND.items()}
    scale = jnp.array([0.0, 3.0])
    guided = classifier_free(VELOCITY, scale=scale, null={"label": 10})
    each = [classifier_free(VELOCITY, scale=s, null={"label": 10})(t, x, **cond) for s in scale]
    np.testing.assert_allclose(guided(t, x, **cond), [each[0][0], each[1][1]], rtol=1e-6)
    with pytest.raises(ValueError, match="per_sample=False"):
        adaptive(guided, x, cond=cond)
    assert adaptive(guided, x, cond=cond, per_sample=False).success.all()


def test_nested_conditions_and_nulls_of_one_example():
    """Nulls are trees too; samples of parts are guided part by part."""

    def parted(t, x, text):
        shift = jnp.sum(text["tokens"] * text["mask"], axis=1)[:, None]
        return {"a": x["a"] * shift, "b": x["b"] - shift}

    text = {"tokens": jnp.arange(6.0).reshape(3, 2), "mask": jnp.ones((3, 2), bool)}
    null = {"tokens": np.array([1.0, 2.0]), "mask": np.array([True, False])}
    x = {"a": X, "b": X[:, :1]}
    without = {"tokens": jnp.array([[1.0, 2.0]] * 3), "mask": jnp.array([[True, False]] * 3)}
    given, ignored = parted(T, x, text), parted(T, x, without)
    guided = classifier_free(parted, scale=3.0, null={"text": null})(T, x, text=text)
    for k in x:
        np.testing.assert_allclose(guided[k], ignored[k] + 3 * (given[k] - ignored[k]), rtol=1e-6)


def test_a_sharded_batch_stays_where_it_is():
    """No row moves between devices: twins lie side by side."""
    sharding = jax.sharding.NamedSharding(layout().mesh, jax.sharding.PartitionSpec("data"))
    guided = classifier_free(VELOCITY, scale=2.0, null={"label": 10})
    t, x = jnp.ones(16), jnp.ones((16, 2))
    put = jax.device_put((t, x, {"label": t, "other": t}), sharding)
    text = jax.jit(lambda v, t, x, c: v(t, x, **c)).lower(guided, *put).compile().as_text()
    assert not re.search("collective-permute|all-gather|all-to-all|all-reduce", text)


def test_a_new_scale_does_not_retrace():
    traces = []

    @jax.jit
    def run(v, t, x, cond):
        traces.append(None)
        return v(t, x, **cond)

    for scale in (1.0, 2.0):
        run(classifier_free(VELOCITY, scale=scale, null={"label": 10}), T, X, COND)
    assert len(traces) == 1


def test_through_samplers():
    guided = classifier_free(VELOCITY, scale=2.0, null={"label": 10})
    a = fixed_step(guided, X, grids.uniform(40), cond=COND)
    b = adaptive(guided, X, cond=COND)
    np.testing.assert_allclose(a.x, b.x, rtol=1e-2, atol=1e-3)
    assert a.nfe.tolist() == [80] * 3


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ((0.5,), r"^at_scale needs scale >= 1, .* got 0\.5"),
        ((2.0, (0.6, 0.9)), r"interval of guidance is \(0\.6, 0\.9\), but draws\.guidance teaches"),
        ((2.0, (0.1, 0.4)), r"those that begin by 1/2 and end after it"),
        ((2.0, (0.5, 0.5)), r"needs 0 <= low < high <= 1"),
    ],
)
def test_a_scale_that_was_not_learned(given, sentence):
    with pytest.raises(ValueError, match=sentence):
        at_scale(lambda params, t, x, *, key=None, guidance: x, *given)


def test_errors():
    with pytest.raises(ValueError, match=r"^classifier_free needs the null value of a condition"):
        classifier_free(VELOCITY, scale=1.0, null={})
    guided = classifier_free(VELOCITY, scale=1.0, null={"lable": 10})
    sentence = (
        r"^guidance has a null value for 'lable', but the conditions are \['label', 'other'\]"
    )
    with pytest.raises(ValueError, match=sentence):
        guided(T, X, **COND)
    with pytest.raises(ValueError, match=r"^the scale of guidance has shape \(3, 1\): give one"):
        classifier_free(VELOCITY, scale=jnp.ones((3, 1)), null={"label": 10})
    two = classifier_free(VELOCITY, scale=jnp.ones(2), null={"label": 10})
    with pytest.raises(
        ValueError, match=r"^the scale of .* shape \(2,\), and the batch is 3: give"
    ):
        two(T, X, **COND)

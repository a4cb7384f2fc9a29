"""A learned weight over time: its minimum is the logarithm of the loss at each time."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxflow import draws, losses, paths, training

PATH = paths.linear()


def network(params, t, x, *, key=None):
    return params * x


def uncertainty(params, t):
    """One number for each tenth of the time."""
    return params[jnp.clip((10 * t).astype(int), 0, 9)]


LOSS = losses.learned_uncertainty(losses.flow_matching(network, PATH), uncertainty)


def test_the_gradient_vanishes_where_the_uncertainty_is_the_loss(key, x64):
    """And there every example's gradient is that of its share; at zero the loss is as it was."""
    batch = jax.jit(draws.standard(PATH).__call__)(key, {"x1": jax.random.normal(key, (400, 2))})
    params = jnp.asarray(0.3)
    plain = jax.jit(losses.flow_matching(network, PATH).__call__)
    per_example = plain(params, None, batch)[1]["per_example"]
    bins = np.clip((10 * np.asarray(batch["t"])).astype(int), 0, 9)
    means = [np.mean(np.asarray(per_example)[bins == b]) for b in range(10)]
    of_bins = np.asarray(means)[bins]
    both = {"network": params, "uncertainty": jnp.log(jnp.asarray(means))}
    loss = jax.jit(jax.value_and_grad(LOSS.__call__, has_aux=True))
    gradient = loss(both, None, batch)[1]
    np.testing.assert_allclose(gradient["uncertainty"], 0.0, atol=1e-14)
    shares = jax.jit(
        jax.grad(lambda p: jnp.mean(plain(p, None, batch)[1]["per_example"] / of_bins))
    )
    weighed = shares(params)
    np.testing.assert_allclose(gradient["network"], weighed, rtol=1e-12)
    zero = {"network": params, "uncertainty": jnp.zeros(10)}
    (value, told), _ = loss(zero, None, batch)
    np.testing.assert_allclose(value, told["unweighted"])
    np.testing.assert_allclose(told["per_example"], per_example)


def test_it_trains_beside_the_network(key):
    """Through a program, on whatever devices there are."""
    run = training.program(
        training.trainer(LOSS, optax.sgd(0.1), draw=draws.standard(PATH)),
        layout=training.layout("fsdp"),
    )
    state = run.init({"network": jnp.asarray(0.0), "uncertainty": jnp.zeros(16)}, key)
    state, metrics = run.step(state, run.place({"x1": jnp.ones((8, 2))}))
    assert np.any(np.asarray(state.params["uncertainty"]) != 0)
    assert np.isfinite(metrics["unweighted"])


@pytest.mark.parametrize(
    ("params", "loss", "words"),
    [
        ({"network": 0.0}, LOSS, r"\"uncertainty\": \.\.\.\}; got \['network'\]"),
        (
            {"network": 0.0, "uncertainty": jnp.zeros(1)},
            losses.learned_uncertainty(losses.flow_matching(network, PATH), lambda p, t: p),
            r"got \(1,\) for times \(4,\)",
        ),
        (
            {"network": 0.0, "uncertainty": jnp.zeros(10)},
            losses.learned_uncertainty(lambda *_: (jnp.zeros(()), None), uncertainty),
            "tell its examples apart",
        ),
    ],
)
def test_wrong_uses_are_one_sentence(params, loss, words, key):
    batch = draws.standard(PATH)(key, {"x1": jnp.ones((4, 2))})
    with pytest.raises(ValueError, match=words):
        loss(params, None, batch)

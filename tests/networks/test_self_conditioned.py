"""A network that reads its own estimate: as a flow, in training, and its coins."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxflow import draws, losses, networks, paths, sampling, sources, training, velocities
from jaxflow.networks.layers import beside
from jaxflow.types import Network
from tests.networks.small import SMALL, compiled, inputs, perturbed

PATH = paths.linear()
X = jax.random.normal(jax.random.key(0), (4, 2))
T = jnp.linspace(0.2, 0.8, 4)


def linear(params, t, x, *, key=None, estimate):
    """`A x + B y` of the point and the estimate."""
    a, b = params
    return x @ a.T + estimate @ b.T


PARAMS = jnp.array([[[-0.5, 0.2], [0.1, 0.3]], [[0.4, 0.1], [-0.2, 0.5]]])
NETWORK = networks.self_conditioned(networks.function(linear))


def test_as_a_flow_it_is_both_passes_with_their_whole_gradient(x64):
    """The velocity `(A + B A) x`, whose flow and density are known, at two calls each."""
    a, b = np.asarray(PARAMS, float)
    matrix, x = a + b @ a, jnp.asarray(X, float)
    velocity = velocities.from_network(NETWORK, jnp.asarray(PARAMS, float), path=PATH)
    assert isinstance(NETWORK, Network)
    assert velocity.evaluations == 2
    np.testing.assert_allclose(velocity(T, x), x @ matrix.T, rtol=1e-12)
    found = sampling.log_prob(velocity, x, rtol=1e-9, atol=1e-9)
    start = x @ jax.scipy.linalg.expm(-matrix).T
    expected = sources.normal().log_prob(start) - np.trace(matrix)
    np.testing.assert_allclose(found.value, expected, rtol=1e-7)


def test_guided_it_makes_four_calls():
    def seen(params, t, x, *, key=None, label, estimate):
        rows.append(len(x))
        return label[:, None] * x + estimate

    rows = []
    velocity = velocities.from_network(networks.self_conditioned(seen), None)
    guided = velocities.classifier_free(velocity, scale=2.0, null={"label": 0.0})
    found = guided(T, X, label=jnp.ones(4))
    np.testing.assert_allclose(found, 2 * 2 * X, rtol=1e-6)
    assert guided.evaluations == 4
    assert sum(rows) == 4 * len(X)


def test_in_training_the_first_pass_has_a_coin_and_no_gradient(x64):
    """Against the loss of the second pass, whose estimate is a constant."""
    params, x = jnp.asarray(PARAMS, float), jnp.asarray(X, float)
    batch = {"x0": x, "x1": 2 * x[::-1], "t": T, "cond": {}}
    loss = losses.flow_matching(NETWORK, PATH)
    coins = jnp.array([True, False, False, True])
    point = PATH(T, batch["x0"], batch["x1"]).x
    estimate = jnp.where(coins[:, None], point @ params[0].T, 0)

    def second(params, t, x, *, key=None):
        return linear(params, t, x, estimate=estimate)

    def value(loss, cond):
        drawn = {**batch, "cond": cond}
        return jax.value_and_grad(lambda p: loss(p, None, drawn)[0])(params)

    found = value(loss, {"estimated": coins})
    expected = value(losses.flow_matching(second, PATH), {})
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), found, expected)


def test_coins_are_one_an_example():
    n = 4000
    batch = {"x1": jnp.zeros((n, 1)), "cond": {"label": jnp.zeros(n)}}
    for rate in (0.0, 0.3, 1.0):
        cond = draws.self_condition(rate)(jax.random.key(0), batch)["cond"]
        assert cond["label"] is batch["cond"]["label"]
        coins = np.asarray(cond["estimated"])
        assert coins.shape == (n,)
        spread = np.sqrt(rate * (1 - rate) / n) or 1e-12
        assert abs(coins.mean() - rate) / spread < 4
    with pytest.raises(ValueError, match=r"^self_condition needs a rate in \[0, 1\]; got 1.5"):
        draws.self_condition(1.5)


class Both(nn.Module):
    """A perceptron of a point and its estimate."""

    @nn.compact
    def __call__(self, t, x, estimate):
        h = nn.Dense(32)(jnp.concatenate([x, estimate, t[:, None]], -1))
        return nn.Dense(x.shape[-1])(nn.silu(h))


def test_a_module_trains_by_a_usual_loss():
    """On data of one point: what was learned brings samples there."""
    network = networks.self_conditioned(networks.linen(Both()))
    x1 = jnp.full((64, 2), 0.5)
    draw = draws.chain(draws.standard(PATH), draws.self_condition())
    params = network.init(jax.random.key(0), jnp.zeros(64), x1)
    loss = losses.flow_matching(network, PATH)
    run = training.program(training.trainer(loss, optax.adam(1e-2), draw=draw, microbatches=2))
    _, metrics = run.steps(run.init(params, jax.random.key(1)), lambda step: {"x1": x1}, 100)
    assert metrics["loss"][-10:].mean() < 0.3 * metrics["loss"][:5].mean()


@pytest.mark.parametrize("name", ["unet", "dit"])
def test_image_networks_read_an_estimate_beside_the_image(name):
    """As a network of twice the channels reads both; without one they are as they were."""
    module, event = SMALL[name]
    t, x, cond = inputs(name)
    linen, network = networks.linen(module), compiled(module)[0]
    seen = 0.3 * jax.random.normal(jax.random.key(7), x.shape)
    params = perturbed(linen.init(jax.random.key(1), t, x, estimate=seen, **cond))
    wider = compiled(module.clone(out_channels=event[-1]))[0]
    both = wider(params, t, jnp.concatenate([x, seen], -1), cond)
    found = network(params, t, x, {**cond, "estimate": seen})
    np.testing.assert_allclose(found, both, rtol=1e-6, atol=1e-6)
    first = network(params, t, x, {**cond, "estimate": jnp.zeros_like(x)})
    again = network(params, t, x, {**cond, "estimate": first})
    twice = jax.jit(networks.self_conditioned(linen))(params, t, x, **cond)
    np.testing.assert_allclose(twice, again, rtol=1e-5, atol=1e-5)
    assert np.abs(again - first).max() > 1e-3


def test_an_estimate_of_another_size_is_told():
    with pytest.raises(ValueError, match="differs in channels at most"):
        beside(jnp.ones((2, 4, 4, 3)), jnp.ones((2, 4, 2, 3)))


def test_tokens_by_the_logits_of_the_first_pass():
    """Without a coin the estimate is even; with one the second pass reads what the first said."""
    module = networks.Transformer(5, width=8, depth=1, heads=2, condition=8)
    inner, x = networks.linen(module), jnp.arange(24).reshape(4, 6) % 6
    network = networks.self_conditioned(inner)
    params = perturbed(network.init(jax.random.key(0), T, x))
    first = inner(params, T, x, estimate=jnp.zeros((4, 6, 5)))
    second = inner(params, T, x, estimate=first)
    np.testing.assert_allclose(network(params, T, x), second, rtol=1e-6)
    assert np.max(abs(first - second)) > 1e-4
    coins = jnp.array([True, False, True, False])
    found = network(params, T, x, estimated=coins)
    wanted = jnp.where(coins[:, None, None], second, first)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    path, keys = paths.mixture(source=sources.mask(5)), jax.random.split(jax.random.key(1), 4)
    logits = velocities.from_network(network, params)
    start, grid = path.source.sample(keys, (6,)), sampling.grids.uniform(3)
    made = sampling.jumps(logits, start, grid, keys=keys, path=path)
    assert made.success.all()
    with pytest.raises(ValueError, match="has no vocabulary"):
        networks.self_conditioned(linear)(PARAMS, T, x)

"""A number beside a token, in closed form: of three classes, each normal about its own mean.

Given where both stand, the class has the posterior `p(c) N(x; t m_c, v_t)` of those that the token
does not rule out, and the velocity is the posterior's mean of each class's own.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxflow import draws, losses, networks, paths, sampling, sources, times, velocities
from jaxflow.sampling import leaps

SHARES = np.array([0.5, 0.3, 0.2])
MEANS, SPREAD = np.array([-2.0, 0.5, 2.0]), 0.4
PATH = paths.product(
    {"x": paths.linear(), "c": paths.mixture(paths.kappas.cosine(), source=sources.mask(3))}
)
N = 20_000


def posterior(t, x):
    """Logits of the class `[batch, 3]`, and every class's velocity."""
    at, token = x["x"], x["c"][:, 0]
    t = t["x"][:, None]
    variance = t**2 * SPREAD**2 + (1 - t) ** 2
    logits = jnp.log(SHARES) - (at - t * MEANS) ** 2 / (2 * variance)
    known = jnp.where(jnp.arange(3) == token[:, None], 0.0, -jnp.inf)
    logits = jnp.where(token[:, None] == 3, logits, known)
    slope = (t * SPREAD**2 - (1 - t)) / variance
    return logits, MEANS + slope * (at - t * MEANS)


def exact(t, x):
    logits, each = posterior(t, x)
    velocity = jnp.sum(jax.nn.softmax(logits) * each, axis=-1, keepdims=True)
    return {"x": velocity, "c": logits[:, None]}


def run(grid, given=(), methods=None, **known):
    keys = jax.random.split(jax.random.key(0), N)
    noise = sources.product({"x": sources.normal(), "c": sources.mask(3)})
    x0 = {**noise.sample(keys, {"x": (1,), "c": (1,)}), **known}
    solution = sampling.mixed(exact, x0, grid, keys=keys, path=PATH, methods=methods, given=given)
    assert np.all(solution.success)
    assert np.all(np.asarray(solution.nfe) == len(grid) - 1)
    return np.asarray(solution.x["x"])[:, 0], np.asarray(solution.x["c"])[:, 0]


@pytest.mark.parametrize(
    "methods",
    [None, {"x": sampling.ab2(), "c": leaps.tau_leaping()}, {"x": sampling.ddim(paths.linear())}],
)
def test_both_from_noise(methods):
    x, c = run(sampling.grids.uniform(100), methods=methods)
    assert scipy.stats.chisquare(np.bincount(c, minlength=3), N * SHARES).pvalue > 1e-4
    for k in range(3):
        own = x[c == k]
        assert abs(own.mean() - MEANS[k]) < 0.05  # of first order in the step
        assert abs(own.std() - SPREAD) < 0.05


def test_the_error_of_both_is_of_first_order():
    """Of the correlation that parts which move together learn late."""
    wanted = np.sum(SHARES * MEANS**2) - np.sum(SHARES * MEANS) ** 2

    def error(n):
        x, c = run(sampling.grids.uniform(n))
        return abs(np.cov(x, MEANS[c])[0, 1] - wanted)

    assert error(16) < 0.75 * error(8) < 0.75**2 * error(4)


@pytest.mark.parametrize("k", [0, 2])
def test_the_number_given_the_token(k):
    c = np.full((N, 1), k, np.int32)
    x, same = run(sampling.grids.uniform(60), ("c",), c=c)
    assert np.all(same == k)
    assert scipy.stats.kstest(x[:2000], scipy.stats.norm(MEANS[k], SPREAD).cdf).pvalue > 1e-4


@pytest.mark.parametrize("n", [1, 5])
def test_the_token_given_the_number(n):
    """Exact in any number of steps, as one masked token is."""
    at = np.full((N, 1), 1.1, np.float32)
    _, c = run(sampling.grids.uniform(n), ("x",), x=at)
    density = SHARES * scipy.stats.norm(MEANS, SPREAD).pdf(1.1)
    counts = np.bincount(c, minlength=3)
    assert scipy.stats.chisquare(counts, N * density / density.sum()).pvalue > 1e-4


@pytest.mark.parametrize("masked", [False, True])
def test_the_loss_is_the_sum_of_its_parts(masked):
    """With what their own losses say of the same points, weighted."""

    def said(params, t, x, *, key=None):
        both = exact(t, x)
        return {"x": params * both["x"], "c": both["c"]}

    parts = {"x": partial(losses.flow_matching, prediction="data"), "c": losses.generalised_kl}
    loss = losses.mixed(said, PATH, parts, weights={"x": 2.0, "c": 0.1})
    draw = draws.standard(PATH, times={"x": times.uniform(), "c": times.logit_normal()})
    row = np.arange(12, dtype=np.int32)[:, None]
    x1 = {"x": np.float32(row) / 6 - 1, "c": row % 3}
    batch = jax.jit(draw)(jax.random.key(0), {"x1": x1})
    if masked:
        batch["mask"] = {"c": row % 2 == 0}

    @jax.jit
    def both(params, batch):
        point = PATH(batch["t"], batch["x0"], batch["x1"], batch["z"])
        output = said(params, point.t, point.x)
        wanted = 0.0
        for name, weight in (("x", 2.0), ("c", 0.1)):
            own = {field: batch[field][name] for field in ("t", "x0", "x1", "z")}
            if masked and name == "c":
                own["mask"] = batch["mask"]["c"]
            part = parts[name](lambda p, t, x, key=None, name=name: output[name], PATH.parts[name])
            wanted = wanted + weight * part(None, None, own)[1]["per_example"]
        return loss(params, None, batch)[1]["per_example"], wanted

    assert not np.array_equal(batch["t"]["x"], batch["t"]["c"])
    np.testing.assert_allclose(*both(np.float32(0.5), batch), rtol=1e-5)


def test_a_network_of_parts_learns_and_samples():
    """From a mapping of data to a mapping of samples, through the trainer's own draw and loss."""
    network = networks.linen(networks.MixedTransformer({"c": 3}, width=16, depth=1, heads=2))
    x = {"x": jnp.zeros((2, 1)), "c": jnp.zeros((2, 1), int)}
    params = jax.jit(network.init)(jax.random.key(0), jnp.zeros(2), x)
    velocity = velocities.from_network(network, params, path=PATH, prediction="data")
    found = sampling.mixed(
        velocity,
        {"x": jnp.ones((4, 1)), "c": jnp.full((4, 1), 3)},
        sampling.grids.uniform(3),
        keys=jax.random.split(jax.random.key(1), 4),
        path=PATH,
    ).x
    np.testing.assert_allclose(found["x"], 0.0, atol=1e-6)  # what it says of the data at first
    c = np.asarray(found["c"])
    assert np.all((c >= 0) & (c < 3))


def test_refusals():
    keys = jax.random.split(jax.random.key(0), 2)
    x0, grid = {"x": jnp.zeros((2, 1)), "c": jnp.full((2, 1), 3)}, sampling.grids.uniform(2)

    def refused(match, x0=x0, grid=grid, **kwargs):
        with pytest.raises(ValueError, match=match):
            sampling.mixed(exact, x0, grid, **{"keys": keys, "path": PATH, **kwargs})

    refused("of several parts", path=paths.linear())
    refused("but the samples are", x0={"x": x0["x"]})
    refused("let the grid rise", grid=[1.0, 0.0])
    refused("no 'label'", given=("label",))
    refused("nothing is left", given=("x", "c"))
    refused("take one of a single call", methods={"x": sampling.heun()})
    with pytest.raises(ValueError, match="but the samples are"):
        losses.mixed(exact, PATH, {"x": losses.flow_matching})
    with pytest.raises(ValueError, match="of several parts"):
        losses.mixed(exact, paths.linear(), {})
    loss = losses.mixed(
        lambda params, t, x, key=None: x["x"],
        PATH,
        {"x": losses.flow_matching, "c": losses.cross_entropy},
    )
    batch = {"x1": {"x": jnp.zeros((2, 1)), "c": jnp.zeros((2, 1), int)}}
    batch = draws.standard(PATH)(jax.random.key(0), batch)
    with pytest.raises(ValueError, match="returns one array"):
        loss({}, None, batch)
    network = networks.linen(networks.MixedTransformer({"label": 3}, width=16, depth=1, heads=2))
    for x, match in [
        ({"c": jnp.zeros((2, 1), int)}, "a vocabulary each"),
        ({"label": jnp.zeros((2, 1))}, "a part is whole numbers"),
        ({"image": jnp.zeros((2, 3, 3, 1))}, "patches of 2"),
    ]:
        with pytest.raises(ValueError, match=match):
            network.init(jax.random.key(0), jnp.zeros(2), x)

"""Velocity and score in one loss: its minimum, its bounds, its networks and its errors.

Where networks are affine the loss is quadratic in `(x0, x1, z)`, so its mean over a Gaussian is
that over the points `mean +- sqrt(n) root_i`, which share the mean and the covariance: exact.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxflow import couplings, draws, losses, paths, training, velocities
from jaxflow.paths import gammas

D = 2
PATHS = {
    "bridge": paths.bridge(0.6),
    "quadratic": paths.interpolant(paths.cosine().schedule, gamma=gammas.quadratic(1.5)),
    "sine_squared": paths.interpolant(gamma=gammas.sine_squared(0.8)),
    "constant": paths.interpolant(gamma=gammas.constant(0.6)),
}
TIMES = np.array([0.0, 1e-3, 0.2, 0.5, 0.9, 1.0])
ROOT = np.random.default_rng(3).normal(size=(2 * D, 2 * D)) / 2
MEAN = np.array([0.3, -0.7, 1.1, 0.4, 0.0, 0.0])
COVARIANCE = np.block(
    [
        [ROOT @ ROOT.T + 0.1 * np.eye(2 * D), np.zeros((2 * D, D))],
        [np.zeros((D, 2 * D)), np.eye(D)],
    ]
)


def affine(params, t, x, *, key=None, at):
    """A map of its own at each time, told by its place."""
    return jnp.einsum("nij,nj->ni", params["a"][at], x) + params["b"][at]


def scaled(params, t, x, *, key=None):
    return params * x


def exact_batch():
    """Pairs that are dependent, at every time, whose plain mean is that over their law."""
    n = len(MEAN)
    root = np.sqrt(n) * np.linalg.cholesky(COVARIANCE).T
    w = np.tile(np.concatenate([MEAN + root, MEAN - root]), (len(TIMES), 1))
    at = np.repeat(np.arange(len(TIMES)), 2 * n)
    x0, x1, z = (jnp.asarray(w[:, i * D : (i + 1) * D]) for i in range(3))
    return {"t": jnp.asarray(TIMES)[at], "x0": x0, "x1": x1, "z": z, "cond": {"at": at}}


@jax.jit
def point_of(path, t, x0, x1, z):
    return path(t, x0, x1, z)


def best(path):
    """The regressions of velocity and noise on `x`, from the path's values on basis vectors."""
    flow, score = ({"a": [], "b": []} for _ in range(2))
    basis = np.split(np.eye(3 * D), 3, axis=1)
    for t in TIMES:
        s = point_of(path, np.full(3 * D, t), *basis)
        x, u = np.asarray(s.x).T, np.asarray(s.u).T
        inverse = np.linalg.inv(x @ COVARIANCE @ x.T)
        # z is score's part of the basis; its regression is -gamma times the score -C^-1 (x - mean)
        for part, m, unit in (
            (flow, u @ COVARIANCE @ x.T @ inverse, 1.0),
            (score, -inverse, path.widest),
        ):
            mean = u @ MEAN if part is flow else np.zeros(D)
            part["a"].append(unit * m)
            part["b"].append(mean - unit * m @ x @ MEAN)
    return jax.tree.map(
        lambda *rows: jnp.asarray(np.stack(rows)),
        *[
            {
                name: {k: part[k][i] for k in ("a", "b")}
                for name, part in (("flow", flow), ("score", score))
            }
            for i in range(len(TIMES))
        ],
    )


@jax.jit
def gradient(loss, params, batch):
    return jax.grad(lambda p: loss(p, None, batch)[0])(params)


@pytest.mark.parametrize("name", PATHS)
def test_the_gradient_vanishes_at_the_exact_velocity_and_score(name, x64):
    """Of dependent pairs, at all times; and away from it, it points back, as far as it is off."""
    path, batch = PATHS[name], exact_batch()
    loss, at = losses.flow_and_score(affine, affine, path), best(path)
    found = gradient(loss, at, batch)
    for leaf in jax.tree.leaves(found):
        np.testing.assert_allclose(leaf, 0, atol=1e-11)
    share = np.asarray(path.gamma(jnp.asarray(TIMES))) / path.widest
    for part, weight in (("flow", np.ones(len(TIMES))), ("score", share**2)):
        off = {**at, part: {**at[part], "b": at[part]["b"] + 0.3}}
        found = gradient(loss, off, batch)
        expected = 2 * 0.3 / D / len(TIMES) * weight[:, None] * np.ones(D)
        np.testing.assert_allclose(found[part]["b"], expected, atol=1e-11)
        (other,) = {"flow", "score"} - {part}
        assert all(np.max(np.abs(leaf)) < 1e-11 for leaf in jax.tree.leaves(found[other]))


@pytest.mark.parametrize("name", PATHS)
def test_the_network_becomes_the_score(name, x64):
    """`score_from_network` of the minimiser is the score of the Gaussian marginal."""
    path = PATHS[name]
    params = best(path)["score"]
    x = np.random.default_rng(1).normal(size=(6, D))

    @jax.jit
    def score_and_shares(path, params, t, x):
        score = velocities.score_from_network(affine, params, path)(t, x, at=np.arange(6))
        return score, (path.shares.alpha(t), path.shares.sigma(t), path.gamma(t))

    found, shares = jax.tree.map(np.asarray, score_and_shares(path, params, TIMES, x))
    for i, (alpha, sigma, gamma) in enumerate(zip(*shares, strict=True)):
        c = COVARIANCE[: 2 * D, : 2 * D]
        blend = np.hstack([sigma * np.eye(D), alpha * np.eye(D)])
        total = blend @ c @ blend.T + gamma**2 * np.eye(D)
        expected = -np.linalg.solve(total, x[i] - blend @ MEAN[: 2 * D])
        np.testing.assert_allclose(found[i], expected, rtol=1e-9)


@pytest.mark.parametrize("name", PATHS)
def test_errors_of_the_score_are_bounded_over_time(name):
    """By `(|o| + |z|)^2`, to the ends, in value and gradient; unweighted they are not."""
    path, n = PATHS[name], 401
    t = np.concatenate([np.linspace(0, 1, n), [1e-7, 1e-4, 1 - 1e-6]]).astype(np.float32)
    x0, z = (np.full((len(t), D), value, np.float32) for value in (2.0, 1.5))
    batch = {"t": t, "x0": x0, "x1": -x0, "z": z}
    loss = losses.flow_and_score(scaled, lambda p, t, x, key=None: p + 0 * x, path)

    def run(params):
        value, aux = loss(params, None, batch)
        return value, aux

    params = {"flow": jnp.float32(0.0), "score": jnp.float32(0.7)}
    (_, aux), slopes = jax.jit(jax.value_and_grad(run, has_aux=True))(params)
    aux = jax.tree.map(np.asarray, aux)
    assert np.max(aux["score"]) <= (0.7 + 1.5) ** 2 + 1e-5
    assert np.min(aux["score"]) >= 1.5**2 - 1e-5
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((slopes, aux)))
    np.testing.assert_allclose(aux["per_example"], aux["flow"] + aux["score"], rtol=1e-6)
    plain = (np.asarray(point_of(path, t, x0, -x0, z).score) - 0.7 / path.widest) ** 2
    unbounded = np.max(plain) > 100 * (2.2 / path.widest) ** 2
    assert unbounded == (name != "constant")  # whose noise does not vanish


@pytest.mark.parametrize("sigma", [0.1, 1.0, 3.0])
def test_errors_are_those_of_the_paper(sigma, x64):
    """A network of `sigma^2 / 2` times the score, weighted by `2 sqrt(t (1 - t)) / sigma`."""
    path, t = paths.bridge(sigma), np.array([0.1, 0.5, 0.8])
    x0, x1, z = np.asarray(jax.random.normal(jax.random.key(0), (3, 3, D)))

    def network(params, t, x, *, key=None):
        return jnp.tanh(x) / sigma

    @jax.jit
    def point_loss_and_score(t, x0, x1, z):
        x, batch = path(t, x0, x1, z).x, {"t": t, "x0": x0, "x1": x1, "z": z}
        loss = losses.flow_and_score(scaled, network, path)
        _, aux = loss({"flow": 0.0, "score": None}, None, batch)
        return x, aux["score"], velocities.score_from_network(network, None, path)(t, x)

    x, error, read = map(np.asarray, point_loss_and_score(t, x0, x1, z))
    theirs = np.tanh(x)  # sigma^2 / 2 times some score
    weight = (2 * np.sqrt(t * (1 - t)) / sigma)[:, None]
    expected = np.mean((weight * theirs + z) ** 2, axis=1)
    np.testing.assert_allclose(error, expected, rtol=1e-12)
    np.testing.assert_allclose(read, 2 / sigma**2 * theirs, rtol=1e-12)


def noisy(params, t, x, *, key=None, label):
    shift = 0.0 if key is None else jax.random.normal(key, x.shape)
    return (params * x + label[:, None] + shift).astype(x.dtype)


def linear_weight(t):
    return 1 + t


def test_conditions_keys_weights_and_dtypes(key):
    """Each network its own key, both the conditions; the weight is of both parts."""
    path, x = paths.bridge(2.0), jnp.ones((3, D))
    batch = {"t": jnp.array([0.0, 0.5, 1.0]), "x0": x, "x1": -x, "z": x}
    batch["cond"] = {"label": jnp.array([1.0, -2.0, 0.5])}
    params = {"score": jnp.float32(0.5), "flow": jnp.float32(-0.3)}
    loss = losses.flow_and_score(noisy, noisy, path)
    _, still = loss(params, None, batch)
    _, moved = loss(params, key, batch)
    _, again = loss(dict(reversed(params.items())), key, batch)
    assert jnp.all(moved["flow"] != still["flow"])
    np.testing.assert_array_equal(moved["per_example"], again["per_example"])
    keys = jax.random.split(key)
    s = path(batch["t"], x, -x, x)
    share = path.gamma(batch["t"])[:, None]
    cond = batch["cond"]
    flow = noisy(params["flow"], s.t, s.x, key=keys[0], **cond) - s.u
    score = share * noisy(params["score"], s.t, s.x, key=keys[1], **cond) + x
    np.testing.assert_allclose(moved["flow"], jnp.mean(flow**2, 1), rtol=1e-5)
    np.testing.assert_allclose(moved["score"], jnp.mean(score**2, 1), rtol=1e-5)
    weighted = losses.flow_and_score(noisy, noisy, path, weight=linear_weight)
    value, aux = weighted(params, None, batch)
    for name in ("flow", "score", "per_example"):
        np.testing.assert_allclose(aux[name], (1 + batch["t"]) * still[name], rtol=1e-6)
    np.testing.assert_allclose(value, aux["per_example"].mean(), rtol=1e-6)
    half = {**batch, **{k: batch[k].astype(jnp.bfloat16) for k in ("x0", "x1", "z")}}
    value, aux = loss(params, None, half)
    assert value.dtype == aux["per_example"].dtype == aux["score"].dtype == jnp.float32


def test_one_trace_and_a_record():
    traces = []

    def network(params, t, x, *, key=None):
        traces.append(None)
        return params * x

    loss = losses.flow_and_score(network, network, paths.bridge())
    run = jax.jit(lambda loss, params, batch: loss(params, None, batch)[0])
    x = jnp.ones((2, 3, 4))
    batch = {"t": jnp.full((2, 3), 0.5), "x0": x, "x1": x, "z": x}  # a time a frame
    for w in (1.0, 2.0):
        run(loss, {"flow": jnp.float32(w), "score": jnp.float32(w)}, batch)
    assert len(traces) == 2
    leaves, tree = jax.tree.flatten(loss)
    assert leaves == []
    assert jax.tree.unflatten(tree, leaves) == loss
    assert "Brownian" in repr(loss)
    assert not loss.gathers


def test_it_trains_under_transport_with_an_optimiser_for_each(key):
    """Both parts move, each by its own rate; the score of transported pairs is learned.

    Of `N(0, 1)` moved onto itself all pairs of transport nearly meet, so the bridge's marginal is
    `N(0, 1 + sigma^2 t (1 - t))`, whose score at `t = 1/2` is `-x / 2` for `sigma = 2`.
    """
    path = paths.bridge(2.0)

    def odd(params, t, x, *, key=None):
        return params["a"] * x / (1 + 4 * t * (1 - t))[:, None]

    draw = draws.standard(path, coupling=couplings.optimal_transport())
    rates = {"flow": optax.sgd(0.0), "score": optax.sgd(0.3)}
    optimizer = optax.multi_transform(rates, {"flow": "flow", "score": "score"})
    loss = losses.flow_and_score(odd, odd, path)
    one = training.layout("data", devices=jax.devices()[:1])  # each would solve the transport
    run = training.program(training.trainer(loss, optimizer, draw=draw, ema_decay=0.9), layout=one)
    start = {"flow": {"a": jnp.float32(0.2)}, "score": {"a": jnp.float32(0.0)}}
    x1 = jax.random.normal(key, (256, 1))
    state, metrics = run.steps(run.init(start, key), lambda step: {"x1": x1}, 60)
    assert float(state.params["flow"]["a"]) == pytest.approx(0.2)
    score = velocities.score_from_network(odd, state.ema["score"], path)
    assert float(score(jnp.array([0.5]), jnp.ones((1, 1)))[0, 0]) == pytest.approx(-0.5, abs=0.1)
    assert np.all(np.isfinite(metrics["loss"]))


def test_a_batch_over_devices_is_the_batch_of_one(key):
    """Its noise too, which is drawn one key a sample."""
    path = paths.bridge(2.0)
    draw, loss = draws.standard(path), losses.flow_and_score(scaled, scaled, path)

    @jax.jit
    def run(params, x1):
        return jax.value_and_grad(lambda p: loss(p, None, draw(key, {"x1": x1}))[0])(params)

    params, x1 = {"flow": jnp.float32(0.4), "score": jnp.float32(-0.8)}, jnp.ones((16, D))
    devices = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    cut = jax.NamedSharding(devices, jax.P("data"))
    one, many = run(params, x1), run(params, jax.device_put(x1, cut))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), one, many)


X = jnp.ones((2, 3))
BATCH = {"t": jnp.full(2, 0.5), "x0": X, "x1": X, "z": X}
PARAMS = {"flow": 1.0, "score": 1.0}
NOISY = r"needs a path with noise of its own, as paths\.bridge\(sigma\) .*; got Affine\(.*\)$"


def narrow(params, t, x, *, key=None):
    return x[:, :1]


def fixed_weight(t):
    return jnp.ones(7)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "error", "told"),
    [
        (
            lambda: losses.flow_and_score(scaled, scaled, paths.linear()),
            TypeError,
            "^flow_and_score " + NOISY,
        ),
        (
            lambda: velocities.score_from_network(scaled, 1.0, paths.linear()),
            TypeError,
            "^score_from_network " + NOISY,
        ),
        (
            lambda: losses.flow_and_score(scaled, scaled, paths.bridge),
            TypeError,
            r"^path is paths\.bridge itself, and not what it makes",
        ),
        (
            lambda: losses.flow_and_score(scaled, 3, paths.bridge()),
            TypeError,
            "^a network is a function",
        ),
        (
            lambda: losses.flow_and_score(scaled, scaled, paths.bridge())(1.0, None, BATCH),
            ValueError,
            r"^flow_and_score learns two networks, params=\{'flow': .*; got float$",
        ),
        (
            lambda: losses.flow_and_score(scaled, scaled, paths.bridge())({"a": 1}, None, BATCH),
            ValueError,
            r"^flow_and_score learns two networks, .*; got \['a'\]$",
        ),
        (
            lambda: losses.flow_and_score(scaled, narrow, paths.bridge())(PARAMS, None, BATCH),
            ValueError,
            r"^the network returns shape \(2, 1\) for data of shape \(2, 3\): ",
        ),
        (
            lambda: losses.flow_and_score(scaled, scaled, paths.bridge())(PARAMS, None, {"x1": X}),
            ValueError,
            "^the batch lacks t, x0: ",
        ),
        (
            lambda: losses.flow_and_score(scaled, scaled, paths.bridge())(
                PARAMS, None, {k: BATCH[k] for k in ("t", "x0", "x1")}
            ),
            ValueError,
            "^an interpolant has noise of its own: ",
        ),
        (
            lambda: losses.flow_and_score(scaled, scaled, paths.bridge(), weight=fixed_weight)(
                PARAMS, None, BATCH
            ),
            ValueError,
            r"^the weight of times of shape \(2,\) has shape \(7,\): ",
        ),
    ],
)
def test_refusals(call, error, told):
    with pytest.raises(error, match=told):
        call()

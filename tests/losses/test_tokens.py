"""Losses of tokens against closed forms: exact expectations over a small alphabet."""

import itertools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxflow import draws, losses, paths, sources, times, training, velocities
from jaxflow.paths import kappas
from jaxflow.records import record
from jaxflow.types import PathSample

VOCABULARY, LENGTH = 3, 2
RNG = np.random.default_rng(0)
LAW = RNG.dirichlet(np.ones(VOCABULARY**LENGTH)).reshape((VOCABULARY,) * LENGTH)
ENTROPY = -np.sum(LAW * np.log(LAW))
DATA = np.array(list(itertools.product(range(VOCABULARY), repeat=LENGTH)))
DISTANCES = np.sqrt(abs(np.arange(VOCABULARY)[:, None] - np.arange(VOCABULARY)))
PATHS = (
    "mask",
    "mask, cosine",
    "mask, a power a place",
    "uniform",
    "marginal",
    "hybrid",
    "gidd",
    "gidd, late",
    "metric",
)
WITH_MASKS = ("mask", "hybrid", "gidd")


def path_of(name):
    """In the precision of the test."""
    mask, even = sources.mask(VOCABULARY), sources.tokens(np.ones(VOCABULARY))
    return {
        "mask": lambda: paths.mixture(source=mask),
        "mask, cosine": lambda: paths.mixture(kappas.cosine(), source=mask),
        "mask, a power a place": lambda: paths.mixture(
            kappas.polynomial(np.array([1.0, 3.0])), source=mask
        ),
        "uniform": lambda: paths.mixture(source=even),
        "marginal": lambda: paths.mixture(
            kappas.polynomial(2.0), source=sources.tokens(np.array([0.5, 0.2, 0.3]))
        ),
        "hybrid": lambda: paths.mixture(source=sources.tokens(np.array([0.1, 0.2, 0.1, 0.6]))),
        "gidd": lambda: paths.gidd(0.2, source=mask),
        "gidd, late": lambda: paths.gidd(0.4, 2.0, source=mask),
        "metric": lambda: paths.metric(DISTANCES, a=1.0),
    }[name]()


def all_of(name):
    """The sequences that a path may have, `[states, length]`."""
    symbols = VOCABULARY + name.startswith(WITH_MASKS)
    return np.array(list(itertools.product(range(symbols), repeat=LENGTH)))


def pairs_of(states):
    """Every datum beside every sequence."""
    return np.repeat(DATA, len(states), 0), np.tile(states, (len(DATA), 1))


NODES, SHARES = (a / 2 for a in np.polynomial.legendre.leggauss(48))


def table(params, t, x, *, key=None):
    """A network without time: logits by sequence, `[symbols, symbols, length, vocabulary]`."""
    return params[x[:, 0], x[:, 1]]


def timed(params, t, x, *, key=None):
    return table(params, t, x) * (1 + t)[:, None, None]


def told(posterior, t, x, *, key=None):
    return posterior(t, x)


@jax.jit
def log_probs(path, t, x, x1):
    """Of `x` at one time, given its data, token by token."""
    return path.log_prob(jnp.full(len(x), t), x, x1)


@jax.jit
def completed(path, key, x1):
    return draws.standard(path)(key, {"x1": x1})


def tables():
    return jnp.asarray(RNG.normal(size=(VOCABULARY + 1, VOCABULARY + 1, LENGTH, VOCABULARY)))


def bound(network, params, name, until=1.0):
    """The bound on the evidence a sequence, in nats, by quadrature over time and a sum over all."""
    return _bound(network, params, path_of(name), all_of(name), until)


@partial(jax.jit, static_argnames="network")
def _bound(network, params, path, states, until):
    pairs = jnp.repeat(DATA, len(states), 0), jnp.tile(states, (len(DATA), 1))

    def at(time):
        t = jnp.full(len(pairs[0]), time)
        law = jnp.exp(jnp.sum(path.log_prob(t, pairs[1], pairs[0]), axis=1))
        logits = network(params, t, pairs[1])
        apart = jnp.sum(path.divergence(t, pairs[1], pairs[0], logits), axis=1)
        shares = law * jnp.repeat(LAW.ravel(), len(states))
        return jnp.sum(jnp.where(shares > 0, shares * apart, 0.0))

    roots = jnp.asarray(0.5 + NODES)  # of times, as some paths begin as a root of time
    return until * jnp.sum(2 * SHARES * roots * jax.vmap(at)(until * roots**2))


def any_order(params):
    """The cross-entropy of the autoregressive model of the same network, over all orders."""
    total, orders = 0.0, list(itertools.permutations(range(LENGTH)))
    for data, order in itertools.product(DATA, orders):
        x = np.full(LENGTH, VOCABULARY)
        for place in order:
            logits = np.asarray(table(params, None, x[None]))[0, place]
            total -= LAW[tuple(data)] * (logits - np.logaddexp.reduce(logits))[data[place]]
            x[place] = data[place]
    return total / len(orders)


@pytest.mark.parametrize("name", ["mask", "mask, cosine"])
def test_the_bound_of_a_mask_is_that_of_any_order_whatever_the_schedule(name, x64):
    params = tables()
    np.testing.assert_allclose(bound(table, params, name), any_order(params), rtol=1e-10)
    timed_bounds = [bound(timed, params, n) for n in ("mask", "mask, cosine")]
    assert abs(timed_bounds[0] - timed_bounds[1]) > 1e-3


def known_at(name, t):
    """What a sequence at `t` tells of its data, in nats."""
    path, states = path_of(name), all_of(name)
    x1, x = pairs_of(states)
    law = np.exp(np.sum(log_probs(path, t, x, x1), axis=1))
    law = law.reshape(len(DATA), -1)
    joint = LAW.reshape(-1, 1) * law
    ratio = law / joint.sum(0)
    return np.sum(joint * np.log(np.where(joint > 0, ratio, 1.0)))


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("until", [0.3, 0.9])
def test_the_bound_of_the_exact_posterior_until_a_time(name, until, x64):
    """Is what is known by then, as noising is Markov; more where the way there tells more."""
    found = bound(told, velocities.token_law(path_of(name), LAW), name, until)
    if name == "metric":
        assert found > known_at(name, until)
    else:
        np.testing.assert_allclose(found, known_at(name, until), rtol=1e-8)
    assert bound(table, tables(), name, until) > found


@pytest.mark.parametrize("name", ["mask", "mask, cosine"])
def test_the_bound_of_the_exact_posterior_is_the_entropy(name, x64):
    found = bound(told, velocities.token_law(path_of(name), LAW), name)
    np.testing.assert_allclose(found, ENTROPY, rtol=1e-8)
    assert bound(table, tables(), name) > found


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("loss", [losses.generalised_kl, losses.cross_entropy])
def test_the_exact_posterior_is_the_minimum(loss, name, x64):
    """At it the expected gradient vanishes, and not at one that is moved."""
    path, states = path_of(name), all_of(name)
    moved = RNG.normal(size=(len(states), LENGTH, VOCABULARY))
    still, slopes = expected_slopes(loss, path, velocities.token_law(path, LAW), states, moved)
    np.testing.assert_allclose(still, 0, atol=1e-12)
    assert np.max(abs(slopes)) > 1e-3


@partial(jax.jit, static_argnames="loss")
def expected_slopes(loss, path, posterior, states, moved):
    """By what is added to the exact logits, where that is nothing and where it is `moved`."""
    pairs = jnp.repeat(DATA, len(states), 0), jnp.tile(states, (len(DATA), 1))
    t = jnp.full(len(pairs[0]), 0.4)
    law = jnp.exp(jnp.sum(path.log_prob(t, pairs[1], pairs[0]), axis=1))
    shares = law * jnp.repeat(LAW.ravel(), len(states))
    exact = jnp.maximum(posterior(jnp.full(len(states), 0.4), states), -50.0)

    def expected(moved):
        logits = jnp.tile(exact + moved, (9, 1, 1))
        made = loss(lambda params, t, x, key=None: logits, Given(path, pairs[1]))
        batch = {"t": t, "x0": pairs[0], "x1": pairs[0]}
        return jnp.sum(shares * made(None, None, batch)[1]["per_example"])

    return jax.vmap(jax.grad(expected))(jnp.stack([0 * moved, moved]))


@record
class Given:
    """A path at points that are given, in the place of drawn ones."""

    path: Any
    x: Any

    def __call__(self, t, x0, x1, z=None):
        return PathSample(t, self.x, None, x0, x1)

    def divergence(self, *arguments):
        return self.path.divergence(*arguments)


@pytest.mark.parametrize("name", PATHS)
def test_points_have_the_law_of_the_path(name):
    path, n, at = path_of(name), 40_000, 0.6
    x1 = np.broadcast_to(np.array([0, 2], np.int32), (n, LENGTH))
    symbols = all_of(name).max() + 1
    of_all = np.broadcast_to(np.arange(symbols, dtype=np.int32)[:, None], (symbols, LENGTH))

    @jax.jit
    def points_and_law(path, key, x1):
        batch = draws.standard(path, times=times.constant(at))(key, {"x1": x1})
        law = jnp.exp(path.log_prob(batch["t"][:symbols], of_all, x1[:symbols]))
        return path(batch["t"], batch["x0"], x1, batch["z"]).x, law

    x, law = map(np.asarray, points_and_law(path, jax.random.key(0), x1))
    for place in range(LENGTH):
        counts = np.bincount(x[:, place], minlength=symbols)
        spread = np.sqrt(n * law[:, place] * (1 - law[:, place]))
        assert np.all(abs(counts - n * law[:, place]) <= 4.5 * spread + 1e-3)


def test_conditional_rates_carry_the_conditional_law(x64):
    """The Kolmogorov equation of one token given its data, for every path."""
    for name in PATHS:
        path = path_of(name)
        symbols = VOCABULARY + name.startswith(WITH_MASKS)
        x = np.broadcast_to(np.arange(symbols)[:, None], (symbols, LENGTH))
        for data, time in itertools.product(range(VOCABULARY), (0.1, 0.7)):
            p, slope, rates, ends = map(np.asarray, law_and_rates(path, x, data, time))
            assert np.all(np.isfinite(ends))
            np.testing.assert_allclose(np.sum(p, 0), 1, rtol=1e-12)
            np.testing.assert_allclose(np.sum(rates, -1), 0, atol=1e-12)
            np.testing.assert_allclose(np.einsum("flt,fl->tl", rates, p), slope, atol=1e-12)


@jax.jit
def law_and_rates(path, x, data, time):
    """Of each symbol its law at a time and its slope, its rates `[from, length, to]`, and the rates
    at the ends of time.
    """
    x1 = jnp.full_like(x, data)
    p, slope = jax.jvp(lambda t: jnp.exp(log_probs(path, t, x, x1)), (time,), (1.0,))
    ends = path.rates(jnp.array([0.0, 1.0]), x[:2], x[:2], len(x))
    return p, slope, path.rates(jnp.full(len(x), time), x, x1, len(x)), ends


@pytest.mark.parametrize("loss", [losses.generalised_kl, losses.cross_entropy])
def test_only_tokens_that_count_count(loss, key):
    path, params = path_of("uniform"), jnp.asarray(tables(), jnp.float32)
    made = jax.jit(loss(table, path).__call__)
    x1 = jax.random.randint(key, (8, LENGTH), 0, VOCABULARY)
    batch = completed(path, key, x1)
    mask = np.tile([True, False], (8, 1))
    value, aux = made(params, None, {**batch, "mask": mask})
    parts = [made(params, None, {**batch, "mask": m})[0] for m in (mask, ~mask)]
    np.testing.assert_allclose(made(params, None, batch)[0], np.mean(parts), rtol=1e-5)
    assert aux["per_example"].shape == (8,)
    assert value == parts[0]


def test_it_learns_a_law(key):
    """A table of logits learns the exact posteriors of a mask, by either loss."""
    path = path_of("mask")
    draw = draws.standard(path, times=times.stratified(times.uniform()))
    exact = velocities.token_law(path, LAW)
    states = np.array([[3, 3], [3, 0], [1, 3]])
    wanted = np.exp(jax.jit(exact.__call__)(np.full(3, 0.5), states))
    codes = jax.random.choice(key, len(DATA), (512,), p=jnp.asarray(LAW.ravel()))
    batch = {"x1": jnp.asarray(DATA[codes])}
    run = training.program(
        training.trainer(losses.generalised_kl(table, path), optax.adam(0.05), draw=draw)
    )
    state = run.init(jnp.zeros((4, 4, LENGTH, VOCABULARY)), key)
    for _ in range(150):
        state, _ = run.step(state, batch)
    found = jax.nn.softmax(table(state.params, None, states), axis=-1)
    masked = states == VOCABULARY
    np.testing.assert_allclose(found[masked], wanted[masked], atol=0.1)


def test_refusals(key):
    for loss in (losses.generalised_kl, losses.cross_entropy):
        with pytest.raises(ValueError, match=r"whose loss is losses\.edits"):
            loss(table, paths.edits(VOCABULARY))
    path = path_of("mask")
    loss = losses.cross_entropy(table, path)
    x1 = jnp.zeros((4, LENGTH), int)
    with pytest.raises(ValueError, match="complete it with a draw"):
        loss(tables(), None, {"x1": x1})
    with pytest.raises(ValueError, match=r"z=path\.latent"):
        loss(tables(), None, {"t": jnp.zeros(4), "x0": x1, "x1": x1})
    with pytest.raises(ValueError, match="whole numbers"):
        path(jnp.zeros(4), x1.astype(float), x1, jnp.zeros((4, LENGTH)))
    narrow = losses.cross_entropy(lambda params, t, x, key=None: x, path)
    with pytest.raises(ValueError, match="one axis more, the vocabulary"):
        narrow(None, None, draws.standard(path)(key, {"x1": x1}))
    with pytest.raises(ValueError, match="flow_matching"):
        losses.generalised_kl(table, paths.linear())
    with pytest.raises(ValueError, match=r"source=sources.mask\(token\)"):
        velocities.token_law(paths.mixture(), LAW)(jnp.zeros(4), x1)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("scale", [0.0, 1.0, 300.0])
def test_losses_and_gradients_are_finite_in_float32(name, scale, key):
    """At the ends of time, and where the network is sure of what is wrong."""
    wrong = jnp.asarray(tables(), jnp.float32)
    assert np.all(np.isfinite(at_the_ends(path_of(name), wrong, np.float32(scale), key)))


@jax.jit
def at_the_ends(path, wrong, scale, key):
    """The loss and its slope by a scale of the logits."""
    batch = draws.standard(path)(key, {"x1": jnp.zeros((9, LENGTH), int)})
    batch["t"] = batch["t"].at[:4].set(jnp.array([0.0, 1e-7, 0.5, 1.0]))
    made = losses.generalised_kl(lambda p, t, x, key=None: p * table(wrong, t, x), path)
    return jax.value_and_grad(lambda p: made(p, None, batch)[0])(scale)


FLAT = {
    "cosine_squared": kappas.cosine_squared(),
    "geometric": kappas.geometric(1.0, 6.0),
    "custom": kappas.custom(lambda t: 1 - (1 - t) ** 3),
}


@pytest.mark.parametrize("name", FLAT)
@pytest.mark.parametrize("source", [sources.mask(VOCABULARY), sources.uniform_tokens(VOCABULARY)])
def test_losses_are_finite_where_kappa_is_flat_at_its_end(name, source, key):
    """Float32 cannot tell the noise that is left there: a path ends before."""
    path = paths.mixture(FLAT[name], source=source)
    t = 1 - np.geomspace(1e-7, 0.5, 40, dtype=np.float32)
    batch = completed(path, key, np.zeros((40, LENGTH), int)) | {"t": t}
    network = lambda p, t, x, key=None: p * jnp.ones((*x.shape, VOCABULARY))  # noqa: E731
    made = [losses.generalised_kl(of, path) for of in (network, velocities.informed(network, path))]

    @jax.jit
    def looks(p):
        return [jax.value_and_grad(lambda p, of=of: of(p, None, batch)[0])(p) for of in made]

    assert np.all(np.isfinite(looks(np.float32(0.3))))
    last = path.interval[1]
    np.testing.assert_allclose(1 - path.kappa(jnp.float32(last)), 1e-5, rtol=0.02)

"""Samplers of tokens: their exact laws, by matrix products, and draws that have them.

The oracles are written anew, in numpy: a law is a vector over all sequences of a small alphabet,
and a leap a matrix, made of what the method's equation says of each token.
"""

import itertools
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from jaxflow import paths, sampling, sources, tokens, velocities
from jaxflow.records import traceable
from jaxflow.sampling import leaps

VOCABULARY, LENGTH = 3, 2
RNG = np.random.default_rng(0)
LAW = RNG.dirichlet(np.full(VOCABULARY**LENGTH, 20.0)).reshape((VOCABULARY,) * LENGTH)
DISTANCES = np.sqrt(abs(np.arange(VOCABULARY)[:, None] - np.arange(VOCABULARY)))
WEIGHTS = np.array([0.5, 0.2, 0.3])
WITH_MASK = np.array([0.1, 0.2, 0.1, 0.6])  # the last is the mask


def _paths():
    return {
        "mask": paths.mixture(source=sources.mask(VOCABULARY)),
        "uniform": paths.mixture(source=sources.tokens(np.ones(VOCABULARY))),
        "marginal": paths.mixture(paths.kappas.cosine(), source=sources.tokens(WEIGHTS)),
        "hybrid": paths.mixture(source=sources.tokens(WITH_MASK)),
        "gidd": paths.gidd(0.3, 1.5, source=sources.mask(VOCABULARY)),
        "metric": paths.metric(DISTANCES, a=1.0),
    }


PATHS = tuple(_paths())
OF_ONE_NOISE = tuple(name for name in PATHS if name != "gidd")


@cache
def states(name):
    """All sequences, `[states, length]`."""
    symbols = VOCABULARY + (name in ("mask", "hybrid", "gidd"))
    return np.array(list(itertools.product(range(symbols), repeat=LENGTH)))


class Exact:
    """What a path says of every sequence at a time: its law, posteriors and rates, in float64."""

    def __init__(self, name):
        self.name, self.path = name, _paths()[name]
        self.posterior = velocities.token_law(self.path, LAW)
        self.states = states(name)
        self.symbols = int(self.states.max()) + 1
        self.noise = {
            "mask": np.eye(VOCABULARY + 1)[VOCABULARY],
            "uniform": np.full(VOCABULARY, 1 / VOCABULARY),
            "marginal": WEIGHTS,
            "hybrid": WITH_MASK,
            "metric": np.full(VOCABULARY, 1 / VOCABULARY),
        }.get(name)

    def mixed(self, t):
        """Of the path of masks and other noise: the shares of data and of each symbol of noise."""
        b = 0.3 / 0.7 * 2**1.5 * (t * (1 - t)) ** 0.75
        return t / (1 + b), np.append(np.full(VOCABULARY, b / VOCABULARY), 1 - t) / (1 + b)

    def kappa(self, t):
        if self.name == "gidd":
            return self.mixed(t)[0]
        return 1 - np.cos(np.pi / 2 * t) if self.name == "marginal" else t

    def clock(self, t):
        if self.name == "metric":
            return 3.0 * t / (1 - t)
        return -np.log1p(-self.kappa(t))

    def given_data(self, t):
        """The law of a token given its data, `[data, token]`."""
        if self.name == "metric":
            weights = np.exp(-self.clock(t) * DISTANCES)
            return weights / weights.sum(1, keepdims=True)
        data = np.eye(VOCABULARY, self.symbols)
        if self.name == "gidd":
            return self.kappa(t) * data + self.mixed(t)[1]
        return self.kappa(t) * data + (1 - self.kappa(t)) * self.noise

    def law(self, t):
        each = self.given_data(t)
        return np.einsum("ab,ax,by->xy", LAW, each, each).ravel()

    def posteriors(self, t):
        """The law of each token's data given a sequence, `[states, length, vocabulary]`."""
        each = self.given_data(t)
        joint = np.einsum("ab,ax,by->xyab", LAW, each, each).reshape(-1, VOCABULARY, VOCABULARY)
        total = joint.sum((1, 2), keepdims=True)
        joint = joint / np.where(total > 0, total, 1.0)
        return np.stack([joint.sum(2), joint.sum(1)], axis=1)

    def rates(self, t):
        """By clock time, to every symbol, `[states, length, symbols]`; zero to the own."""
        w, at = self.posteriors(t), self.states
        if self.name == "metric":
            apart = DISTANCES[at][:, :, :, None] - DISTANCES.T[None, None]  # d(x, a) - d(y, a)
            rates = np.einsum("sla,ay,slay->sly", w, self.given_data(t), np.maximum(apart, 0))
        else:
            rates = np.pad(w, ((0, 0), (0, 0), (0, self.symbols - VOCABULARY)))
            if self.name == "mask":
                rates = rates * (at == VOCABULARY)[..., None]
        return np.where(np.eye(self.symbols)[at] > 0, 0.0, rates)

    def of_data(self, t):
        """The posteriors among all symbols: of a token that is no mask, the token itself."""
        w = np.pad(self.posteriors(t), ((0, 0), (0, 0), (0, self.symbols - VOCABULARY)))
        masked = (self.states == VOCABULARY)[..., None]
        return np.where(masked, w, self.stays()) if self.name == "mask" else w

    def back(self, t):
        """The rates backwards by clock time: Bayes' rule on those of a token given its data."""
        w, at, kappa = self.posteriors(t), self.states, self.kappa(t)
        own = np.take_along_axis(np.pad(w, ((0, 0), (0, 0), (0, 1))), at[..., None], 2)
        given = (1 - kappa) * self.noise[at] + kappa
        rates = own * (1 - kappa) * self.noise / np.where(given > 0, given, np.inf)[..., None]
        return np.where(np.eye(self.symbols)[at] > 0, 0.0, rates)

    def generator(self, rates):
        """That of sequences, `[to, from]`, of the rates of tokens."""
        n = len(self.states)
        matrix = np.zeros((n, n))
        for i, x in enumerate(self.states):
            for place, y in itertools.product(range(LENGTH), range(self.symbols)):
                moved = x.copy()
                moved[place] = y
                matrix[self.index(moved), i] += rates[i, place, y]
        return matrix - np.diag(matrix.sum(0))

    def index(self, x):
        return np.ravel_multi_index(tuple(np.moveaxis(x, -1, 0)), (self.symbols,) * LENGTH)

    def independent(self, kernel):
        """The matrix of tokens that move apart, by `[states, length, symbols]`."""
        both = np.einsum("sx,sy->sxy", kernel[:, 0], kernel[:, 1])
        return both.reshape(len(self.states), -1).T

    def stays(self):
        return np.eye(self.symbols)[self.states]

    def held(self, span, rates):
        """A tau-leap's law of each token."""
        total = rates.sum(-1, keepdims=True)
        share = -np.expm1(-span * total) / np.where(total > 0, total, 1.0)
        return share * rates + np.exp(-span * total) * self.stays()


def tau_leaping(exact, t, s):
    span = exact.clock(s) - exact.clock(t)
    return exact.independent(exact.held(span, exact.rates(t)))


def euler(exact, t, s):
    w, stays = exact.posteriors(t), exact.stays()
    if exact.name == "metric":
        span, kernel = exact.clock(s) - exact.clock(t), 0
        for a in range(VOCABULARY):
            apart = DISTANCES[exact.states][..., a, None] - DISTANCES[:, a]
            rates = exact.given_data(t)[a] * np.maximum(apart, 0)
            kernel = kernel + w[..., a, None] * exact.held(span, rates)
        return exact.independent(kernel)
    data = exact.of_data(t)
    share = (exact.kappa(s) - exact.kappa(t)) / (1 - exact.kappa(t))
    return exact.independent(share * data + (1 - share) * stays)


def trapezoidal(exact, t, s):
    middle = (t + s) / 2
    first, second = (exact.clock(b) - exact.clock(a) for a, b in ((t, middle), (middle, s)))
    theta = first / (first + second)
    alpha = 1 / (2 * theta * (1 - theta))
    here, there = exact.rates(t), exact.rates(middle)
    start = exact.independent(exact.held(first, here))
    matrix = np.zeros_like(start)
    for i, x in enumerate(exact.states):
        same = (exact.states == x)[..., None]
        rates = np.maximum(alpha * there - (alpha - 1) * np.where(same, here[i], 0.0), 0.0)
        rates = np.where(exact.stays() > 0, 0.0, rates)
        matrix[:, i] = exact.independent(exact.held(second, rates)) @ start[:, i]
    return matrix


def forth_and_back(exact, t, s):
    span = exact.clock(s) - exact.clock(t)
    return exact.independent(exact.held(span, 1.5 * exact.rates(t) + 0.5 * exact.back(t)))


def ancestral(exact, t, s):
    """Bayes' rule on the chain of noising, of each token's data; summed over the posterior."""
    now, then = exact.kappa(t), exact.kappa(s)
    a, kernel = now / then, 0
    eye = np.eye(exact.symbols)
    if exact.name == "gidd":
        anew = exact.mixed(t)[1] - a * exact.mixed(s)[1]
    else:
        anew = (1 - a) * exact.noise
    forwards = a * eye + anew  # [at s, at t]
    for data in range(VOCABULARY):
        given = exact.given_data(s)[data]
        joint = forwards[:, exact.states] * given[:, None, None]
        total = joint.sum(0)
        share = np.moveaxis(joint / np.where(total > 0, total, 1.0), 0, -1)
        kernel = kernel + exact.posteriors(t)[..., data, None] * share
    known = kernel.sum(-1, keepdims=True) > 0
    return exact.independent(np.where(known, kernel, exact.stays()))


def corrected(exact, t, s):
    """An Euler step, and two corrections of half its clock time each."""
    span = 0.5 * (exact.clock(s) - exact.clock(t))
    kernel = exact.independent(exact.held(span, exact.rates(s) + exact.back(s)))
    return kernel @ kernel @ euler(exact, t, s)


def remasking(exact, t, s):
    most = min(1.0, (1 - s) / t) if t else 1.0
    sigma = 0.5 * most
    data = np.pad(exact.posteriors(t), ((0, 0), (0, 0), (0, 1)))
    share = (s - (1 - sigma) * t) / (1 - t)
    unmasked = share * data + (1 - share) * exact.stays()
    masked = sigma * exact.noise + (1 - sigma) * exact.stays()
    return exact.independent(np.where((exact.states == VOCABULARY)[..., None], unmasked, masked))


OF_NOISE = ("mask", "uniform", "marginal")  # and with the hybrid where it is another case
LEAPS = {
    "euler": (leaps.euler(), euler, OF_ONE_NOISE),
    "ancestral": (leaps.ancestral(), ancestral, ("uniform", "marginal", "hybrid", "gidd")),
    "tau_leaping": (leaps.tau_leaping(), tau_leaping, (*OF_NOISE, "metric")),
    "trapezoidal": (leaps.trapezoidal(), trapezoidal, (*OF_NOISE, "metric")),
    "forth_and_back": (leaps.forth_and_back(0.5), forth_and_back, (*OF_NOISE, "hybrid")),
    "corrected": (leaps.corrected(leaps.euler(), steps=2), corrected, ("mask", "marginal")),
    "by_rates": (leaps.by_rates(), tau_leaping, ("mask", "marginal")),
    "remasking": (leaps.remasking(0.5), remasking, ("mask",)),
}
OTHERS = {"confident"}  # no simulation of the process
CASES = [(method, path) for method, (*_, of) in LEAPS.items() for path in of]


def test_every_leap_is_in_the_table():
    assert set(leaps.__all__) == set(LEAPS) | OTHERS


@jax.jit
def of_path(kind, t, states):
    """The law of every sequence and its slope by time; posteriors, rates and the clock's rate."""
    posterior, path = kind
    at = jnp.full(len(states), t)

    def law(t):
        return jnp.exp(posterior.log_prob(jnp.full(len(states), t), states))

    logits = posterior(at, states)
    rates = jnp.exp(path.log_rates(at, states, logits))
    return *jax.jvp(law, (t,), (1.0,)), jnp.exp(logits), rates, path.clock_rate(at, states)


@pytest.mark.parametrize("name", OF_ONE_NOISE)
@pytest.mark.parametrize("t", [0.02, 0.3, 0.8])
def test_kolmogorov(name, t, x64):
    """The rates of a path, with the exact posterior in them, carry its marginals."""
    exact = Exact(name)
    found = of_path(traceable((exact.posterior, exact.path)), t, exact.states)
    law, slope, posteriors, rates, clock_rate = map(np.asarray, found)
    np.testing.assert_allclose(law, exact.law(t), atol=1e-14)
    seen = exact.law(t) > 0
    np.testing.assert_allclose(posteriors[seen], exact.posteriors(t)[seen], atol=1e-14)
    rates = np.pad(rates, ((0, 0), (0, 0), (0, exact.symbols - VOCABULARY)))
    np.testing.assert_allclose(rates[seen], exact.rates(t)[seen], atol=1e-14)
    by_time = rates * clock_rate[..., None]
    np.testing.assert_allclose(exact.generator(by_time) @ law, slope, atol=1e-12)


@jax.jit
def back_rate(kind, t, states):
    posterior, path = kind
    at = jnp.full(len(states), t)
    return path.back_rate(at, states, posterior(at, states))


@pytest.mark.parametrize("name", ["mask", "uniform", "marginal", "hybrid"])
@pytest.mark.parametrize("t", [0.2, 0.8])
def test_forth_and_back_stands_still(name, t, x64):
    """The rates forth and back together leave the marginal as it is."""
    exact = Exact(name)
    back = back_rate(traceable((exact.posterior, exact.path)), t, exact.states)
    back = np.asarray(back)[..., None] * exact.noise
    np.testing.assert_allclose(back * (1 - exact.stays()), exact.back(t), atol=1e-14)
    still = exact.generator(exact.rates(t) + back * (1 - exact.stays())) @ exact.law(t)
    np.testing.assert_allclose(still, 0, atol=1e-12)


def chain(exact, kernel, n, end):
    law = exact.law(0.0)
    for t, s in itertools.pairwise(np.linspace(0, end, n + 1)):
        law = kernel(exact, t, s) @ law
    return law


@pytest.mark.parametrize(("method", "name"), [c for c in CASES if c[0] != "remasking"])
def test_order(method, name):
    """The exact law of a grid nears the path's at the order of the leap."""
    record, kernel, _ = LEAPS[method]
    exact = Exact(name)
    errors = [abs(chain(exact, kernel, n, 0.6) - exact.law(0.6)).sum() for n in (32, 64, 128)]
    rates = np.log2(np.array(errors[:-1]) / errors[1:])
    assert rates[-1] > record.order - 0.1


@pytest.mark.parametrize(("method", "name"), CASES)
def test_draws_have_the_law_of_the_leap(method, name):
    """On a coarse grid, whose law is not that of the path: draws are tested for the leap's own."""
    record, kernel, _ = LEAPS[method]
    exact, grid = Exact(name), [0.0, 0.4, 0.8, 1.0]
    law = exact.law(0.0)
    for t, s in itertools.pairwise(grid[:-1]):
        law = kernel(exact, t, s) @ law
    law = exact.independent(exact.of_data(0.8)) @ law
    assert chi_square(drawn(exact, record, grid), law) > 1e-4 / len(CASES)


N = 20_000


def drawn(exact, method, grid):
    """How often each sequence is drawn."""
    keys = jax.random.split(jax.random.key(1), N)
    x0 = exact.path.source.sample(jax.random.split(jax.random.key(2), N), (LENGTH,))
    kwargs = {"keys": keys, "path": exact.path}
    if method is None:
        solution = sampling.first_hitting(exact.posterior, x0, **kwargs)
    else:
        solution = sampling.jumps(exact.posterior, x0, grid, method=method, **kwargs)
    assert np.all(solution.success)
    return np.bincount(exact.index(np.asarray(solution.x)), minlength=len(exact.states))


def chi_square(counts, law):
    """The probability of counts as far from a law."""
    law = law / law.sum()
    assert not np.any(counts[law < 1e-12])
    kept = law > 1e-12
    return scipy.stats.chisquare(counts[kept], N * law[kept]).pvalue


def test_first_hitting_is_exact():
    exact = Exact("mask")
    assert chi_square(drawn(exact, None, None), exact.law(1.0)) > 1e-4


@pytest.mark.parametrize("n", [1, 2, 7])
def test_one_masked_token_is_exact_in_any_number_of_steps(n):
    """Until its last step on the posterior, that of a mask does not change."""
    law = RNG.dirichlet(np.ones(VOCABULARY))
    state = np.append(np.zeros(VOCABULARY), 1.0)
    for t, s in itertools.pairwise(np.linspace(0, 1, n + 1)[:-1]):
        share = (s - t) / (1 - t)
        state = np.append(state[:-1] + share * state[-1] * law, (1 - share) * state[-1])
    np.testing.assert_allclose(state[:-1] + state[-1] * law, law, rtol=1e-12)
    path = paths.mixture(source=sources.mask(VOCABULARY))
    posterior = velocities.token_law(path, law)
    keys = jax.random.split(jax.random.key(3), N)
    x0 = np.full((N, 1), VOCABULARY, np.int32)
    grid = sampling.grids.uniform(n)
    x = sampling.jumps(posterior, x0, grid, keys=keys, path=path).x
    assert chi_square(np.bincount(np.asarray(x)[:, 0], minlength=VOCABULARY), law) > 1e-4


GIVEN = np.array([True, False, False, True, False, False])


def blurred(t, x):
    """A posterior that likes the neighbours of the tokens it sees."""
    near = jax.nn.one_hot(x, 5) + jnp.roll(jax.nn.one_hot(x, 5), 1, axis=1)
    return near + jnp.arange(5) * 0.1 + 0 * jnp.asarray(t)[:, None, None]


OF_MASKS = {
    "confident": leaps.confident(),
    "doubtful": leaps.confident(doubt=1.0),
    "first_hitting": None,
    "entropy_bounded": None,
}


@pytest.mark.parametrize(
    ("method", "name"),
    [
        *(c for c in CASES if c[1] in ("mask", "uniform", "metric")),
        *((name, "mask") for name in OF_MASKS),
    ],
)
def test_given_tokens_stay_and_all_others_are_filled(method, name):
    """Whatever the leap; and a sample depends on its own key alone."""
    path = {
        "mask": paths.mixture(paths.kappas.cosine(), source=sources.mask(5)),
        "uniform": paths.mixture(source=sources.tokens(np.ones(5))),
        "metric": paths.metric(abs(np.arange(5.0)[:, None] - np.arange(5.0))),
    }[name]
    leap, n = LEAPS[method][0] if method in LEAPS else OF_MASKS[method], 6
    keys, given = jax.random.split(jax.random.key(0), n), np.broadcast_to(GIVEN, (n, 6))
    prompt = np.arange(n * 6, dtype=np.int32).reshape(n, 6) % 5
    x0 = np.where(given, prompt, path.source.sample(keys, (6,)))

    def run(keys, x0):
        kwargs = {"keys": keys, "path": path, "given": given}
        if method == "first_hitting":
            return sampling.first_hitting(blurred, x0, **kwargs)
        if method == "entropy_bounded":
            return sampling.entropy_bounded(blurred, x0, bound=0.0, **kwargs)
        return sampling.jumps(blurred, x0, sampling.grids.uniform(4), method=leap, **kwargs)

    found = run(keys, x0)
    x = np.asarray(found.x)
    assert np.all(found.success)
    assert np.all((x >= 0) & (x < 5))
    assert np.array_equal(np.where(given, x, 0), np.where(given, prompt, 0))
    assert not np.array_equal(x, x0)
    others = np.asarray(run(keys.at[:2].set(keys[4]), x0[[5, 5, 2, 3, 4, 5]]).x)
    assert np.array_equal(x[2:], others[2:])
    assert not np.array_equal(x[:2], others[:2])
    calls = 4 if leap is None else 3 * leap.calls + 1
    assert np.all(np.asarray(found.nfe) == calls)


def test_confident_unmasks_by_the_schedule():
    path, n = paths.mixture(source=sources.mask(5)), 4
    keys = jax.random.split(jax.random.key(0), n)
    x0 = path.source.sample(keys, (8,)).at[:, 0].set(2)
    method, grid = leaps.confident(0.0), [0.0, 0.25, 0.5, 0.75, 1.0]
    run = sampling.jumps(blurred, x0, grid, keys=keys, path=path, method=method, save=True)
    masked = np.sum(np.asarray(run.xs) == 5, axis=-1)
    assert masked.tolist() == [[7] * n, [5] * n, [3] * n, [2] * n, [0] * n]


def test_refusals():
    path, keys = paths.mixture(source=sources.mask(5)), jax.random.split(jax.random.key(0), 2)
    x0, grid = path.source.sample(keys, (6,)), sampling.grids.uniform(2)

    def refused(match, logits=blurred, x0=x0, grid=grid, **kwargs):
        with pytest.raises(ValueError, match=match):
            sampling.jumps(logits, x0, grid, **{"keys": keys, "path": path, **kwargs})

    refused("path of real numbers", path=paths.linear())
    near = paths.metric(abs(np.arange(5.0)[:, None] - np.arange(5.0)))
    even = paths.mixture(source=sources.uniform_tokens(5))
    for leap, other in [
        (leaps.by_rates(), near),
        (leaps.forth_and_back(1.0), paths.mixture()),
        (leaps.remasking(0.5), even),
        (leaps.confident(), even),
    ]:
        refused(r"is of paths\.mixture", path=other, x0=x0 % 5, method=leap)
    refused("whole numbers", x0=x0.astype(float))
    refused("let the grid rise", grid=[1.0, 0.0])
    refused("bool, True for a token that stays", given=GIVEN)
    refused("one axis more, the vocabulary", logits=lambda t, x: x)
    refused("every condition leads with the batch", cond={"label": jnp.zeros(3)})
    with pytest.raises(ValueError, match=r"sources\.mask\(token\)"):
        sampling.first_hitting(blurred, x0, keys=keys, path=paths.mixture())
    with pytest.raises(ValueError, match="bound of 0 or more"):
        sampling.entropy_bounded(blurred, x0, keys=keys, path=path, bound=-1.0)
    for make, match in [
        (lambda: leaps.trapezoidal(1.0), "0 < theta < 1"),
        (lambda: leaps.forth_and_back(-1.0), "churn of 0 or more"),
        (lambda: leaps.remasking(2.0), "0 <= eta <= 1"),
        (lambda: leaps.remasking(0.5, policy="scald"), "did you mean 'scaled'"),
        (lambda: leaps.confident(-1.0), "choice of 0 or more"),
        (lambda: leaps.confident(doubt=-1.0), "doubt of 0 or more"),
        (lambda: leaps.corrected(leaps.euler(), steps=0), "whole number of steps"),
        (lambda: leaps.corrected(leaps.euler(), size=0.0), "positive size"),
        (lambda: velocities.temperature(blurred, 0.0), "temperature is positive"),
        (lambda: velocities.top_p(blurred, 1.5), "mass in"),
        (lambda: paths.kappas.custom(lambda t: t / 2), "0 at the source and 1 at the data"),
        (lambda: paths.kappas.custom(lambda t: t + jnp.sin(2 * jnp.pi * t)), "kappa falls near"),
        (lambda: paths.kappas.polynomial(0.0), "positive, finite powers"),
        (lambda: paths.metric(np.zeros((2, 2))), "give embeddings that differ"),
        (lambda: sources.tokens([0.0, 0.0]), "all zero"),
        (lambda: sources.tokens([-1.0, 2.0]), "non-negative"),
    ]:
        with pytest.raises(ValueError, match=match):
            make()


def test_logits_that_are_not_numbers_are_no_success():
    path, keys = paths.mixture(source=sources.mask(5)), jax.random.split(jax.random.key(0), 2)
    x0 = path.source.sample(keys, (6,))

    def broken(t, x):
        return jnp.where(jnp.arange(2)[:, None, None] == 1, jnp.nan, blurred(t, x))

    found = sampling.jumps(broken, x0, sampling.grids.uniform(3), keys=keys, path=path)
    assert found.success.tolist() == [True, False]


def test_rare_tokens_are_drawn_as_often_as_they_should():
    """Also where the uniform numbers of float32 are too coarse for one level of inversion."""
    vocabulary, n = 1000, 200_000
    logits = jnp.full(vocabulary, -14.0).at[0].set(0.0)
    keys = jax.random.split(jax.random.key(0), n)
    x = jax.jit(lambda keys: tokens.drawn(keys, jnp.broadcast_to(logits, (n, vocabulary))))(keys)
    rare, share = int(np.sum(np.asarray(x) != 0)), 999 * np.exp(-14.0) / (1 + 999 * np.exp(-14.0))
    assert abs(rare - n * share) < 4 * np.sqrt(n * share)


def test_a_draw_holds_no_second_array_of_logits():
    batch, length, vocabulary = 4, 32, 5000
    shape = jax.ShapeDtypeStruct((batch, length, vocabulary), jnp.float32)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), batch))
    compiled = jax.jit(tokens.drawn).lower(keys, shape).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 0.1 * 4 * batch * length * vocabulary


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_guidance_of_a_toy_language_has_its_exact_law(scale):
    """One token of three classes: the guided posterior is `p(x | c)^s p(x)^(1 - s)`, and so is
    the law of samples, in any number of steps; right classes are the more the stronger it is.
    """
    of_class = np.float32(np.random.default_rng(4).dirichlet(np.ones(5), 3))
    laws = np.log(np.concatenate([of_class, np.mean(of_class, 0, keepdims=True)]))

    def posterior(t, x, label):
        return jnp.broadcast_to(jnp.asarray(laws)[label][:, None], (*x.shape, 5))

    guided = velocities.classifier_free(posterior, scale=scale, null={"label": 3})
    path, label = paths.mixture(source=sources.mask(5)), np.arange(N, dtype=np.int32) % 3
    keys = jax.random.split(jax.random.key(5), N)
    x0 = path.source.sample(keys, (1,))
    grid, cond = sampling.grids.uniform(3), {"label": label}
    found = sampling.jumps(guided, x0, grid, keys=keys, path=path, cond=cond)
    wanted = scipy.special.softmax(scale * laws[:3] + (1 - scale) * laws[3], axis=-1)
    for c in range(3):
        x = np.asarray(found.x)[label == c, 0]
        counts = np.bincount(x, minlength=5)
        expected = len(x) * np.asarray(wanted[c], float)
        assert scipy.stats.chisquare(counts, expected * len(x) / expected.sum()).pvalue > 1e-5
    classes = scipy.special.softmax(laws[:3], axis=0)
    right = np.mean(classes[label, np.asarray(found.x)[:, 0]])
    exact = np.mean(np.sum(wanted * classes, axis=-1))
    assert abs(right - exact) < 0.01
    unguided = np.mean(np.sum(of_class * classes, axis=-1))
    assert (exact > unguided + 0.02) == (scale > 1)
    assert found.nfe[0] * guided.evaluations == 6


CLASSES = 2
OF_CLASS = np.random.default_rng(6).dirichlet(np.ones(VOCABULARY**LENGTH), CLASSES)
OF_CLASS = OF_CLASS.reshape(CLASSES, VOCABULARY, VOCABULARY)


class Conditional(Exact):
    """What a path says of every sequence where the data is of one class, or of any."""

    def __init__(self, name, law):
        super().__init__(name)
        self.table = law

    def joint(self, t):
        each = self.given_data(t)
        return np.einsum("ab,ax,by->xyab", self.table, each, each)

    def law(self, t):
        return self.joint(t).sum((2, 3)).ravel()

    def posteriors(self, t):
        joint = self.joint(t).reshape(-1, VOCABULARY, VOCABULARY)
        total = joint.sum((1, 2), keepdims=True)
        joint = joint / np.where(total > 0, total, 1.0)
        return np.stack([joint.sum(2), joint.sum(1)], axis=1)


@pytest.mark.parametrize("name", ["mask", "uniform", "marginal", "hybrid", "gidd"])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_ancestral_sampling_of_tokens_that_are_independent_is_exact(name, n):
    """On any grid, and so of one token."""
    exact = Conditional(name, np.outer([0.6, 0.3, 0.1], [0.2, 0.3, 0.5]))
    law = exact.law(0.0)
    for t, s in itertools.pairwise(np.linspace(0, 0.8, n + 1)):
        law = ancestral(exact, t, s) @ law
    np.testing.assert_allclose(law, exact.law(0.8), atol=1e-14)


@jax.tree_util.Partial
def label_of(path, t, hot, *, label):
    """`log p_t(c | x)` of class `label`, of any one-hot tokens."""
    x = jnp.argmax(hot, axis=-1)
    each = [velocities.token_law(path, law).log_prob(t, x) for law in OF_CLASS]
    return jax.nn.log_softmax(jnp.stack(each), axis=0)[label, jnp.arange(len(x))]


@jax.tree_util.Partial
def told(of_any, of_one, t, x, label):
    """The posterior of class 1, or of any for another label."""
    return jnp.where(label[:, None, None] == 1, of_one(t, x), of_any(t, x))


@jax.jit
def guided_rates(guided, t, x, label):
    return jnp.exp(tokens.but(guided(t, x, label=label), x))


@pytest.mark.parametrize("name", ["mask", "uniform"])
@pytest.mark.parametrize("scale", [0.0, 1.0, 2.0])
def test_guided_rates_are_powers_of_the_rates(name, scale, x64):
    """With and without a condition, and by a predictor of every jump: by Bayes' rule that is the
    same, where the rates are those of noising run backwards, as of masks.
    """
    every = Conditional(name, OF_CLASS.mean(0))
    one, t = Conditional(name, OF_CLASS[1]), 0.4
    jumps = every.rates(t) > 0
    ratio = one.rates(t) / np.where(jumps, every.rates(t), 1.0)
    wanted = np.where(jumps, ratio**scale * every.rates(t), 0.0)
    at, x = np.full(len(every.states), t), every.states
    of_any = velocities.token_law(every.path, OF_CLASS.mean(0))
    of_one = velocities.token_law(every.path, OF_CLASS[1])

    label = np.ones(len(x), int)
    free = velocities.classifier_free(
        jax.tree_util.Partial(told, of_any, of_one),
        scale=scale,
        null={"label": 2},
        rule=velocities.geometric(),
    )
    by_each = velocities.tilted(
        of_any,
        jax.tree_util.Partial(label_of, every.path),
        scale=scale,
        withheld=("label",),
        each=True,
    )
    for guided in (free, by_each) if name == "mask" else (free,):
        rates = guided_rates(guided, at, x, label)
        rates = np.where(every.path.known(x)[..., None], 0.0, rates)
        rates = np.pad(rates, ((0, 0), (0, 0), (0, every.symbols - VOCABULARY)))
        np.testing.assert_allclose(rates, wanted, atol=1e-12)


def test_samples_guided_by_a_predictor_have_the_law_of_the_class():
    """Nearly: on a fine grid, with every jump tried."""
    exact = Conditional("mask", OF_CLASS[1])
    guided = velocities.tilted(
        velocities.token_law(exact.path, OF_CLASS.mean(0)),
        jax.tree_util.Partial(label_of, exact.path),
        withheld=("label",),
        each=True,
    )
    n = 4000
    keys = jax.random.split(jax.random.key(1), n)
    x0 = exact.path.source.sample(jax.random.split(jax.random.key(2), n), (LENGTH,))
    grid, cond = [*np.linspace(0, 0.98, 30), 0.999], {"label": jnp.ones(n, int)}
    kwargs = {"keys": keys, "path": exact.path, "method": leaps.by_rates(), "cond": cond}
    x = np.asarray(sampling.jumps(guided, x0, grid, **kwargs).x)
    counts = np.bincount(exact.index(x), minlength=len(exact.states)) / n
    other = Conditional("mask", OF_CLASS.mean(0)).law(0.999)
    assert abs(counts - exact.law(0.999)).sum() < 0.15 < 0.4 < abs(counts - other).sum()


def test_a_predictor_that_is_linear_is_known_by_its_slope(x64):
    weights = np.random.default_rng(7).normal(size=(6, 6))
    linear = jax.tree_util.Partial(lambda w, t, hot: jnp.sum(w * hot, (1, 2)), weights)
    x = np.arange(24).reshape(4, 6) % 6

    @jax.jit
    def read(t, x):
        tilted = (velocities.tilted(blurred, linear, scale=1.5, each=e) for e in (True, False))
        return *(v(t, x) for v in tilted), jax.nn.log_softmax(blurred(t, x))

    each, slope, plain = map(np.asarray, read(np.full(4, 0.3), x))
    np.testing.assert_allclose(each, slope, atol=1e-12)
    own = np.take_along_axis(weights[None] + 0 * x[..., None], x[..., None], 2)
    np.testing.assert_allclose(slope - plain, 1.5 * (weights[:, :5] - own), atol=1e-12)


RUGGED = np.float32(3 * np.random.default_rng(8).normal(size=(40, 7, 300)))


def rugged(t, x):
    return jnp.asarray(RUGGED)


@jax.jit
def kept_of(top_p, t, x):
    return ~jnp.isneginf(top_p(t, x)), jax.nn.softmax(rugged(t, x))


@pytest.mark.parametrize("mass", [1.0, 0.9, 0.5, 0.01])
def test_top_p_keeps_what_sorting_keeps(mass):
    at = np.zeros(40, np.float32), np.zeros((40, 7), np.int32)
    kept, law = map(np.asarray, kept_of(traceable(velocities.top_p(rugged, mass)), *at))
    law = law.astype(float)
    order = np.argsort(-law, axis=-1)
    ranked = np.take_along_axis(law, order, -1)
    wanted = np.zeros_like(law, bool)
    np.put_along_axis(wanted, order, (ranked.cumsum(-1) - ranked < mass) | (mass == 1), -1)
    assert np.mean(np.any(kept != wanted, axis=-1)) < 0.02  # ties of the last bits
    assert np.all(np.sum(np.where(kept, law, 0), -1) >= mass - 1e-5)


def test_temperature_is_a_power_of_the_law():
    hot = velocities.temperature(blurred, 2.0)
    t, x = np.zeros(2, np.float32), np.arange(12, dtype=np.int32).reshape(2, 6) % 5
    law, found = jax.jit(lambda t, x: [jax.nn.softmax(v(t, x)) for v in (blurred, hot)])(t, x)
    roots = np.asarray(law) ** 0.5
    np.testing.assert_allclose(found, roots / np.sum(roots, axis=-1, keepdims=True), rtol=1e-5)
    assert hot.evaluations == 1


def test_entropy_bounded_draws_what_its_bound_allows():
    """Entropies of 0, .5, 1.0 and 1.6 nats: what is drawn at once is known, and how often."""
    sizes = np.array([40.0, 2.2, 1.3, 0.0])[:, None] * np.eye(5)[0]
    law = jnp.asarray(sizes, jnp.float32)
    entropies = np.asarray(tokens.entropy(law))
    assert np.all(np.diff(entropies) > 0)
    path, n = paths.mixture(source=sources.mask(5)), 3
    keys = jax.random.split(jax.random.key(0), n)
    x0 = path.source.sample(keys, (4,))

    def posterior(t, x):
        return jnp.broadcast_to(law, (*x.shape, 5))

    for bound in (0.0, entropies[1] + 1e-3, entropies[:3].sum() + 1e-3):
        left, calls = list(entropies), 0
        while left:
            before = np.cumsum(left) - left
            left, calls = left[int(np.sum(before <= bound + 1e-6)) :], calls + 1
        run = sampling.entropy_bounded(posterior, x0, keys=keys, path=path, bound=bound)
        assert run.nfe.tolist() == [calls] * n
        x = np.asarray(run.x)
        assert np.all((x >= 0) & (x < 5))
        assert np.all(run.success)


def test_doubt_masks_again_what_is_less_sure():
    """A planner that trusts one token alone: it stands, and others do in its stead."""
    path, n = paths.mixture(source=sources.mask(5)), 2
    keys = jax.random.split(jax.random.key(0), n)
    x0 = path.source.sample(keys, (8,))

    def planner(t, y):
        late = jnp.arange(8.0) * (2 * (t[:, None] > 0.3) - 1)
        return late + 0 * y

    grid = [0.0, 0.25, 0.5, 0.75]
    stands = {}
    for doubt in (0.0, 1.0):
        method = leaps.confident(0.0, doubt=doubt, planner=planner)
        run = sampling.jumps(blurred, x0, grid, keys=keys, path=path, method=method, save=True)
        stands[doubt] = (np.asarray(run.xs)[:, 0] != 5).astype(int).tolist()
    first, late = [1, 1, 0, 0, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1, 1, 1]
    assert stands[0.0] == [[0] * 8, first, [1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0, 1, 1]]
    assert stands[1.0] == [[0] * 8, first, [1, 1, 1, 1, 0, 0, 0, 0], late]
    method = leaps.confident(planner=lambda t, y: t)
    with pytest.raises(ValueError, match="the planner returns shape"):
        sampling.jumps(blurred, x0, grid, keys=keys, path=path, method=method)


@pytest.mark.parametrize("batch", [2, 3])
def test_a_scale_a_sample_guides_every_token_of_it(batch):
    """Where the batch is as long as the sequences too; and a scale by time."""

    def logits(t, x, label):
        return 2 * jax.nn.one_hot((x + label[:, None]) % 5, 5)

    scales, null = np.linspace(1.0, 3.0, batch, dtype=np.float32), {"label": 2}

    def guided(scale):
        return velocities.classifier_free(logits, scale=scale, null=null)

    several = velocities.composed(logits, scales={"label": scales}, null=null)
    made = [guided(scales), several, guided(lambda t: 1 + 2 * t), guided(2.0)]
    made += [guided(float(scale)) for scale in scales]
    run = jax.jit(lambda t, x, label: [v(t, x, label=label) for v in made])
    at = np.full(batch, 0.5, np.float32), np.zeros((batch, 2), np.int32), np.ones(batch, np.int32)
    own, several, by_time, two, *each = map(np.asarray, run(*at))
    each = np.stack([v[i] for i, v in enumerate(each)])
    np.testing.assert_allclose(own, each, rtol=1e-6)
    np.testing.assert_allclose(by_time, two, rtol=1e-6)
    np.testing.assert_allclose(several, each, rtol=1e-6)


def test_paths_that_jumps_does_not_follow_say_what_does():
    keys, x0 = jax.random.split(jax.random.key(0), 2), jnp.zeros((2, 3), int)
    masks, even = sources.mask(5), sources.uniform_tokens(5)
    for path, method, match in (
        (paths.gidd(source=masks), leaps.tau_leaping(), "take ancestral"),
        (paths.gidd(source=masks), leaps.forth_and_back(0.5), "take ancestral"),
        (paths.gidd(source=masks), leaps.corrected(leaps.euler()), "take ancestral"),
        (paths.gidd(source=masks), leaps.confident(), "not between masks and data"),
        (paths.duo(source=even), None, r"path\.hard"),
        (paths.edits(5), None, r"sampling\.edits"),
    ):
        with pytest.raises(ValueError, match=match) as refused:
            sampling.jumps(blurred, x0, [0.0, 0.5, 1.0], keys=keys, path=path, method=method)
        assert "\n" not in str(refused.value)

"""The sampler of edits: its exact law, by enumeration of all that a step may do, and its draws."""

import itertools
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.tree_util import Partial

from jaxflow import paths, sampling, velocities
from jaxflow.paths.edits import DELETE, INSERT, SUBSTITUTE
from tests.sequences import CASES, edited, padded, unpadded

OFTEN = 600


@cache
def case(name):
    return CASES[name]()


def chances_of(rates, share, x, room):
    """What each place of a sequence may do in a step, as lists of edits with their chances."""
    choices = []
    for place in range(len(x) + 1):
        own = share * rates[place]
        if place:
            some = [(DELETE, place, 0, own[DELETE, 0])]
            some += [(SUBSTITUTE, place, a, chance) for a, chance in enumerate(own[SUBSTITUTE])]
            choices.append(_with_none(some))
        choices.append(_with_none([(INSERT, place, a, c) for a, c in enumerate(own[INSERT])]))
    return choices


def _with_none(some):
    total = sum(chance for *_, chance in some)
    some = [(mark, chance / max(total, 1.0)) for *mark, chance in some if chance > 0]
    return [(None, 1 - sum(chance for _, chance in some)), *some]


def step_law(rates, share, x, room):
    """`{(sequence, success): chance}` after a step; insertions beyond the room are not made."""
    law = {}
    for choice in itertools.product(*chances_of(rates, share, x, room)):
        marks = [mark for mark, _ in choice if mark is not None]
        chance = np.prod([chance for _, chance in choice])
        left = room - len(x) + sum(kind == DELETE for kind, *_ in marks)
        comes = [mark for mark in marks if mark[0] == INSERT]
        marks = [mark for mark in marks if mark[0] != INSERT] + comes[:left]
        end = edited(x, marks), len(comes) <= left
        law[end] = law.get(end, 0.0) + chance
    return law


def kernel(exact, kappa, then):
    """A step of all sequences on the way, `[to, from]`, with all that it may come to."""
    rates, share = exact.rates(kappa), (then - kappa) / (1 - kappa)
    laws = [step_law(rates[i], share, x, exact.room) for i, x in enumerate(exact.states)]
    ends = sorted({end for law in laws for end in law})
    return np.array([[law.get(end, 0.0) for law in laws] for end in ends]), ends


@pytest.mark.parametrize(("name", "span"), [("from_empty", (0.3, 0.7)), ("between", (0.5, 0.7))])
def test_a_step_has_its_law(name, span):
    """A joint chi-square of the draws from every sequence, and of which are no success."""
    exact = case(name)
    matrix, ends = kernel(exact, *span)
    number = {end: i for i, end in enumerate(ends)}
    np.testing.assert_allclose(matrix.sum(0), 1.0, atol=1e-12)
    x0 = np.repeat(padded(exact.states, exact.room, exact.nothing), OFTEN, axis=0)
    said = Partial(exact.network(), _floats(exact.said(exact.rates(span[0]))))
    keys = jax.random.split(jax.random.key(0), len(x0))
    path = paths.edits(exact.letters)
    found = sampling.edits(said, x0, span, keys=keys, path=path)
    after = zip(unpadded(found.x, exact.nothing), np.asarray(found.success).tolist(), strict=True)
    counts = np.zeros_like(matrix)
    np.add.at(counts, ([number[end] for end in after], np.arange(len(x0)) // OFTEN), 1)
    assert np.all(counts[matrix == 0] == 0)
    often = OFTEN * matrix > 5
    rest = matrix > 0
    rest &= ~often
    seen = np.concatenate([counts[often], np.sum(counts * rest, axis=0)])
    wanted = np.concatenate([OFTEN * matrix[often], OFTEN * np.sum(matrix * rest, axis=0)])
    statistic = np.sum((seen - wanted)[wanted > 1] ** 2 / wanted[wanted > 1])
    degrees = np.sum(wanted > 1) - len(exact.states)
    assert 1e-4 < scipy.stats.chi2.sf(statistic, degrees) < 1 - 1e-4
    refused = sum(matrix[i].sum() for i, (_, success) in enumerate(ends) if not success)
    assert (refused > 0.01) == (name == "from_empty") == (not np.all(found.success))
    assert np.all(np.asarray(found.nfe) == 1)


def _floats(said):
    return {k: jnp.asarray(v, jnp.float32) for k, v in said.items()}


@pytest.mark.parametrize("name", CASES)
def test_its_law_converges_to_that_of_the_data(name):
    """At the rate of the step; the last one included, to the end of time."""
    exact, errors = case(name), []
    for n in (8, 16, 32, 64):
        law = exact.law(0.0)[0]
        for kappa, then in itertools.pairwise(np.linspace(0, 1, n + 1)):
            matrix, ends = kernel(exact, kappa, then)
            law = _among(exact, ends, matrix @ law)
        errors.append(abs(law - exact.data()).sum())
    assert errors[-1] < 0.03
    assert all(1.8 < a / b < 2.2 for a, b in itertools.pairwise(errors))


def _among(exact, ends, law):
    """The law of sequences on the way; what is not among them has none that could be told."""
    of_states = np.zeros(len(exact.states))
    for (x, _), share in zip(ends, law, strict=True):
        if x in exact.number:
            of_states[exact.number[x]] += share
    return of_states


def steady(t, x, *, scale):
    """Rates and laws by the token and its place, the same at all times."""
    places = jnp.pad(x, ((0, 0), (1, 0)))[..., None] + jnp.arange(x.shape[1] + 1.0)[:, None]
    letters = jnp.cos(places + jnp.arange(3.0))
    log_rates = scale[:, None, None] * jnp.sin(places * jnp.arange(1.0, 4.0)) - 1
    return {"log_rates": log_rates, "insert": letters, "substitute": -letters}


def test_a_sample_depends_on_its_own_key_alone():
    path, n = paths.edits(3), 6
    keys, grid = jax.random.split(jax.random.key(0), n), sampling.grids.uniform(5)
    x0 = padded([(), (0,), (1, 2), (2, 2, 2), (0, 1, 2, 0), (1,)], 12, 3)
    cond = {"scale": np.linspace(0.5, 1.0, n, dtype=np.float32)}

    def run(keys, x0):
        return sampling.edits(steady, x0, grid, keys=keys, path=path, cond=cond, save=True)

    found = run(keys, x0)
    xs = np.asarray(found.xs)
    assert np.array_equal(xs[0], x0)
    assert np.array_equal(xs[-1], found.x)
    assert xs.shape == (6, n, 12)
    assert np.all(np.asarray(found.nfe) == 5)
    others = np.asarray(run(keys.at[:2].set(keys[4]), x0[[5, 5, 2, 3, 4, 5]]).x)
    assert np.array_equal(xs[-1, 2:], others[2:])
    assert not np.array_equal(xs[-1, :2], others[:2])
    for x in xs:
        assert np.array_equal(x, padded(unpadded(x, 3), 12, 3))


def told(t, x, *, log_rates, bad):
    """The rates of all places alike, and a 1 that comes; what is bad is not a number."""
    logits = jnp.zeros((len(x), 5, 2)).at[..., 0].set(-jnp.inf)
    log_rates = jnp.where((bad == 1)[:, None, None], jnp.nan, log_rates[:, None])
    insert = jnp.where((bad == 2)[:, None, None], jnp.nan, logits)
    log_rates = jnp.broadcast_to(log_rates, (len(x), 5, 3))
    return {"log_rates": log_rates, "insert": insert, "substitute": logits}


def test_rates_beyond_one_and_what_cannot_be_inserted():
    """Of a step the first insertions are made, as many as there is room for, and others are no
    success; a place whose deletion and substitution are both sure has one of them, either half of
    the time.
    """
    path, n = paths.edits(2), 300
    x0 = padded([(), (0, 0), (0, 0, 0), (), (), *[(0,) * 4] * n], 4, 2)
    with np.errstate(divide="ignore"):
        inserts, changes = np.log(np.float32([[2.0, 0.0, 0.0], [0.0, 3.0, 3.0]]))
    log_rates = np.concatenate([np.tile(inserts, (5, 1)), np.tile(changes, (n, 1))])
    cond = {"log_rates": log_rates, "bad": np.int32([0, 0, 0, 1, 2] + [0] * n)}
    keys = jax.random.split(jax.random.key(0), len(x0))
    found = sampling.edits(told, x0, [0.5, 1.0], keys=keys, path=path, cond=cond)
    x, success = np.asarray(found.x), np.asarray(found.success)
    assert unpadded(x[:5], 2) == [(1,), (1, 0, 1, 0), (1, 0, 0, 0), (), ()]
    assert success[:5].tolist() == [True, False, False, False, False]
    assert np.all(success[5:])
    assert np.all(x[5:] != 0)
    assert abs(np.sum(x[5:] == 1) - 2 * n) < 4 * np.sqrt(n)


def test_guidance_is_of_each_thing_that_is_said():
    """Rates and laws to a power: their logarithms are combined, each with its own."""

    def said(t, x, label):
        log_rates = jnp.ones((len(x), x.shape[1] + 1, 3)) * label[:, None, None]
        logits = label[:, None, None] * jnp.arange(2.0) * jnp.ones((len(x), x.shape[1] + 1, 1))
        return {"log_rates": log_rates, "insert": logits, "substitute": 2 * logits}

    guided = velocities.classifier_free(said, scale=3.0, null={"label": 1.0})

    @jax.jit
    def both(t, x, label):
        return guided(t, x, label=label), said(t, x, 3 * label - 2)

    t, x, label = np.float32([0.5, 0.5]), np.int32([[0, 2], [1, 1]]), np.float32([2.0, 0.0])
    found, wanted = both(t, x, label)
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6)


def test_refusals(unchecked):
    path, keys = paths.edits(3), jax.random.split(jax.random.key(0), 2)
    x0, grid = jnp.asarray(padded([(0, 1), ()], 4, 3)), sampling.grids.uniform(2)

    def refused(match, rates=steady, x0=x0, grid=grid, **kwargs):
        with pytest.raises(ValueError, match=match):
            sampling.edits(rates, x0, grid, **{"keys": keys, "path": path, **kwargs})

    refused("is no path of edits", path=paths.mixture())
    refused("whole numbers", x0=x0.astype(float))
    refused(r"\[batch, length\]", x0=x0[0])
    refused("x0 has tokens from 0 to 4", x0=x0.at[1, 3].set(4))
    refused("padding, 3, before its last token", x0=x0[:, ::-1])
    refused("let the grid rise", grid=[1.0, 0.0])
    refused("one typed key a sample", keys=keys[:1])
    refused("a network of edits returns arrays of the shapes", rates=lambda t, x: x)
    refused("every condition leads with the batch", cond={"scale": jnp.zeros(3)})

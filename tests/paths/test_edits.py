"""The path of edits: its alignments, points and rates, over all sequences of two letters."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import draws, paths, sources
from jaxflow.paths import kappas
from jaxflow.paths.alignment import alignment
from tests.sequences import CASES, edited, marks_of, padded, unpadded

NOTHING, LENGTH = 3, 7


def drawn_pairs(n):
    rng = np.random.default_rng(0)

    def one():
        return tuple(rng.integers(0, NOTHING, rng.integers(0, LENGTH + 1)).tolist())

    return [(one(), one()) for _ in range(n)]


@cache
def distance(a, b):
    """Levenshtein's, of tails."""
    if not a or not b:
        return len(a) + len(b)
    others = distance(a[1:], b), distance(a, b[1:])
    return min(distance(a[1:], b[1:]) + (a[0] != b[0]), 1 + min(others))


def walked(a, b):
    """The alignment that keeps or substitutes before it deletes, and deletes before it inserts."""
    found = []
    while a or b:
        if a and b and distance(a, b) == distance(a[1:], b[1:]) + (a[0] != b[0]):
            found, a, b = [*found, (a[0], b[0])], a[1:], b[1:]
        elif a and distance(a, b) == distance(a[1:], b) + 1:
            found, a = [*found, (a[0], NOTHING)], a[1:]
        else:
            found, b = [*found, (NOTHING, b[0])], b[1:]
    return found


PAIRS = drawn_pairs(400)
X0, X1 = (padded(side, LENGTH, NOTHING) for side in zip(*PAIRS, strict=True))


def test_the_alignment_has_the_fewest_edits_and_the_stated_one_of_them():
    z0, z1 = (np.asarray(z) for z in jax.jit(alignment, static_argnums=2)(X0, X1, NOTHING))
    assert np.array_equal(np.sum(z0 != z1, axis=1), [distance(a, b) for a, b in PAIRS])
    room = LENGTH + LENGTH // 2
    wanted = [walked(a, b) for a, b in PAIRS]
    for side, z in enumerate((z0, z1)):
        assert np.array_equal(z, padded([[p[side] for p in w] for w in wanted], room, NOTHING))


@pytest.mark.parametrize("empty", [False, True])
def test_the_missing_edits_make_the_data(empty):
    """At every time, of the point of the path; at its ends that is the source, and the data."""
    path = paths.edits(NOTHING, source=sources.mask(NOTHING) if empty else None)
    x0 = np.full_like(X0, NOTHING) if empty else X0
    t = jnp.asarray(np.random.default_rng(1).uniform(size=len(x0)), jnp.float32)
    t = t.at[:50].set(0.0).at[50:100].set(1.0)
    z = path.latent(jax.random.key(0), x0)
    missing = jax.jit(type(path).missing)(path, t, x0, X1, z)
    x = unpadded(missing.x, NOTHING)
    assert np.array_equal(missing.x, padded(x, path.places(LENGTH), NOTHING))
    assert np.array_equal(missing.x, jax.jit(path.__call__)(t, x0, X1, z).x)
    assert x[:50] == unpadded(x0[:50], NOTHING)
    assert x[50:100] == unpadded(X1[50:100], NOTHING)
    made = [edited(x[row], marks_of(missing, row)) for row in range(len(x))]
    assert made == unpadded(X1, NOTHING)
    if not empty:
        counts = jnp.sum(missing.kind >= 0, axis=1)
        assert counts[:50].tolist() == [distance(a, b) for a, b in PAIRS[:50]]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("t", [0.03, 0.4, 0.95])
def test_the_rates_have_the_marginals_of_the_path(name, t, x64):
    """The forward equation of Kolmogorov, of every sequence on the way."""
    kappa = kappas.cosine_squared()
    exact = CASES[name](kappa)
    now, slope = np.sin(np.pi / 2 * t) ** 2, np.pi / 2 * np.sin(np.pi * t)
    law, change = exact.law(now)
    assert abs(law.sum() - 1) < 1e-13
    clock_rate = float(exact.path.clock_rate(jnp.array([t]))[0])
    flow = clock_rate * exact.generator(exact.rates(now)) @ law
    np.testing.assert_allclose(flow, slope * change, rtol=0, atol=1e-12)
    if name == "between":  # not for want of anything to do
        totals = exact.rates(now).sum((0, 1, 3))
        assert np.all(totals > 0.01)


def test_a_draw_completes_a_batch_of_sequences():
    path = paths.edits(NOTHING, source=sources.mask(NOTHING))
    batch = jax.jit(draws.standard(path).__call__)(jax.random.key(0), {"x1": jnp.asarray(X1)})
    assert batch["z"].shape == X1.shape
    assert np.all(np.asarray(batch["x0"]) == NOTHING)
    pairs = {"x0": jnp.asarray(X0), "x1": jnp.asarray(X1)}
    batch = draws.standard(paths.edits(NOTHING))(jax.random.key(0), pairs)
    sample = paths.edits(NOTHING)(batch["t"], batch["x0"], batch["x1"], batch["z"])
    assert sample.x.shape == batch["z"].shape == (len(X1), 10)
    assert paths.edits(NOTHING).padded(X1).shape == sample.x.shape
    assert sample.u is None


def test_shares_of_a_step_follow_the_clock():
    path = paths.edits(2, kappas.polynomial(3.0))
    t, s = jnp.array([0.0, 0.5, 1.0]), jnp.array([0.5, 1.0, 1.0])
    np.testing.assert_allclose(path.share(t, s), [0.125, 1.0, 1.0], rtol=1e-6)
    assert jnp.all(jnp.isfinite(path.clock_rate(jnp.array([0.0, 1.0]))))


def test_rates_of_what_is_no_edit_are_zero():
    path = paths.edits(NOTHING)
    x = jnp.asarray(X1[:5])
    said = {
        "log_rates": jnp.zeros((5, LENGTH + 1, 3)),
        **dict.fromkeys(("insert", "substitute"), jnp.zeros((5, LENGTH + 1, NOTHING))),
    }
    rates = np.exp(jax.jit(path.log_rates)(x, said))
    for row, sequence in enumerate(unpadded(x, NOTHING)):
        n = len(sequence)
        assert np.all(rates[row, : n + 1, 0] == 1)
        assert np.all(rates[row, 1 : n + 1] == 1)
        assert rates[row].sum() == 3 * n + 1
    one = {**said, "insert": said["insert"][..., :1], "substitute": said["insert"][..., :1]}
    letter = paths.edits(1).log_rates(jnp.minimum(x, 1), one)
    assert jnp.all(jnp.isneginf(letter[:, :, 1]))  # by no other letter than its own


def test_refusals(unchecked):
    path, t = paths.edits(3), jnp.full(2, 0.5)
    x = np.array([[0, 1, 3, 3], [2, 3, 3, 3]])
    z = path.latent(jax.random.key(0), x)

    def refused(match, path=path, t=t, x0=x, x1=x, z=z):
        with pytest.raises(ValueError, match=match):
            path(t, x0, x1, z)

    refused("whole numbers", x1=x + 0.5)
    refused("give them alike", x1=x[:, :3])
    refused(r"sequences are \[batch, length\]", x0=x[0], x1=x[0])
    refused("x1 has tokens from 0 to 4: those of this vocabulary run from 0 to 2", x1=x + (x == 3))
    refused("x0 has tokens from -1", x0=np.where(x == 0, -1, x))
    refused(
        r"x1\[1\] is \[3, 2, 3, 3\], with padding, 3, before", x1=np.stack([x[0], [3, 2, 3, 3]])
    )
    refused("one time", t=jnp.full((2, 4), 0.5))
    refused("z=path.latent", z=None)
    refused("z has shape", z=z[:, :4])
    empty = paths.edits(3, source=sources.mask(3))
    refused("begins at the empty sequence", path=empty, z=z[:, :4])
    logits = jnp.zeros((2, 5, 3))
    for said in (logits, {"log_rates": logits, "insert": logits}):
        with pytest.raises(ValueError, match="a place before the first token among them; got"):
            path.log_rates(x, said)
    for make, match in [
        (lambda: paths.edits(0), "at least 1 token"),
        (lambda: paths.edits(3, source=sources.mask(4)), r"is sources.mask\(3\)"),
        (lambda: paths.edits(3, kappas.polynomial(np.array([1.0, 2.0]))), "one for all"),
        (lambda: paths.edits(3, lambda t: 1 - t), "0 at the source"),
    ]:
        with pytest.raises(ValueError, match=match):
            make()

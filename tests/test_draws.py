"""Draws: everything random, on the global batch."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxflow import couplings, draws, paths, sources, times
from jaxflow.draws.groups import Grouped
from jaxflow.records import record
from jaxflow.types import Dependent, Held

NULL = {"label": 10}
X1 = jax.random.normal(jax.random.key(7), (16, 3))
BATCH = {"x1": X1, "cond": {"label": jnp.arange(16), "weight": jnp.sum(X1, 1)}}
WITH_X0 = {**BATCH, "x0": X1 + 1}
DEVICE = couplings.optimal_transport()


@record
class Bridge:
    """A path with randomness of its own."""

    def latent(self, key, x0):
        return jax.random.normal(key, x0.shape)

    def __call__(self, t, x0, x1, z=None):
        raise NotImplementedError


FULL = draws.standard(
    paths.vp(), coupling=DEVICE, times=times.stratified(times.uniform()), drop=draws.drop(0.3, NULL)
)
TABLE = {
    "source": (draws.source(sources.normal()), BATCH),
    "couple": (draws.couple(DEVICE), WITH_X0),
    "times": (draws.times(times.logit_normal(), (0.1, 0.9)), BATCH),
    "latent": (draws.latent(Bridge()), WITH_X0),
    "drop": (draws.drop(0.5, NULL), BATCH),
    "keys": (draws.keys(), BATCH),
    "negatives": (draws.negatives(), WITH_X0),
    "self_condition": (draws.self_condition(), BATCH),
    "spans": (draws.spans(times.logit_normal(), (0.1, 0.9), equal=0.5), BATCH),
    "dyadic": (draws.dyadic(3, equal=0.5), BATCH),
    "to_end": (draws.to_end((0.1, 0.9)), {**BATCH, "t": jnp.linspace(0.1, 0.9, 16)}),
    "groups": (draws.groups(4, draws.spans(times.uniform(), equal=0.0)), WITH_X0),
    "guidance": (
        draws.guidance(),
        {**WITH_X0, "t": jnp.linspace(0, 0.5, 16), "r": jnp.full(16, 0.5)},
    ),
    "noise": (draws.noise(sources.normal()), BATCH),
    "by_block": (draws.by_block(paths.mixture(), 3), {**BATCH, "x1": X1.astype(int)}),
    "chain": (draws.chain(draws.source(sources.normal()), draws.times(times.uniform())), BATCH),
    "standard": (FULL, BATCH),
}


def equal(a, b):
    same = jax.tree.map(lambda x, y: np.array_equal(numbers(x), numbers(y)), a, b)
    return all(jax.tree.leaves(same))


def numbers(a):
    is_key = jnp.issubdtype(a.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(a) if is_key else a)


@jax.jit
def drawn(draw, key, batch):
    return draw(key, batch)


def test_every_factory_is_in_the_table():
    public = {n for n in draws.__all__ if inspect.isfunction(getattr(draws, n))}
    assert public == {*TABLE, "as_draw"}


@pytest.mark.parametrize("name", TABLE)
def test_contract(name, key):
    """A function of the key alone, in and outside of jit; what was there stays unless re-paired."""
    draw, batch = TABLE[name]
    first, second, other = draw(key, batch), draw(key, batch), draw(jax.random.key(9), batch)
    assert equal(first, second)
    assert not equal(first, other) or name == "couple"
    compiled = jax.jit(draw.__call__)(key, batch)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(numbers(a), numbers(b), rtol=1e-6), compiled, first
    )
    np.testing.assert_array_equal(np.asarray(first["x1"]).reshape(X1.shape), batch["x1"])
    assert set(batch) <= set(first)
    leaves, tree = jax.tree.flatten(draw)
    assert leaves == ([10] if name in ("drop", "standard") else [])
    assert equal(jax.tree.unflatten(tree, leaves)(key, batch), first)
    assert type(draw).__name__ in repr(draw)


HELD = Held(jnp.int32(3), {"ema": {"w": jnp.float32(2.0)}}, {"w": jnp.float32(5.0)})


def plain(key, batch):
    return {**batch, "key": jax.random.key_data(key)}


def encoded(key, batch, held):
    """As a draw that takes its data through a frozen network."""
    return {**batch, "x1": held.frozen["w"] * batch["x1"], "t": held.step + held.ema["w"]}


class Method:
    """A bound method draws too."""

    def draw(self, key, batch, held=None):
        return {**batch, "seen": held is not None}


@pytest.mark.parametrize("name", TABLE)
def test_what_is_held_changes_no_draw_that_does_not_read_it(name, key):
    draw, batch = TABLE[name]
    assert equal(draw(key, batch, HELD), draw(key, batch))


def test_plain_functions_are_draws(key):
    """Of two arguments or three; what is held reaches the second kind, through chains too."""
    assert equal(draws.as_draw(plain)(key, BATCH, HELD), plain(key, BATCH))
    made = draws.chain(plain, draws.chain(encoded), Method().draw)(key, BATCH, HELD)
    np.testing.assert_array_equal(made["x1"], 5 * X1)
    assert made["t"] == 5
    assert made["seen"]
    assert draws.as_draw(FULL) == FULL
    by_jit = jax.jit(lambda draw, held: draw(key, BATCH, held)["x1"])
    np.testing.assert_array_equal(by_jit(draws.chain(plain, encoded), HELD), 5 * X1)


def test_every_draw_of_a_chain_has_a_key_of_its_own(key):
    def first(key, batch):
        return {**batch, "first": jax.random.key_data(key)}

    made = draws.chain(first, plain)(key, BATCH)
    keys = {
        tuple(np.asarray(k).tolist())
        for k in (made["first"], made["key"], jax.random.key_data(key))
    }
    assert len(keys) == 3


def test_a_source_draws_each_example_by_itself(key):
    """Standard normal, with rows and numbers of their own."""
    x0 = np.asarray(drawn(draws.source(sources.normal()), key, {"x1": jnp.zeros((4000, 2))})["x0"])
    assert len(np.unique(x0)) > 0.999 * x0.size
    n = x0.size
    assert abs(x0.mean() * np.sqrt(n)) < 4
    assert abs((np.mean(x0**2) - 1) / np.sqrt(2 / n)) < 4
    assert abs(np.mean(x0[:, 0] * x0[:, 1]) * np.sqrt(4000)) < 4


def test_times_of_frames_and_of_parts(key):
    """Each frame and each part has times of its own, uniform on the interval."""
    low, high = 0.2, 0.7
    x1 = np.zeros((500, 4, 3), np.float32)
    t = drawn(draws.times(times.uniform(), (low, high), lead=1), key, {"x1": x1})["t"]
    assert t.shape == (500, 4)
    assert t.dtype == jnp.float32
    two = {"a": times.uniform(), "b": times.logit_normal(2.0, 0.1)}
    parts = drawn(draws.times(two, (low, high)), key, {"x1": {"a": x1, "b": x1[:, 0]}})["t"]
    alike = draws.times(dict.fromkeys("ab", times.uniform()))
    again = drawn(alike, key, {"x1": {"a": x1, "b": x1}})["t"]
    assert not np.any(np.asarray(again["a"]) == np.asarray(again["b"]))
    for uniform in (np.asarray(t), np.asarray(parts["a"])):
        assert len(np.unique(uniform)) > 0.999 * uniform.size
        assert np.all((uniform >= low) & (uniform < high))
        share = (uniform.astype(float) - low) / (high - low)
        assert abs((share.mean() - 0.5) * np.sqrt(12 * share.size)) < 4
        assert abs((np.mean((share - 0.5) ** 2) - 1 / 12) * np.sqrt(180 * share.size)) < 4
    assert parts["b"].shape == (500,)
    expected = low + (high - low) / (1 + np.exp(-2))
    assert abs(np.median(parts["b"]) - expected) < 0.01


def test_a_latent_is_kept_beside_what_pairs_say(key):
    """A path's own randomness takes the place of the mark; a path without leaves it."""
    marked = {**WITH_X0, "z": Dependent()}
    assert drawn(draws.latent(paths.linear()), key, marked)["z"] == Dependent()
    assert drawn(draws.latent(Bridge()), key, marked)["z"].shape == X1.shape
    two = paths.product({"a": paths.linear(), "b": Bridge()})
    batch = {"x0": {"a": X1, "b": X1}, "x1": {"a": X1, "b": X1}, "z": Dependent()}
    z = drawn(draws.latent(two), key, batch)["z"]
    assert z["a"] == Dependent()
    assert z["b"].shape == X1.shape
    mixed = sources.product({"a": sources.normal(), "b": sources.uniform()})
    made = drawn(draws.source(mixed), key, {"x1": batch["x1"]})
    assert made["z"] == {"a": None, "b": Dependent()}


def test_standard_completes_the_batch(key):
    batch = drawn(FULL, key, BATCH)
    assert batch["x0"].shape == X1.shape
    assert batch["x0"].dtype == X1.dtype
    assert batch["t"].shape == (16,)
    low, high = paths.vp().schedule.interval
    t = np.asarray(batch["t"])
    assert np.all((t >= low) & (t <= high))
    assert batch["z"] == Dependent()  # for the transport
    assert drawn(draws.standard(paths.vp()), key, BATCH)["z"] is None
    np.testing.assert_array_equal(batch["cond"]["weight"], jnp.sum(batch["x1"], 1))
    assert batch["t"].dtype == jnp.float32


def test_the_batch_keeps_its_own_source(key):
    pairs = drawn(draws.standard(paths.linear()), key, WITH_X0)
    np.testing.assert_array_equal(pairs["x0"], WITH_X0["x0"])


def test_source_takes_the_datas_dtype_but_tokens_stay_tokens(key):
    half = draws.source(sources.normal())(key, {"x1": X1.astype(jnp.bfloat16)})
    assert half["x0"].dtype == jnp.bfloat16
    tokens = draws.source(sources.mask(5))(key, {"x1": jnp.zeros((4, 2), jnp.int8)})
    assert tokens["x0"].dtype == jnp.int32
    pixels = draws.source(sources.normal())(key, {"x1": jnp.zeros((4, 2), jnp.uint8)})
    assert jnp.issubdtype(pixels["x0"].dtype, jnp.floating)


def test_dropout_takes_all_conditions_of_an_example(key):
    n, rate = 4000, 0.3
    cond = {"a": jnp.ones(n, jnp.int32), "b": jnp.ones((n, 2)), "kept": jnp.ones(n)}
    batch = {"x1": jnp.zeros((n, 1)), "cond": cond}
    after = drawn(draws.drop(rate, {"a": 10, "b": -1.0}), key, batch)["cond"]
    assert after["a"].dtype == jnp.int32
    after = jax.tree.map(np.asarray, after)
    gone = after["a"] == 10
    np.testing.assert_array_equal(gone, np.all(after["b"] == -1, 1))
    assert np.all(after["kept"] == 1)
    z = (float(gone.mean()) - rate) / np.sqrt(rate * (1 - rate) / n)
    assert abs(z) < 4
    never, always = (drawn(draws.drop(p, {"a": 10}), key, batch) for p in (0.0, 1.0))
    assert not np.any(np.asarray(never["cond"]["a"]) == 10)
    assert np.all(np.asarray(always["cond"]["a"]) == 10)


def test_each_condition_has_a_rate_of_its_own(key):
    """With a mapping of rates: each is met, and one is dropped whatever becomes of the other."""
    n, rates = 4000, {"a": 0.6, "b": 0.25}
    cond = {"b": jnp.ones(n), "a": jnp.ones(n, jnp.int32), "kept": jnp.ones(n)}
    null = {"b": -1.0, "a": 10}
    after = drawn(draws.drop(rates, null), key, {"x1": jnp.zeros((n, 1)), "cond": cond})["cond"]
    gone = {"a": np.asarray(after["a"]) == 10, "b": np.asarray(after["b"]) == -1}
    for name, rate in rates.items():
        assert abs((gone[name].mean() - rate) / np.sqrt(rate * (1 - rate) / n)) < 4
    both, share = (gone["a"] & gone["b"]).mean(), rates["a"] * rates["b"]
    assert abs((both - share) / np.sqrt(share * (1 - share) / n)) < 4
    assert np.all(np.asarray(after["kept"]) == 1)


def test_nulls_are_numbers_arrays_or_trees(key):
    """Of a nested condition all its parts are dropped for the same examples."""
    n = 200
    cond = {
        "text": {"tokens": jnp.ones((n, 3), jnp.int32), "mask": jnp.ones((n, 3), bool)},
        "style": jnp.ones((n, 2), jnp.bfloat16),
    }
    batch = {"x1": jnp.zeros((n, 1)), "cond": cond}
    null = {"text": {"tokens": 7, "mask": False}, "style": np.array([4.0, 5.0])}
    after = drawn(draws.drop(0.5, null), key, batch)["cond"]
    gone = np.asarray(after["text"]["tokens"])[:, 0] == 7
    assert 0 < gone.sum() < n
    expected = {
        "text": {"tokens": np.where(gone[:, None], 7, 1), "mask": ~gone[:, None]},
        "style": np.where(gone[:, None], [4.0, 5.0], 1.0),
    }
    for found, want, old in zip(*map(jax.tree.leaves, (after, expected, cond)), strict=True):
        np.testing.assert_array_equal(found, np.broadcast_to(want, found.shape))
        assert found.dtype == old.dtype
    one = drawn(draws.drop(1.0, {"text": 0}), key, batch)["cond"]["text"]
    assert not any(np.any(a) for a in jax.tree.leaves(one))
    with pytest.raises(
        ValueError, match=r"^the null of the condition 'style' has shape \(3,\), but"
    ):
        draws.drop(0.5, {"style": np.ones(3)})(key, batch)


@pytest.mark.parametrize(
    ("call", "received"),
    [
        (lambda: draws.drop(1.5, NULL), r"^drop needs a rate in \[0, 1\]; got 1\.5$"),
        (lambda: draws.drop(0.1, {}), "^drop needs the null value of at least one condition"),
        (
            lambda: draws.drop({"label": 0.1}, {"lable": 1}),
            r"^drop has rates of \['label'\], but nulls of \['lable'\]$",
        ),
        (
            lambda: draws.drop(0.1, {"label": "none"}),
            "^the null value of 'label' must be numbers; got 'none'$",
        ),
        (
            lambda: draws.times(times.uniform(), (0.5, 0.5)),
            r"^times needs 0 <= low < high <= 1 .*; got \(0\.5, 0\.5\) and lead=0$",
        ),
        (
            lambda: draws.times(times.uniform(), (0.0, 1.5)),
            r"^times needs 0 <= low < high <= 1 .*; got \(0\.0, 1\.5\) and lead=0$",
        ),
        (
            lambda: draws.times(times.uniform(), lead=-1),
            r"^times needs .* and lead >= 0; got \(0\.0, 1\.0\) and lead=-1$",
        ),
        (
            lambda: draws.drop(0.1, {"lable": 1})(jax.random.key(0), BATCH),
            r"^drop names the condition 'lable', which the batch lacks; it has .*'weight'\]$",
        ),
        (
            lambda: draws.drop(0.1, NULL)(jax.random.key(0), {"x1": X1}),
            r"^drop names the condition 'label', which the batch lacks; it has \[\]$",
        ),
    ],
)
def test_errors_name_what_they_got(call, received):
    with pytest.raises(ValueError, match=received):
        call()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "received"),
    [
        (lambda: draws.as_draw(3), r"^a draw is \(key, batch, held\) -> batch; got int: "),
        (
            lambda: draws.chain(draws.source),
            r"^draw is draws\.source itself, and not what it makes",
        ),
        (lambda: draws.couple(3), r"^a coupling is \(key, x0, x1, cond\) -> .*; got int: "),
        (lambda: draws.times(3), r"^times draw as \(key, n\) -> t; got int: "),
        (lambda: draws.times({"a": times.beta}), r"^times is times\.beta itself, and not what"),
        (lambda: draws.source(3), r"^a source has sample\(keys, event_shape\) .*; got int: "),
        (lambda: draws.standard(3), r"^a path is \(t, x0, x1, z\) -> PathSample; got int: "),
    ],
)
def test_other_kinds_are_refused(call, received):
    with pytest.raises(TypeError, match=received):
        call()


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_spans_are_two_of_the_times_in_order(share, key):
    """Apart the lower and the upper one of two, alike one of them; a joint chi-square over both."""
    n = 40_000
    draw = draws.spans(times.uniform(), (0.2, 0.7), equal=share)
    made = drawn(draw, key, {"x1": np.zeros((n, 1), np.float32)})
    if share:
        size = {0.25: 4, 1.0: 1}[share]
        assert made["groups"] == Grouped(size, size - round(share * size))
        assert made["x1"].shape == (n // size, size, 1)
        rests = np.arange(size) >= made["groups"].moving
        same = np.asarray(made["r"]) == np.asarray(made["t"])
        np.testing.assert_array_equal(same, np.broadcast_to(rests, same.shape))
    t, s, r = (np.asarray(made[name], np.float64).reshape(-1) for name in "tsr")
    assert np.all((t >= 0.2) & (t <= s) & (s <= r) & (r <= 0.7))
    assert np.sum(r == t) == round(share * n)
    u = (t - 0.2) / 0.5
    apart = r != t
    # The lower of two uniform numbers has mean 1/3 and variance 1/18, one of them 1/2 and 1/12.
    for some, mean, variance in ((apart, 1 / 3, 1 / 18), (~apart, 1 / 2, 1 / 12)):
        if some.any():
            assert abs(u[some].mean() - mean) < 4 * np.sqrt(variance / some.sum())
    if apart.any():
        between = (s - t)[apart] / (r - t)[apart]
        assert abs(between.mean() - 1 / 2) < 4 * np.sqrt(1 / 12 / apart.sum())


def test_dyadic_spans_lie_on_their_grid(key):
    made = drawn(draws.dyadic(3, equal=0.25), key, {"x1": jnp.zeros((4_000, 1))})
    t, s, r = (np.asarray(made[name]).reshape(-1) for name in "tsr")
    lengths, counts = np.unique(r - t, return_counts=True)
    np.testing.assert_array_equal(lengths, [0, 1 / 4, 1 / 2, 1])
    assert counts[0] == 1_000
    assert np.all(np.abs(counts[1:] - 1_000) < 4 * np.sqrt(3_000 * 2 / 9))
    apart = r != t
    np.testing.assert_array_equal(t[apart] % (r - t)[apart], 0)
    np.testing.assert_array_equal(t[~apart] % 0.125, 0)
    np.testing.assert_array_equal(s, (t + r) / 2)
    assert t.min() >= 0
    assert r.max() == 1


def test_to_end_is_consistency(key):
    """All points are carried to the end of the interval, by way of a time between."""
    t = np.linspace(0.1, 0.9, 16, dtype=np.float32)
    made = drawn(draws.to_end((0.1, 0.9)), key, {"x1": X1, "t": t})
    np.testing.assert_array_equal(made["t"], t)
    np.testing.assert_array_equal(made["r"], np.float32(0.9))
    s, r = np.asarray(made["s"]), np.asarray(made["r"])
    assert np.all((t <= s) & (s <= r))


@pytest.mark.parametrize("power", [1.0, 2.5])
def test_guidance_has_its_law(power, key):
    """By its distribution function; whole intervals where an example rests, in groups as well."""
    n = 20_000
    draw = draws.chain(draws.spans(times.uniform(), equal=0.5), draws.guidance(5.0, power=power))
    made = drawn(draw, key, {"x1": jnp.zeros((n, 1))})
    told = np.asarray(made["cond"]["guidance"], np.float64)
    assert told.shape == (n // 2, 2, 3)
    scale, low, high = told.reshape(-1, 3).T
    rests = (np.asarray(made["r"]) == np.asarray(made["t"])).reshape(-1)
    rest = 1 - power
    share = np.log(scale) / np.log(5) if power == 1 else (scale**rest - 1) / (5**rest - 1)
    for u in (share, 2 * low[~rests], 2 * high[~rests] - 1):
        assert scipy.stats.kstest(u, "uniform").pvalue > 1e-3
    np.testing.assert_array_equal(told.reshape(-1, 3)[rests, 1:], [[0.0, 1.0]] * (n // 2))


def test_groups_keep_examples_whole_and_share_times(key):
    draw = draws.chain(
        draws.standard(paths.linear()), draws.groups(4, draws.spans(times.uniform(), equal=0.0))
    )
    made = drawn(draw, key, BATCH)
    assert made["x1"].shape == (4, 4, 3)
    np.testing.assert_array_equal(np.asarray(made["x1"]).reshape(16, 3), X1)
    np.testing.assert_array_equal(np.asarray(made["cond"]["label"]).reshape(16), np.arange(16))
    assert made["t"].shape == made["r"].shape == (4,)
    bare = drawn(draws.chain(draws.standard(paths.linear()), draws.groups(4)), key, BATCH)
    assert bare["t"].shape == (4, 4)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: draws.to_end((0.5, 0.4)), r"to_end needs an interval .* got \(0.5, 0.4\)"),
        (
            lambda: draws.spans(times.uniform(), (0.5, 0.5)),
            r"0 <= low < high <= 1; got \(0.5, 0.5\)",
        ),
        (lambda: draws.spans(times.uniform(), equal=1.5), "0 <= equal <= 1, .* got 1.5"),
        (lambda: draws.spans(times.uniform(), equal=0.713), "at most sixteenths .* got 0.713"),
        (
            lambda: draws.spans(times.uniform(), equal=0.8)(jax.random.key(0), WITH_X0),
            "batch of 16 does not divide into groups of 5",
        ),
        (
            lambda: draws.groups(4, draws.spans(times.uniform()))(jax.random.key(0), WITH_X0),
            r"in groups already, .* equal=0\.0",
        ),
        (lambda: draws.guidance(1.0), "needs most > 1, .* got 1.0"),
        (
            lambda: draws.guidance()(jax.random.key(0), WITH_X0),
            r"guidance is of losses of flow maps: .* draws\.spans\(times\), draws\.guidance",
        ),
        (
            lambda: draws.guidance()(
                jax.random.key(0), {**WITH_X0, "t": 0, "r": 1, "cond": {"guidance": 1}}
            ),
            "has a condition 'guidance' already",
        ),
        (lambda: draws.dyadic(0), "dyadic needs levels >= 1, a whole number; got 0"),
        (lambda: draws.dyadic(equal=-0.1), "0 <= equal <= 1, .* got -0.1"),
    ],
)
def test_spans_refuse_what_they_cannot_be(call, told):
    with pytest.raises(ValueError, match=told):
        call()

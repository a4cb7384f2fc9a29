"""Blocks of tokens: the law of what is generated, and a network that keeps keys and values."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxflow import draws, losses, networks, paths, sampling, sources, times, velocities
from jaxflow.sampling import leaps

VOCABULARY, LENGTH = 3, 4
RNG = np.random.default_rng(0)
CHAIN = RNG.dirichlet(np.ones(VOCABULARY), size=(LENGTH, VOCABULARY, VOCABULARY))
MASKS = paths.mixture(source=sources.mask(VOCABULARY))
N = 20_000


def given_pairs(clean, block):
    """The law of each token given two before its block: `[batch, length, vocabulary]`."""
    before = jnp.pad(clean, ((0, 0), (2, 0)))
    first = block * (np.arange(LENGTH) // block)
    return jnp.asarray(CHAIN)[np.arange(LENGTH), before[:, first], before[:, first + 1]]


def posterior(t, x, clean, *, path, block):
    """Of tokens that are independent in a block: by Bayes' rule for each."""
    of_data = [path.log_prob(t, x, jnp.full_like(x, y)) for y in range(VOCABULARY)]
    return jnp.log(given_pairs(clean, block)) + jnp.maximum(jnp.stack(of_data, -1), -60.0)


pairs_given = jax.jit(given_pairs, static_argnums=1)


def law(block):
    """That of all sequences, `[81]`."""
    all_of = np.stack(np.meshgrid(*[np.arange(VOCABULARY)] * LENGTH, indexing="ij"), -1)
    rows = all_of.reshape(-1, LENGTH)
    each = np.take_along_axis(np.asarray(pairs_given(rows, block)), rows[..., None], -1)
    return rows, np.prod(each[..., 0].astype(float), axis=1)


@pytest.mark.parametrize("block", [1, 2])
@pytest.mark.parametrize(
    ("path", "leap"),
    [
        (MASKS, leaps.euler()),
        (paths.mixture(source=sources.uniform_tokens(VOCABULARY)), leaps.ancestral()),
    ],
)
def test_blocks_have_the_law_of_the_data(block, path, leap):
    """Exact on any grid, as tokens of a block are independent given those before."""
    keys = jax.random.split(jax.random.key(1), N)
    x0 = path.source.sample(keys, (LENGTH,))
    logits = jax.tree_util.Partial(partial(posterior, block=block), path=path)
    grid = [0.0, 0.5, 1.0]
    x = sampling.by_block(logits, x0, grid, keys=keys, path=path, method=leap, block=block).x
    rows, wanted = law(block)
    counts = np.bincount(np.ravel_multi_index(x.T, (VOCABULARY,) * LENGTH), minlength=len(rows))
    assert scipy.stats.chisquare(counts, N * wanted / wanted.sum()).pvalue > 1e-4


@pytest.fixture(scope="module", params=[1, 4])
def network(request):
    """A network of blocks, and parameters that let everything reach everything."""
    module = networks.BlockTransformer(5, request.param, width=8, depth=2, heads=2, condition=8)
    net = networks.linen(module)
    x = jnp.zeros((1, 8), int)
    params = net.init(jax.random.key(0), jnp.zeros(1), x, clean=x)
    keys = iter(jax.random.split(jax.random.key(1), 100))
    return net, jax.tree.map(lambda a: a + 0.3 * jax.random.normal(next(keys), a.shape), params)


def test_a_block_sees_itself_and_those_before(network):
    net, params = network
    block, length = net.block, 8
    t = jnp.repeat(jnp.linspace(0.1, 0.9, length // block), block)[None]
    x, clean = (np.arange(length, dtype=np.int32)[None] * k % 5 for k in (1, 3))
    run = jax.jit(lambda x, clean: net(params, t, x, clean=clean))

    def call(x, clean):
        return np.asarray(run(x, clean))

    def changed(tokens, place):
        return np.where(np.arange(length) == place, (tokens + 1) % 5, tokens)

    before = call(x, clean)
    of = np.arange(length) // block
    for place in range(length):
        noisy, data = (changed(a, place) for a in (x, clean))
        moved = np.max(abs(call(noisy, clean) - before)[0], axis=-1) > 1e-6
        np.testing.assert_array_equal(moved, of == of[place])
        moved = np.max(abs(call(x, data) - before)[0], axis=-1) > 1e-6
        np.testing.assert_array_equal(moved, of > of[place])


@jax.jit
def told(logits, t, x, memory, start):
    """What is said of a block, and the memory once it has been read."""
    return logits(t, x, memory, start), logits.read(x, memory, start)


def test_what_is_kept_says_what_is_computed_anew(network):
    """Logits of every block, and what is drawn."""
    net, params = network
    path = paths.mixture(source=sources.mask(5))
    flow = velocities.from_network(net, params)
    kept = velocities.in_blocks(flow)
    whole = jax.tree_util.Partial(lambda flow, t, x, clean: flow(t, x, clean=clean), flow)
    anew = velocities.in_blocks(whole, net.block)
    x, t = np.arange(24, dtype=np.int32).reshape(3, 8) * 7 % 6, np.full(3, 0.3, np.float32)
    memories = [kept.empty(x), anew.empty(x)]
    for start in range(0, 8, net.block):
        own = x[:, start : start + net.block]
        both = [told(a, t, own, m, start) for a, m in zip((kept, anew), memories, strict=True)]
        np.testing.assert_allclose(both[0][0], both[1][0], atol=2e-5)
        memories = [memory for _, memory in both]
    keys = jax.random.split(jax.random.key(2), 3)
    run = partial(sampling.by_block, grid=[0.0, 0.4, 1.0], keys=keys, path=path)
    x0 = path.source.sample(keys, (8,))
    found = [run(a, x0, block=net.block) for a in (flow, anew.logits)]
    assert np.array_equal(found[0].x, found[1].x)
    blocks = 8 // net.block
    assert [int(s.nfe[0]) for s in found] == [3 * blocks, 2 * blocks]
    given = np.broadcast_to(np.arange(8) < 3, (3, 8))
    prompted = np.where(given, np.int32(4), x0)
    sure = velocities.temperature(flow, 0.5)
    filled = run(sure, prompted, given=given)
    x = np.asarray(filled.x)
    assert np.all(x[:, :3] == 4)
    assert np.all((x >= 0) & (x < 5))
    alone = sampling.by_block(
        sure, prompted[2:], [0.0, 0.4, 1.0], keys=keys[2:], path=path, given=given[2:]
    )
    assert np.array_equal(x[2:], alone.x)


def test_the_draw_gives_a_time_a_block_and_the_loss_is_that_of_an_autoregressive_model(key):
    """Of blocks of one token, from masks: the bound is the cross-entropy of each given those
    before, here of logits that read the clean tokens alone.
    """
    x1 = np.tile(np.int32([[0, 2, 1, 1]]), (4096, 1))
    draw = draws.chain(
        draws.standard(MASKS), draws.by_block(MASKS, 1, times=times.stratified(times.uniform()))
    )
    batch = jax.jit(draw)(key, {"x1": x1})
    assert batch["t"].shape == (4096, 4)
    assert np.array_equal(batch["cond"]["clean"], x1)

    def logits(params, t, x, *, key=None, clean):
        return jnp.log(given_pairs(clean, 1))

    loss = losses.generalised_kl(logits, MASKS)
    value, _ = jax.jit(lambda batch: loss(None, None, batch))(batch)
    each = np.take_along_axis(np.asarray(pairs_given(x1[:1], 1)), x1[:1, :, None], -1)
    found, wanted = float(value), float(-np.mean(np.log(each)))
    assert abs(found - wanted) < 0.05 * wanted


def test_refusals(network):
    net, params = network
    flow, path = velocities.from_network(net, params), paths.mixture(source=sources.mask(5))
    keys = jax.random.split(jax.random.key(0), 2)
    x0 = path.source.sample(keys, (8,))
    run = partial(sampling.by_block, keys=keys, path=path)
    with pytest.raises(ValueError, match="let the grid end at 1"):
        run(flow, x0, [0.0, 0.5])
    with pytest.raises(ValueError, match="leave it out"):
        run(flow, x0, [0.0, 1.0], block=3)
    with pytest.raises(ValueError, match="give the number of tokens"):
        run(lambda t, x, clean: x, x0, [0.0, 1.0])
    with pytest.raises(ValueError, match="whole blocks of 3"):
        run(lambda t, x, clean: x, x0, [0.0, 1.0], block=3)
    with pytest.raises(ValueError, match="one axis more, the vocabulary"):
        run(lambda t, x, clean: jnp.zeros((2, 4, 5)), x0, [0.0, 1.0], block=2)
    with pytest.raises(ValueError, match="clean is missing"):
        flow(jnp.zeros(2), x0)
    with pytest.raises(ValueError, match="whole blocks of 3"):
        draws.by_block(path, 3)(keys[0], {"x1": x0})
    with pytest.raises(ValueError, match="1 or more"):
        draws.by_block(path, 0)
    with pytest.raises(ValueError, match="alike in each block"):
        flow(jnp.zeros((2, 3)), x0, clean=x0)

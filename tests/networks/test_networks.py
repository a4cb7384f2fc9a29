"""What every shipped network promises, and the parameter counts of the published ones."""

import functools
import inspect
import itertools
import math
import zlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import networks
from jaxflow.networks import MLP, ConcatMLP, DiT, Transformer, UNet, dit, linen, transformer
from jaxflow.networks.layers import Neighbours, rotated
from tests.networks.small import IMAGE, KEY, SMALL, compiled, inputs, perturbed, reads_tokens


def abstract(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def size_of(params):
    return sum(math.prod(p.shape) for p in jax.tree.leaves(params))


@pytest.fixture(scope="module")
def params():
    return {
        name: linen(module).init(KEY, *inputs(name)[:2], **inputs(name)[2])
        for name, (module, _) in SMALL.items()
    }


@pytest.mark.parametrize(
    ("name", "count"),
    [("S/2", 32_865_056), ("B/2", 130_315_808), ("L/2", 457_840_672), ("XL/2", 674_834_720)],
)
def test_dit_has_the_published_parameters(name, count):
    network = linen(dit(name, num_classes=1000, out_channels=8))
    label = abstract(2, dtype=jnp.int32)
    params = jax.eval_shape(network.init, KEY, abstract(2), abstract(2, 32, 32, 4), label=label)
    assert size_of(params) == count


def dense(inward, outward):
    return inward * outward + outward


def conv(inward, outward, side=3):
    return dense(side * side * inward, outward)


def norm(channels):
    return 2 * channels


def residual(inward, outward, condition):
    skip = conv(inward, outward, 1) if inward != outward else 0
    return (
        norm(inward)
        + conv(inward, outward)
        + dense(condition, outward)
        + norm(outward)
        + conv(outward, outward)
        + skip
    )


def attention(channels):
    return norm(channels) + dense(channels, 3 * channels) + dense(channels, channels)


def unet_size(channels, multipliers, blocks, attention_at, side, colours):
    """The structure of the published network, counted layer by layer."""
    condition = 4 * channels
    total = dense(channels, condition) + dense(condition, condition) + conv(colours, channels)
    current, skips = channels, [channels]
    for level, multiplier in enumerate(multipliers):
        for _ in range(blocks):
            total += residual(current, multiplier * channels, condition)
            current = multiplier * channels
            total += attention(current) if side >> level in attention_at else 0
            skips.append(current)
        if level < len(multipliers) - 1:
            total += conv(current, current)
            skips.append(current)
    total += 2 * residual(current, current, condition) + attention(current)
    for level, multiplier in reversed(list(enumerate(multipliers))):
        for _ in range(blocks + 1):
            total += residual(current + skips.pop(), multiplier * channels, condition)
            current = multiplier * channels
            total += attention(current) if side >> level in attention_at else 0
        if level:
            total += conv(current, current)
    return total + norm(current) + conv(current, colours)


def test_unet_has_the_published_parameters():
    params = jax.eval_shape(linen(UNet()).init, KEY, abstract(2), abstract(2, 32, 32, 3))
    assert size_of(params) == unet_size(128, (1, 2, 2, 2), 2, (16,), 32, 3) == 35_746_307


def test_concat_mlp_has_the_published_parameters():
    params = jax.eval_shape(linen(ConcatMLP()).init, KEY, abstract(2), abstract(2, 2))
    assert size_of(params) == dense(3, 64) + 2 * dense(64, 64) + dense(64, 2)


def test_every_shipped_network_is_in_the_table():
    shipped = [getattr(networks, name) for name in networks.__all__]
    modules = {m for m in shipped if isinstance(m, type) and issubclass(m, nn.Module)}
    others = {networks.MixedTransformer, networks.EditTransformer}  # in files of their own
    assert {m for m in modules if "x" in inspect.signature(m.__call__).parameters} - others == {
        type(module) for module, _ in SMALL.values()
    }


# What saved runs are read by: no name or shape of a parameter may change.
SHAPES = {
    "mlp": 2_678_783_504,
    "concat_mlp": 39_064_631,
    "unet": 1_503_974_212,
    "unet_film": 2_565_434_079,
    "dit": 3_281_028_201,
    "discrete": 95_766_140,
    "transformer": 3_561_496_533,
    "block_transformer": 3_561_496_533,
    "transformer_untied": 2_121_340_183,
}


@pytest.mark.parametrize("name", SMALL)
def test_names_and_shapes_of_parameters_are_those_of_saved_runs(name, params):
    leaves = jax.tree_util.tree_leaves_with_path(params[name])
    text = ";".join(f"{jax.tree_util.keystr(path)}{leaf.shape}" for path, leaf in leaves)
    assert zlib.crc32(text.encode()) == SHAPES[name]


@pytest.mark.parametrize("name", SMALL)
def test_shapes_dtypes_and_one_trace(name, params):
    call, traces = compiled(SMALL[name][0])
    t, x, cond = inputs(name)
    first = call(params[name], t, x, cond)
    second = call(perturbed(params[name]), t, x, cond)
    module = SMALL[name][0]
    logits = (module.vocabulary,) if reads_tokens(module) else ()
    assert first.shape == second.shape == (*x.shape, *logits)
    assert first.dtype == second.dtype == jnp.float32
    assert len(traces) == 1
    assert np.all(np.isfinite(second))
    if name != "concat_mlp":
        assert np.all(first == 0)
        assert np.std(second) > 0.01


@pytest.mark.parametrize("name", ["mlp", "unet", "unet_film", "dit", "transformer"])
def test_time_label_and_data_all_matter_and_examples_do_not_mix(name, params):
    (call, _), p = compiled(SMALL[name][0]), perturbed(params[name])
    t, x, cond = inputs(name)
    out = call(p, t, x, cond)
    moved = x.at[0].set((x[0] + 1) % 5) if name == "transformer" else x.at[0].add(1.0)
    changes = [call(p, t + jnp.array([0.1, 0.0]), x, cond), call(p, t, moved, cond)]
    if cond:
        changes.append(call(p, t, x, {"label": jnp.array([1, 4])}))
    for changed in changes:
        assert np.abs(changed[0] - out[0]).max() > 1e-3
        np.testing.assert_allclose(changed[1], out[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mlp", "unet", "dit", "transformer", "transformer_untied"])
def test_bfloat16_computes_near_float32_and_keeps_float32_parameters_and_output(name, params):
    module, _ = SMALL[name]
    half = module.clone(dtype=jnp.bfloat16)
    t, x, cond = inputs(name)
    shapes = jax.eval_shape(linen(half).init, KEY, t, x, **cond)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    p = perturbed(params[name])
    exact, rounded = (compiled(m)[0](p, t, x, cond) for m in (module, half))
    assert rounded.dtype == jnp.float32
    error = np.linalg.norm(rounded - exact) / np.linalg.norm(exact)
    assert 1e-4 < error < 0.05
    short = x if reads_tokens(module) else x.astype(jnp.bfloat16)
    low = jax.eval_shape(linen(half), p, t, short, **cond)
    assert low.dtype == jnp.float32


@functools.cache
def gradient_of(module, name):
    """The compiled value and gradient of a loss."""
    t, x, cond = inputs(name)
    return jax.jit(
        jax.value_and_grad(lambda p: jnp.sum(linen(module)(p, t, x, **cond) ** 2)),
    )


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("dit", {"remat": "full", "unroll": 2}),
        ("dit", {"remat": "dots"}),
        ("transformer", {"remat": "full", "unroll": 2}),
        pytest.param("unet", {"remat": True}, marks=pytest.mark.slow),
    ],
)
def test_remat_and_unrolling_change_neither_value_nor_gradient(name, fields, params):
    module, _ = SMALL[name]
    p = perturbed(params[name])
    plain, other = (gradient_of(m, name)(p) for m in (module, module.clone(**fields)))
    np.testing.assert_allclose(plain[0], other[0], rtol=1e-5)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(plain[1]))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * largest),
        plain[1],
        other[1],
    )


def test_conditions_of_the_mlp_are_taken_by_name():
    module = MLP(width=8, depth=1)
    t, x = jnp.zeros(2), jnp.ones((2, 3))
    cond = {"mass": jnp.ones((2, 1)), "image": jnp.ones((2, 4, 4))}
    p = perturbed(linen(module).init(KEY, t, x, **cond))
    call, _ = compiled(module)
    out = call(p, t, x, cond)
    turned = linen(module)(p, t, x, **dict(reversed(cond.items())))
    np.testing.assert_allclose(out, turned, rtol=1e-4, atol=1e-5)
    assert np.abs(out - call(p, t, x, {**cond, "mass": jnp.zeros((2, 1))})).max() > 1e-4


@pytest.mark.parametrize("name", ["mlp", "unet"])
def test_dropout_follows_the_key(name, params):
    (call, _), p = compiled(SMALL[name][0]), perturbed(params[name])
    t, x, cond = inputs(name)
    calm, one, again, two = (
        call(p, t, x, cond, k)
        for k in (None, jax.random.key(1), jax.random.key(1), jax.random.key(2))
    )
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, two)
    assert not np.allclose(one, calm)


def call(module, t, x, **cond):
    return jax.eval_shape(linen(module).init, KEY, t, x, **cond)


LABEL = abstract(2, dtype=jnp.int32)
TOKENS = abstract(2, 6, dtype=jnp.int32)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("match", "module", "t", "x", "cond"),
    [
        (r"t has shape \(\)", SMALL["unet_film"][0], abstract(), abstract(2, *IMAGE), {}),
        (r"t has shape \(3,\)", ConcatMLP(), abstract(3), abstract(2, 2), {}),
        (r"t \[batch\]", DiT(), abstract(2, 8, 8), abstract(2, *IMAGE), {}),
        ("dtype float32", MLP(num_classes=3), abstract(2), abstract(2, 2), {"label": abstract(2)}),
        ("label is missing", DiT(num_classes=3), abstract(2), abstract(2, *IMAGE), {}),
        ("set num_classes", UNet(32), abstract(2), abstract(2, 8, 8, 3), {"label": LABEL}),
        ("multiple of 8", UNet(32), abstract(2), abstract(2, 12, 8, 3), {}),
        ("patches of 3", DiT(patch=3), abstract(2), abstract(2, *IMAGE), {}),
        (r"\[batch, height, width, channels\]", UNet(32), abstract(2), abstract(2, 64), {}),
        (r"\[batch, height, width, channels\]", DiT(), abstract(2), abstract(2, 64), {}),
        ("5 heads", DiT(heads=5), abstract(2), abstract(2, *IMAGE), {}),
        ("remat is one of", DiT(remat="all"), abstract(2), abstract(2, *IMAGE), {}),
        ("remat is one of", Transformer(5, remat="all"), abstract(2), TOKENS, {}),
        ("whole numbers", Transformer(5), abstract(2), abstract(2, 6), {}),
        ("even number of them", Transformer(5, width=6, heads=2), abstract(2), TOKENS, {}),
        ('"conv" or "block"', UNet(32, resample="x"), abstract(2), abstract(2, 8, 8, 3), {}),
    ],
)
def test_wrong_inputs_end_in_one_sentence(match, module, t, x, cond):
    with pytest.raises(ValueError, match=match):
        call(module, t, x, **cond)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("module", [MLP(), ConcatMLP()])
def test_a_nested_condition_is_refused(module):
    text = {"tokens": abstract(2, 7, 4), "mask": abstract(2, 7, dtype=bool)}
    with pytest.raises(ValueError, match=r"'text' is a dict, and .*MLP takes arrays .*pool"):
        call(module, abstract(2), abstract(2, 3), text=text)


def test_an_unknown_size_suggests_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'XL/2'"):
        dit("XXL/2")
    with pytest.raises(ValueError, match="did you mean '92M'"):
        transformer("93M", 27)


@pytest.mark.parametrize(("size", "count"), [("1M", 1.3e6), ("6M", 5.9e6), ("28M", 28.5e6)])
def test_a_transformer_is_of_its_size(size, count):
    network = linen(transformer(size, 27))
    params = jax.eval_shape(network.init, KEY, abstract(2), abstract(2, 8, dtype=jnp.int32))
    assert abs(size_of(params) / count - 1) < 0.1


def test_the_published_small_model_has_170_million():
    network = linen(transformer("92M", 50_257, tied=False))
    params = jax.eval_shape(network.init, KEY, abstract(2), abstract(2, 8, dtype=jnp.int32))
    assert abs(size_of(params) / 170e6 - 1) < 0.02


def test_rotary_products_depend_on_how_far_apart_places_are():
    q, k = (jax.random.normal(key, (1, 1, 1, 8)) for key in jax.random.split(KEY))
    q, k = (jnp.broadcast_to(a, (1, 12, 1, 8)) for a in (q, k))
    products = jnp.einsum("bihf,bjhf->ij", rotated(q), rotated(k))
    for apart in (-3, 0, 4):
        diagonal = jnp.diagonal(products, apart)
        np.testing.assert_allclose(diagonal, diagonal[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(jnp.linalg.norm(rotated(q)), jnp.linalg.norm(q), rtol=1e-5)
    assert jnp.std(products) > 0.1


def test_neighbours_are_a_convolution_of_each_channel():
    x = jax.random.normal(KEY, (2, 7, 3))
    params = Neighbours(5).init(KEY, x)
    np.testing.assert_array_equal(Neighbours(5).apply(params, x), x)
    taps = np.asarray(jax.random.normal(jax.random.key(1), (5, 3)))
    out = np.asarray(Neighbours(5).apply({"params": {"taps": taps}}, x))
    for i, channel in itertools.product(range(2), range(3)):
        row = x[i, :, channel]
        wanted = row + np.convolve(row, taps[::-1, channel], mode="same")
        np.testing.assert_allclose(out[i, :, channel], wanted, rtol=1e-5, atol=1e-5)


def test_neighbours_are_odd():
    with pytest.raises(ValueError, match="in the middle of an odd number"):
        Transformer(5, neighbours=4)
    with pytest.raises(ValueError, match="whole numbers of at least 0 for neighbours"):
        Transformer(5, neighbours=-1)

"""Networks of two times, and of a time a frame: what the second adds, and what it leaves alone."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow.networks import MLP, ConcatMLP, DiT, UNet, linen
from tests.networks.small import IMAGE, KEY, SMALL, perturbed, reads_tokens

CASES = {
    **{name: (*row, ()) for name, row in SMALL.items() if not reads_tokens(row[0])},
    # Of one level, since "unet_film" has two.
    "unet": (SMALL["unet"][0].clone(multipliers=(2,)), IMAGE, ()),
    "mlp_frames": (*SMALL["mlp"], (3,)),
    "concat_mlp_frames": (ConcatMLP(width=16), (3, 2), (3,)),
}
every_network = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def two_times(module, event, lead):
    """Times `t` before `r`, data, and conditions."""
    rng = np.random.default_rng(5)
    t, r = np.sort(rng.uniform(size=(2, 2, *lead)), axis=0)
    cond = {"label": jnp.array([0, 4])} if getattr(module, "num_classes", None) else {}
    return jnp.asarray(t), jnp.asarray(r), jnp.asarray(rng.standard_normal((2, *event))), cond


def by_path(params):
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


@every_network
def test_parameters_of_a_span_stand_beside_the_others(case):
    network, (t, r, x, cond) = linen(case[0]), two_times(*case)
    one = by_path(network.init(KEY, t, x, **cond))
    two = by_path(network.init(KEY, t, x, r=r, **cond))
    added = set(two) - set(one)
    assert len(added) == (1 if isinstance(case[0], ConcatMLP) else 2)
    assert all("['span']" in path for path in added)
    for path, leaf in one.items():
        np.testing.assert_array_equal(leaf, two[path])


@pytest.mark.parametrize("name", ["mlp", "concat_mlp"])
def test_a_second_time_changes_nothing_at_first(name):
    """Of a trained network of one time that is given one: the same for every `r`, to the bit."""
    network, (t, r, x, cond) = linen(SMALL[name][0]), two_times(*SMALL[name], ())
    known = by_path(perturbed(network.init(KEY, t, x, **cond)))
    params = jax.tree_util.tree_map_with_path(
        lambda path, a: known.get(jax.tree_util.keystr(path), a),
        network.init(KEY, t, x, r=r, **cond),
    )
    one, two = network(params, t, x, **cond), network(params, t, x, r=r, **cond)
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("name", ["mlp", "unet_film", "dit"])
def test_guidance_is_a_condition_that_adds_nothing_where_there_is_none(name):
    """Parameters of it stand beside the others, and a scale of 1 at all times is none."""
    module, event = SMALL[name]
    network, (t, r, x, cond) = linen(module), two_times(module, event, ())
    none, told = (jnp.asarray([[s, 0.0, 1.0]] * 2, jnp.float32) for s in (1.0, 3.0))
    params = perturbed(network.init(KEY, t, x, r=r, guidance=told, **cond))
    before = by_path(network.init(KEY, t, x, r=r, **cond))
    added = set(by_path(params)) - set(before)
    assert len(added) == 2
    assert all("['guidance']" in path for path in added)
    plain = call(network, params, t, x, {"r": r, **cond})
    np.testing.assert_array_equal(
        plain, call(network, params, t, x, {"r": r, "guidance": none, **cond})
    )
    guided = call(network, params, t, x, {"r": r, "guidance": told, **cond})
    assert np.abs(guided - plain).max() > 1e-3


@every_network
def test_no_span_is_no_second_time_and_slopes_are_exact(case, x64):
    network, (t, r, x, cond) = linen(case[0]), two_times(*case)
    params = perturbed(network.init(KEY, t, x, r=r, **cond))

    def out(t, x, r):
        return call(network, params, t, x, {"r": r, **cond})

    still, moved = out(t, x, t), out(t, x, r)
    np.testing.assert_allclose(still, call(network, params, t, x, cond), rtol=1e-9, atol=1e-12)
    assert np.abs(moved - still).reshape(2, -1).max(-1).min() > 1e-3
    first = out(t, x, jnp.stack([r[0], t[1]]))
    np.testing.assert_allclose(first, jnp.stack([moved[0], still[1]]), rtol=1e-9, atol=1e-10)

    # The softmax of JAX's attention is float32 for inputs of any type: a finer step sees it round.
    inexact = isinstance(case[0], DiT | UNet)
    rng, point, e = np.random.default_rng(6), (t, x, r), 1e-3 if inexact else 1e-5
    way = tuple(jnp.asarray(rng.standard_normal(a.shape)) for a in point)
    ahead, behind = (
        [
            out(*(a + step * w for a, w in zip(point, way, strict=True)))
            for step in (s * e, 2 * s * e)
        ]
        for s in (1, -1)
    )
    expected = (8 * (ahead[0] - behind[0]) - (ahead[1] - behind[1])) / (12 * e)
    value, slope = slopes(linen(recomputed(case[0])), params, point, way, cond)
    np.testing.assert_allclose(value, moved, rtol=1e-9, atol=1e-10)
    largest = np.abs(slope).max()
    assert largest > 0.1
    share = 1e-4 if inexact else 1e-7
    np.testing.assert_allclose(slope, expected, rtol=0, atol=share * largest)


quick_to_compile = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@quick_to_compile
def call(network, params, t, x, cond):
    return network(params, t, x, **cond)


def recomputed(module):
    """With blocks recomputed backwards, where it can; that of a U-Net with modulation as it is."""
    if isinstance(module, DiT):
        return module.clone(remat="full")
    return module.clone(remat=True) if isinstance(module, UNet) and not module.film else module


@quick_to_compile
def slopes(network, params, point, way, cond):
    def at(t, x, r):
        return network(params, t, x, r=r, **cond)

    return jax.jvp(at, point, way)


@every_network
def test_the_output_is_float32_for_half_precision_times_and_data(case):
    module = case[0].clone(dtype=jnp.bfloat16) if hasattr(case[0], "dtype") else case[0]
    t, r, x, cond = two_times(*case)
    params = jax.eval_shape(linen(module).init, KEY, t, x, r=r, **cond)
    t, r, x = (a.astype(jnp.bfloat16) for a in (t, r, x))
    assert jax.eval_shape(linen(module), params, t, x, r=r, **cond).dtype == jnp.float32


@pytest.mark.parametrize("name", ["mlp_frames", "concat_mlp_frames"])
def test_the_time_of_every_frame_matters(name):
    network, (t, _, x, cond) = linen(CASES[name][0]), two_times(*CASES[name])
    params = perturbed(network.init(KEY, t, x, **cond))
    out = call(network, params, t, x, cond)
    for frame in range(3):
        changed = call(network, params, t.at[0, frame].add(0.1), x, cond)
        assert np.abs(changed[0] - out[0]).max() > 1e-3
        np.testing.assert_allclose(changed[1], out[1], rtol=1e-4, atol=1e-5)


def test_a_network_without_parameters_for_a_span_asks_to_be_initialised_with_it():
    t = jnp.zeros(2)
    for module, event, _ in CASES.values():
        if isinstance(module, UNet):
            continue
        cond = {"label": jnp.zeros(2, int)} if getattr(module, "num_classes", None) else {}
        x = jnp.zeros((2, *event))
        params = jax.eval_shape(linen(module).init, KEY, t, x, **cond)
        with pytest.raises(ValueError, match=r"with \[.*'r'\].*span.*Initialise.*all that it is"):
            jax.eval_shape(linen(module), params, t, x, r=t, **cond)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("match", "module", "t", "r", "x"),
    [
        (r"t \[batch\].*MLP or ConcatMLP", UNet(32), (2, 8), None, (2, 8, 8, 3)),
        (r"t \[batch\].*MLP or ConcatMLP", DiT(), (2, 4), None, (2, *IMAGE)),
        (r"r has shape \(2, 4\) and t \(2,\)", DiT(), (2,), (2, 4), (2, *IMAGE)),
        (r"r has shape \(3,\) and t \(2,\)", UNet(32), (2,), (3,), (2, 8, 8, 3)),
        (r"r has shape \(2,\) and t \(2, 3\)", MLP(), (2, 3), (2,), (2, 3, 5)),
        (r"r has shape \(\) and t \(2,\)", ConcatMLP(), (2,), (), (2, 5)),
        (r"t has shape \(2, 5\)", MLP(), (2, 5), None, (2, 3, 5)),
        (r"t has shape \(2, 5\)", ConcatMLP(), (2, 5), None, (2, 3, 5)),
    ],
)
def test_times_of_the_wrong_shape_end_in_one_sentence(match, module, t, r, x):
    t, r, x = (a if a is None else jax.ShapeDtypeStruct(a, jnp.float32) for a in (t, r, x))
    with pytest.raises(ValueError, match=match):
        jax.eval_shape(linen(module).init, KEY, t, x, **({} if r is None else {"r": r}))

"""Entries that do not count: the loss of what does, no gradient of the rest, and the same step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxflow import couplings, data, draws, losses, paths, sampling, sources, training

PATH = paths.interpolant(gamma=paths.gammas.quadratic())
LENGTHS = np.array([3, 5, 1, 4])
N, LENGTH, WIDTH = 4, 5, 2
MASK = np.arange(LENGTH) < LENGTHS[:, None]
PARAMS = {"a": jnp.float32(0.7), "b": jnp.float32(-0.4)}


def by_token(params, t, x, *, key=None):
    """A network whose tokens do not see each other, so that padding changes none of them."""
    return jnp.tanh(params["a"] * x + params["b"] + t.reshape(t.shape + (1,) * (x.ndim - t.ndim)))


def both(params, t, x, *, key=None):
    return {name: by_token(params, t, part) for name, part in x.items()}


def at_twice(t):
    return 1 + t


LOSSES = {
    "flow_matching": losses.flow_matching(by_token, PATH),
    "weighted": losses.flow_matching(by_token, PATH, weight=at_twice),
    "contrastive": losses.contrastive(by_token, PATH),
    "flow_and_score": losses.flow_and_score(by_token, by_token, PATH, weight=at_twice),
}


def params_of(name):
    return {"flow": PARAMS, "score": PARAMS} if name == "flow_and_score" else PARAMS


@jax.jit
def drawn(**more):
    """Examples that are complete, with the pair of another."""
    x1 = jax.random.normal(jax.random.key(1), (N, LENGTH, WIDTH))
    draw = draws.chain(draws.standard(PATH), draws.negatives())
    return draw(jax.random.key(2), {"x1": x1, **more})


def first(batch, i):
    """Example `i` without its padding: its own entries, and of the other pair the common ones."""
    one = jax.tree.map(lambda a: a[i : i + 1], batch)

    def cut(pair, keep):
        return {k: a[:, keep] if k in ("x0", "x1", "z") else a for k, a in pair.items()}

    own = MASK[i]
    common = own & np.asarray(batch["negative"]["mask"][i])
    return cut(one, own), {**cut(one, common), "negative": cut(one["negative"], common)}


@pytest.mark.parametrize("name", LOSSES)
def test_it_is_the_loss_of_what_is_not_padded(name):
    """Of each example by itself; from another pair, over the entries that both have."""
    batch, params = jax.tree.map(np.asarray, drawn(mask=MASK)), params_of(name)
    loss, plain = (
        jax.jit(f.__call__) for f in (LOSSES[name], losses.flow_matching(by_token, PATH))
    )
    value, aux = loss(params, None, batch)
    for i in range(N):
        own, common = ({k: v for k, v in b.items() if k != "mask"} for b in first(batch, i))
        own["negative"] = {k: own[k] for k in ("x0", "x1", "z")}
        common["negative"].pop("mask")
        expected = loss(params, None, own)[1]["per_example"][0]
        if name == "contrastive":
            near = plain(params, None, own)[0]
            expected = near - 0.05 * loss(params, None, common)[1]["repulsion"]
        np.testing.assert_allclose(aux["per_example"][i], expected, rtol=1e-5)
    np.testing.assert_allclose(value, np.mean(aux["per_example"]), rtol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_what_does_not_count_has_no_gradient(name):
    """Exactly, of its output; nor does anything of an example in which nothing counts."""
    mask = MASK & (np.arange(N) != 2)[:, None]
    batch = drawn(mask=mask)
    shape = batch["x1"].shape

    def output(params, t, x, *, key=None):
        return params

    network_of = {
        "flow_matching": lambda: losses.flow_matching(output, PATH),
        "weighted": lambda: losses.flow_matching(output, PATH, weight=at_twice),
        "contrastive": lambda: losses.contrastive(output, PATH),
        "flow_and_score": lambda: losses.flow_and_score(output, output, PATH),
    }
    loss, values = network_of[name](), jnp.ones(shape)
    params = {"flow": values, "score": values} if name == "flow_and_score" else values

    def run(batch):
        return jax.value_and_grad(lambda p: loss(p, None, batch), has_aux=True)(params)

    (value, aux), gradient = jax.jit(run)(batch)
    for leaf in jax.tree.leaves(gradient):
        np.testing.assert_array_equal(np.asarray(leaf)[~mask], 0)
        assert np.all(np.asarray(leaf)[mask] != 0)
    assert aux["per_example"][2] == 0
    assert np.isfinite(value)
    spoiled = {**batch, "x1": jnp.where(mask[..., None], batch["x1"], jnp.nan)}
    if name != "contrastive":  # whose other pair may lack what this one has
        (again, _), same = jax.jit(run)(spoiled)
        assert again == value
        jax.tree.map(np.testing.assert_array_equal, same, gradient)


def test_masks_of_every_rank():
    """An axis of length 1 and one that is missing stand for all; a full mask for none."""
    batch, loss = drawn(), jax.jit(LOSSES["flow_matching"].__call__)
    plain = np.asarray(loss(PARAMS, None, batch)[1]["per_example"])

    @jax.jit
    def errors(batch):
        x = PATH(batch["t"], batch["x0"], batch["x1"], batch["z"])
        return (by_token(PARAMS, x.t, x.x) - x.u) ** 2

    squares = np.asarray(errors(batch), np.float64)
    rng = np.random.default_rng(0)
    for shape in [(N,), (N, LENGTH), (N, 1, WIDTH), (N, LENGTH, 1), (N, LENGTH, WIDTH)]:
        mask = rng.random(shape) < 0.7
        mask[0] = True
        whole = np.broadcast_to(mask.reshape(shape + (1,) * (3 - len(shape))), squares.shape)
        axes = (1, 2)
        expected = (whole * squares).sum(axes) / np.maximum(whole.sum(axes), 1)
        found = np.asarray(loss(PARAMS, None, {**batch, "mask": mask})[1]["per_example"])
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        np.testing.assert_allclose(found[0], plain[0], rtol=1e-6)
    half = {k: v.astype(jnp.bfloat16) for k, v in batch.items() if k in ("x0", "x1", "z")}
    assert loss(PARAMS, None, {**batch, **half, "mask": MASK})[0].dtype == jnp.float32


def test_a_time_a_token_is_weighed_before_the_mean():
    batch = jax.tree.map(np.asarray, drawn(mask=MASK))
    batch["t"] = np.broadcast_to(batch["t"][:, None], (N, LENGTH))
    found, plain = (
        np.asarray(jax.jit(LOSSES[name].__call__)(PARAMS, None, batch)[1]["per_example"])
        for name in ("weighted", "flow_matching")
    )
    np.testing.assert_allclose(found, (1 + batch["t"][:, 0]) * plain, rtol=1e-5)


PARTS = paths.product({"image": paths.linear(), "text": paths.linear()})


def test_parts_have_masks_of_their_own(key):
    """One that has none counts whole."""
    x1 = {"image": jnp.ones((N, 3, 3)), "text": jnp.ones((N, LENGTH, WIDTH))}
    batch = jax.jit(draws.standard(PARTS).__call__)(key, {"x1": x1})
    loss = jax.jit(losses.flow_matching(both, PARTS).__call__)
    text = {k: batch[k] if k == "t" else batch[k]["text"] for k in ("t", "x0", "x1")}
    alone = jax.jit(losses.flow_matching(by_token, paths.linear()).__call__)
    plain = loss(PARAMS, None, batch)[1]["per_example"]
    for mask in ({"text": MASK}, {"text": MASK, "image": jnp.ones(N, bool)}):
        found = loss(PARAMS, None, {**batch, "mask": mask})[1]["per_example"]
        whole, part = (
            alone(PARAMS, None, b)[1]["per_example"] for b in (text, {**text, "mask": MASK})
        )
        np.testing.assert_allclose(found - plain, part - whole, rtol=1e-4, atol=1e-6)


STANDARD = draws.standard(paths.linear(), coupling=couplings.optimal_transport())


def lifted(key, batch):
    batch = STANDARD(key, batch)
    return {**batch, "mask": batch["cond"]["mask"]}


def masked(params, t, x, *, key=None, mask=None):
    return by_token(params, t, x)


@pytest.mark.parametrize("name", ["flow_matching", "contrastive"])
def test_microbatches_and_devices_take_the_same_step(name, key):
    """Of a mask beside the data, and of one among the conditions that a draw makes the batch's."""
    x1 = np.asarray(jax.random.normal(key, (16, LENGTH, WIDTH)))
    mask = np.array(jax.random.bernoulli(key, 0.5, (16, LENGTH)))
    mask[3] = False
    loss = getattr(losses, name)(masked, paths.linear())
    beside, among = {"x1": x1, "mask": mask}, {"x1": x1, "cond": {"mask": mask}}

    def after(draw, batch, microbatches, devices):
        draw = draws.chain(draw, draws.negatives())
        trainer = training.trainer(loss, optax.sgd(0.5), draw=draw, microbatches=microbatches)
        over = training.layout("data", devices=jax.devices()[:devices])
        run = training.program(trainer, layout=over)
        state, metrics = run.step(run.init(PARAMS, key), run.place(batch))
        return jax.device_get((state.params, metrics["loss"]))

    expected = after(STANDARD, beside, 1, 1)
    for case in [(STANDARD, beside, 4, 1), (STANDARD, beside, 2, 8), (lifted, among, 2, 4)]:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), after(*case), expected
        )


def moving(key, x0, x1, cond):
    return x0, x1[::-1], cond


X = jnp.ones((2, 3, 4))
BATCH = {"t": jnp.full(2, 0.5), "x0": X, "x1": X, "z": X}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("mask", "told"),
    [
        (np.ones((2, 4), bool), r"^the mask is bool of shape \(2, 4\) for data of shape \(2, 3, 4"),
        (np.ones((1, 3), bool), r"^the mask is bool of shape \(1, 3\) for .*: it is bool, True"),
        (np.ones((2, 3, 4, 1), bool), r"^the mask is bool of shape \(2, 3, 4, 1\) for data"),
        (np.array(True), r"^the mask is bool of shape \(\) for data"),
        (np.ones((2, 3)), r"^the mask is float64 of shape \(2, 3\) for data"),
        ({"text": np.ones(2, bool)}, r"^the mask is dict of shape \(\) for data"),
    ],
)
def test_masks_that_are_none(mask, told):
    for name, loss in LOSSES.items():
        pair = dict.fromkeys(("x0", "x1", "z"), X)
        with pytest.raises(ValueError, match=told):
            loss(params_of(name), None, {**BATCH, "negative": pair, "mask": mask})


@pytest.mark.usefixtures("unchecked")
def test_refusals(key):
    parts = {"image": X, "text": X}
    batch = {"t": BATCH["t"], "x0": parts, "x1": parts}
    loss = losses.flow_matching(both, PARTS)
    for mask, got in (({"txt": np.ones(2, bool)}, r"\['txt'\]"), (np.ones(2, bool), "one array")):
        told = rf"^data of the parts \['image', 'text'\] has a mask by part; got {got}$"
        with pytest.raises(ValueError, match=told):
            loss(PARAMS, None, {**batch, "mask": mask})
    with pytest.raises(ValueError, match=r"^maximum_likelihood .* takes no mask: leave batch\['ma"):
        losses.maximum_likelihood(by_token, divergence=sampling.exact())(
            PARAMS, None, {"x1": X, "mask": np.ones(2, bool)}
        )
    fitted = couplings.semidiscrete(
        key, sources.normal(), X + jnp.arange(2.0)[:, None, None], steps=2
    )
    for coupling in (moving, fitted):
        draw = draws.standard(paths.linear(), coupling=coupling)
        draw(key, {"x1": X})
        with pytest.raises(ValueError, match=r"which batch\['mask'\] does not follow: carry the m"):
            draw(key, {"x1": X, "mask": np.ones(2, bool)})
    for coupling in (
        couplings.independent(),
        couplings.optimal_transport(),
        couplings.optimal_transport(on_host=True),
        couplings.sinkhorn(),
    ):
        draw = draws.standard(paths.linear(), coupling=coupling)
        run = draw if getattr(coupling, "on_host", False) else jax.jit(draw.__call__)
        assert "mask" in run(key, {"x1": X, "mask": np.ones(2, bool)})
    with pytest.raises(ValueError, match=r"^mask has shape \(1,\) and x1 \(2, 3, 4\): every entry"):
        data.check({"x1": np.asarray(X), "mask": np.ones(1, bool)})

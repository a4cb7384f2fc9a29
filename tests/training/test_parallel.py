"""Every way to lay a step over devices trains the same run."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxflow import couplings, draws, losses, paths, times
from jaxflow.training import MODES, ahead, check_divides, draw_key, layout, program, trainer

N = 64
RNG = np.random.default_rng(0)
DATA = {"x1": RNG.normal(size=(N, 3)), "label": np.arange(N) % 4}


def network(params, t, x, *, key=None, label):
    h = jnp.tanh(jnp.concatenate([x, t[:, None], params["embed"][label]], -1) @ params["a"])
    return h @ params["b"]


def parameters(dtype):
    rng = np.random.default_rng(1)
    shapes = {"a": (6, 8), "b": (8, 3), "embed": (5, 2)}
    return {k: jnp.asarray(rng.normal(size=s), dtype) for k, s in shapes.items()}


def draw(coupling):
    return draws.standard(
        PATH,
        coupling=coupling,
        times=times.stratified(times.logit_normal()),
        drop=draws.drop(0.2, {"label": 4}),
    )


PATH = paths.linear()
DEVICE = draw(couplings.optimal_transport())
HOST = draw(couplings.optimal_transport(on_host=True))
LOSS = losses.flow_matching(network, PATH)
GRADIENT = optax.chain(optax.trace(decay=0.0), optax.scale(-0.1))


def batch(dtype):
    return {
        "x1": jnp.asarray(DATA["x1"], dtype),
        "cond": {"label": jnp.asarray(DATA["label"])},
    }


def gradient_of(mode, microbatches, dtype, *, devices=8, draw=DEVICE):
    """Gradient, loss and drawn batch's cost of one step."""
    axis = None if mode == "jit" else "data"
    run = trainer(LOSS, GRADIENT, draw=draw, microbatches=microbatches, axis_name=axis)
    compiled = program(run, mode=mode, layout=layout(devices=jax.devices()[:devices]))
    state = compiled.init(parameters(dtype), jax.random.key(5))
    data = batch(dtype)
    if compiled.on_host:
        (data,) = ahead(draw, lambda step: draw_key(jax.random.key(5), step), [data])
    state, metrics = compiled.step(state, compiled.place(data))
    return jax.tree.map(np.asarray, (state.opt_state[0].trace, dict(metrics)))


@pytest.fixture(scope="module")
def one_device():
    """The gradient of one device, in both precisions."""
    found = {}
    for dtype in (jnp.float32, jnp.float64):
        with jax.enable_x64(dtype == jnp.float64):
            found[dtype] = gradient_of("jit", 1, dtype, devices=1)
    return found


def close(got, expected, tolerance):
    (gradient, metrics), (gradient_, metrics_) = got, expected
    scale = np.sqrt(sum(np.sum(g**2) for g in gradient_.values()))
    for name in gradient_:
        error = np.linalg.norm(gradient[name] - gradient_[name]) / scale
        assert error < tolerance, f"{name}: {error}"
    for name in ("loss", "grad_norm"):
        assert metrics[name] == pytest.approx(metrics_[name], rel=tolerance)


FAST = [("pmap", 1, jnp.float32), *((mode, 4, jnp.float64) for mode in MODES)]
CASES = [
    pytest.param(mode, m, dtype, marks=() if (mode, m, dtype) in FAST else pytest.mark.slow)
    for mode in MODES
    for m in (1, 4)
    for dtype in (jnp.float32, jnp.float64)
]


@pytest.mark.parametrize(("mode", "microbatches", "dtype"), CASES)
def test_gradients_are_those_of_one_device(mode, microbatches, dtype, one_device):
    """Eight devices, with transport, stratified times and condition dropout in the draw."""
    with jax.enable_x64(dtype == jnp.float64):
        got = gradient_of(mode, microbatches, dtype)
    close(got, one_device[dtype], 1e-5 if dtype == jnp.float32 else 1e-12)


@pytest.mark.parametrize(
    ("mode", "microbatches"), [("jit", 4), pytest.param("pmap", 1, marks=pytest.mark.slow)]
)
def test_transport_on_the_host_trains_the_same_run(mode, microbatches, one_device):
    with jax.enable_x64(True):
        got = gradient_of(mode, microbatches, jnp.float64, draw=HOST)
    close(got, one_device[jnp.float64], 1e-12)


def test_transport_is_that_of_the_global_batch():
    """Its cost does not know of devices or microbatches: below that of any split batch."""
    with jax.enable_x64(True):
        key = jax.random.key(5)
        draw = jax.jit(DEVICE.__call__)
        whole = draw(draw_key(key, 0), batch(jnp.float64))
        place = program(trainer(LOSS, GRADIENT, draw=DEVICE)).place
        spread = draw(draw_key(key, 0), place(batch(jnp.float64)))
        np.testing.assert_allclose(spread["x0"], whole["x0"], atol=1e-14)
        x0, x1 = np.asarray(whole["x0"]), np.asarray(whole["x1"])
        assert ((x1 - x0) ** 2).sum() < 0.6 * ((x1 - np.roll(x0, 1, axis=0)) ** 2).sum()


class Stream:
    """Batches that are a function of the step."""

    def batch(self, step):
        return {"x1": X1 + step, "cond": {"label": jnp.asarray(DATA["label"])}}


jax.tree_util.register_static(Stream)
X1 = np.asarray(DATA["x1"], np.float32)


@pytest.mark.parametrize("mode", ["jit", "shard_map"])
def test_many_steps_in_one_call(mode):
    """`steps(n)` is `n` calls of `step`, and each compiles once for all of them."""
    axis = None if mode == "jit" else "data"
    traces = []

    def loss(params, key, batch, held=None):
        traces.append(None)
        return LOSS(params, key, batch, held)

    run = trainer(loss, optax.adam(1e-2), draw=draw(couplings.independent()), axis_name=axis)
    compiled = program(run, mode=mode)
    stream = Stream()
    one = compiled.init(parameters(jnp.float32), jax.random.key(0))
    history = []
    for step in range(4):
        one, metrics = compiled.step(one, compiled.place(stream.batch(step)))
        history.append(float(metrics["loss"]))
        traced = len(traces) if step == 0 else traced
    assert len(traces) == traced
    many = compiled.init(parameters(jnp.float32), jax.random.key(0))
    many, metrics = compiled.steps(many, stream, 4)
    traced = len(traces)
    compiled.steps(many, stream, 4)
    assert len(traces) == traced
    assert metrics["loss"].shape == (4,)
    np.testing.assert_allclose(metrics["loss"], history, rtol=1e-5)
    many, metrics = compiled.steps(
        compiled.init(parameters(jnp.float32), jax.random.key(0)), stream, 4
    )
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(many.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_user_of_any_devices_state_is_replicated():
    run = trainer(LOSS, optax.adam(1e-3), draw=DEVICE)
    compiled = program(run)
    state = compiled.init(parameters(jnp.float32), jax.random.key(0))
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state))
    placed = compiled.place(batch(jnp.float32))
    assert len(placed["x1"].sharding.device_set) == 8
    assert compiled.layout.mesh.size == 8


@pytest.mark.usefixtures("unchecked")
def test_errors_name_what_they_got():
    plain = trainer(LOSS, GRADIENT, draw=DEVICE)
    mapped = trainer(LOSS, GRADIENT, draw=DEVICE, axis_name="data")
    for call, received in [
        (lambda: program(plain, mode="pjit"), "^mode is 'pjit', but must be one of jit"),
        (
            lambda: program(plain, mode="pmap"),
            "^mode 'pmap' needs a trainer with axis_name='data'; this one has None$",
        ),
        (
            lambda: program(mapped, mode="jit"),
            "^mode 'jit' needs a trainer with axis_name=None; this one has 'data'$",
        ),
        (
            lambda: program(plain).place({"x1": jnp.ones((12, 2))}),
            "^a batch of 12 does not divide over 8 devices: choose a multiple$",
        ),
        (
            lambda: program(plain, reduce_dtype="int8"),
            "^reduce_dtype is 'int8', but must be a float, as 'float32'$",
        ),
        (
            lambda: program(mapped, mode="pmap", reduce_dtype="bfloat16"),
            "^mode 'pmap' reduces gradients in float32; reduce_dtype='bfloat16' needs mode 'jit'$",
        ),
        (
            lambda: check_divides(16, layout(), 4),
            "^a batch of 16 does not divide over 8 devices and into 4 microbatches: .* of 32$",
        ),
        (
            lambda: program(mapped, mode="pmap").steps(None, None, 2),
            "^several steps a call need mode 'jit' or 'shard_map'",
        ),
        (
            lambda: trainer(LOSS, GRADIENT, draw=DEVICE, ema_decay=1.0),
            r"^the decay of an average must lie in \[0, 1\); got 1\.0$",
        ),
        (
            lambda: trainer(LOSS, GRADIENT, draw=DEVICE, microbatches=0),
            "^microbatches must be at least 1; got 0$",
        ),
    ]:
        with pytest.raises(ValueError, match=received):
            call()

"""One step: gradient, average, microbatches, and what is thrown away."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxflow.training import average, draw_key, trainer
from jaxflow.types import Held


def square(params, key, batch, held=None):
    """Its gradient in `w` is the mean of `w - x`."""
    per_example = 0.5 * jnp.sum((params["w"] - batch["x1"]) ** 2, axis=1)
    aux = {"per_example": per_example, "largest": jnp.max(per_example)}
    return jnp.mean(per_example), aux


def same(key, batch):
    return batch


def run_of(optimizer=None, loss=square, **kwargs):
    return trainer(loss, optimizer or optax.sgd(0.1), draw=same, **kwargs)


W = jnp.array([1.0, -2.0])
X = jnp.asarray(np.random.default_rng(0).normal(size=(12, 2)), jnp.float32)


def equal(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(bool(jnp.array_equal(x, y)) for x, y in pairs)


@pytest.mark.parametrize("microbatches", [1, 3, 12])
def test_step_average_and_metrics(microbatches):
    run = run_of(ema_decay=0.5, microbatches=microbatches)
    state = run.init({"w": W}, jax.random.key(0))
    step = jax.jit(run.step)
    w, ema = np.asarray(W, np.float64), np.asarray(W, np.float64)
    for n in range(12):
        state, metrics = step(state, {"x1": X})
        gradient = w - np.asarray(X, np.float64).mean(0)
        assert metrics["loss"] == pytest.approx(
            0.5 * ((w - np.asarray(X)) ** 2).sum(1).mean(), rel=1e-5
        )
        assert metrics["grad_norm"] == pytest.approx(np.linalg.norm(gradient), rel=1e-5)
        w = w - 0.1 * gradient
        decay = min(0.5, (1 + n) / (10 + n))
        assert average(0.5).decay_at(n) == pytest.approx(decay)
        ema = decay * ema + (1 - decay) * w
        np.testing.assert_allclose(state.params["w"], w, rtol=1e-5)
        np.testing.assert_allclose(state.ema["w"], ema, rtol=1e-5)
    assert set(metrics) == {"loss", "grad_norm", "skipped", "largest"}
    assert int(state.step) == 12
    assert int(state.skipped) == 0
    assert step._cache_size() == 1


def test_no_average():
    run = run_of(ema_decay=0.0)
    state, _ = run.step(run.init({"w": W}, jax.random.key(0)), {"x1": X})
    np.testing.assert_array_equal(state.ema["w"], state.params["w"])


def test_several_averages_each_by_its_own_rule():
    """By name; a target network's decays from the first step on."""
    rules = {"ema": 0.5, "target": average(0.9, warmup=1), "slow": average(0.99, warmup=2)}
    run = run_of(ema_decay=rules)
    state = run.init({"w": W}, jax.random.key(0))
    step, expected = jax.jit(run.step), dict.fromkeys(rules, np.asarray(W, np.float64))
    for n in range(4):
        state, _ = step(state, {"x1": X})
        decays = {
            "ema": min(0.5, (1 + n) / (10 + n)),
            "target": 0.9,
            "slow": min(0.99, (1 + n) / (2 + n)),
        }
        w = np.asarray(state.params["w"], np.float64)
        expected = {k: d * expected[k] + (1 - d) * w for k, d in decays.items()}
    assert set(state.averages) == set(rules)
    for name, mean in expected.items():
        np.testing.assert_allclose(state.averages[name]["w"], mean, rtol=1e-5)
    with pytest.raises(
        ValueError, match=r"^the decay of an average must lie in \[0, 1\); got -0\.1$"
    ):
        average(-0.1)
    with pytest.raises(ValueError, match=r"^the warm-up of an average is at least 1.*; got 0\.5$"):
        average(0.9, warmup=0.5)


def test_every_device_has_a_key_of_its_own():
    """Under a mapped axis: the gradient is the mean of what each device drew by its own key."""

    def loss(params, key, batch, held=None):
        return jnp.sum(params["w"] * jax.random.normal(key, (2,))), {}

    run = run_of(optax.sgd(1.0), loss=loss, axis_name="data")
    state = run.init({"w": W}, jax.random.key(3))
    mapped = jax.vmap(run.step, (None, 0), axis_name="data")
    after, metrics = mapped(state, {"x1": X.reshape(4, 3, 2)})
    key = jax.random.fold_in(jax.random.fold_in(state.key, 0), 1)
    drawn = [jax.random.normal(jax.random.fold_in(key, i), (2,)) for i in range(4)]
    gradient = jnp.mean(jnp.stack(drawn), axis=0)
    for i in range(4):
        np.testing.assert_allclose(after.params["w"][i], W - gradient, rtol=1e-5)
    losses = jnp.mean(jnp.stack([W @ z for z in drawn]))
    np.testing.assert_allclose(metrics["loss"], jnp.full(4, losses), rtol=1e-5)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, 1e30])
@pytest.mark.parametrize("microbatches", [1, 3])
def test_a_step_that_is_not_finite_changes_nothing(bad, microbatches):
    """Parameters, optimiser and average stay bitwise; the step and the count of skipped move."""
    run = run_of(optax.adam(0.1), microbatches=microbatches)
    step = jax.jit(run.step)
    before, _ = step(run.init({"w": W}, jax.random.key(0), frozen=W), {"x1": X})
    after, metrics = step(before, {"x1": X.at[5, 1].set(bad)})
    for name in ("params", "ema", "opt_state", "frozen"):
        assert equal(getattr(before, name), getattr(after, name)), name
    assert jnp.array_equal(jax.random.key_data(before.key), jax.random.key_data(after.key))
    assert int(after.step) == int(before.step) + 1
    assert int(after.skipped) == int(metrics["skipped"]) == 1
    later, metrics = step(after, {"x1": X})
    clean, _ = step(before, {"x1": X})
    for name in ("params", "ema", "opt_state"):
        assert equal(getattr(later, name), getattr(clean, name)), name
    assert int(later.skipped) == 1


def test_the_optimizer_is_told_the_loss():
    def update(gradient, state, params=None, *, value, **more):
        return gradient, value

    run = run_of(optax.GradientTransformationExtraArgs(lambda params: jnp.zeros(()), update))
    state, metrics = run.step(run.init({"w": W}, jax.random.key(0)), {"x1": X})
    assert state.opt_state == metrics["loss"] != metrics["grad_norm"]


def lost(params, key, batch, held=None):
    """A loss that is not finite, of a gradient that is."""
    return square(params, key, batch)[0] + jax.lax.stop_gradient(jnp.log(batch["x1"][0, 0])), {}


def cusp(params, key, batch, held=None):
    """A gradient that is not finite, of a loss that is."""
    return jnp.sum(jnp.sqrt(jnp.abs(params["w"] - batch["x1"][0]))), {}


@pytest.mark.parametrize("loss", [lost, cusp])
def test_loss_and_gradient_must_both_be_finite(loss):
    run = run_of(loss=loss)
    state = run.init({"w": W}, jax.random.key(0))
    after, metrics = run.step(state, {"x1": jnp.stack([W.at[0].set(0.0), W])})
    assert jnp.isfinite(metrics["loss"]) == (loss is cusp)
    assert int(after.skipped) == 1
    np.testing.assert_array_equal(after.params["w"], W)


@pytest.mark.parametrize("x64", [False, True])
def test_dtypes_stay(x64):
    """Parameters keep their dtype, their average is float32 at least, and nothing retraces."""
    with jax.enable_x64(x64):
        params = {"half": W.astype(jnp.bfloat16), "w": W}

        def loss(params, key, batch, held=None):
            value = jnp.mean((params["half"] * params["w"] - batch["x1"]) ** 2)
            return value.astype(jnp.float32), {}

        run = run_of(optax.adam(0.1), loss=loss)
        state = run.init(params, jax.random.key(0))
        step = jax.jit(run.step)
        before = jax.tree.map(lambda a: (a.shape, a.dtype), state)
        for _ in range(3):
            state, _ = step(state, {"x1": X})
        assert jax.tree.map(lambda a: (a.shape, a.dtype), state) == before
        assert state.ema["half"].dtype == jnp.float32
        assert state.params["half"].dtype == jnp.bfloat16
        assert step._cache_size() == 1


@pytest.mark.parametrize("microbatches", [1, 3])
def test_keys_are_functions_of_run_and_step(microbatches):
    """A draw, a loss's dropout and each microbatch have keys of their own, new at every step."""
    seen = []

    def loss(params, key, batch, held=None):
        jax.debug.callback(lambda k: seen.append(tuple(np.asarray(k))), jax.random.key_data(key))
        return square(params, key, batch)

    run = run_of(loss=loss, microbatches=microbatches)
    state = run.init({"w": W}, jax.random.key(0))
    for _ in range(2):
        state, _ = jax.jit(run.step)(state, {"x1": X})
    jax.effects_barrier()
    drawn = {tuple(np.asarray(jax.random.key_data(draw_key(state.key, s)))) for s in range(2)}
    assert len(set(seen)) == 2 * microbatches
    assert len(drawn) == 2
    assert not drawn & set(seen)


def test_what_is_held_reaches_the_loss():
    def loss(params, key, batch, held=None):
        assert isinstance(held, Held)
        value = jnp.mean((params["w"] - held.frozen["w"]) ** 2) + 0 * jnp.sum(held.ema["w"])
        return value, {"seen": held.step}

    run = run_of(loss=loss)
    state = run.init({"w": W}, jax.random.key(0), frozen={"w": W + 1})
    for i in range(2):
        state, metrics = run.step(state, {"x1": X})
        assert int(metrics["seen"]) == i
    np.testing.assert_array_equal(state.frozen["w"], W + 1)


def test_microbatches_divide_the_batch():
    run = run_of(microbatches=5)
    state = run.init({"w": W}, jax.random.key(0))
    with pytest.raises(ValueError, match=r"^a batch of 12 does not divide into 5 microbatches: "):
        run.step(state, {"x1": X})


def test_init_owns_its_arrays():
    """A state is given up to each step; what it was made from is not."""
    run = run_of()
    state = run.init({"w": W}, jax.random.key(0))
    jax.jit(run.step, donate_argnums=0)(state, {"x1": X})
    assert not W.is_deleted()

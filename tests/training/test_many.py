"""Many steps in one call: those of one by one, whatever their number, in two programs at most."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxflow.training import draw_key, program, trainer
from jaxflow.training.trainer import held_by

TRACES = []


def square(params, key, batch, held=None):
    TRACES.append(None)
    return jnp.mean((params - batch["x1"] - held.step) ** 2), {}


def stream(step):
    return {"x1": jnp.arange(8.0)[:, None] + step}


def test_any_number_of_steps_is_the_same_run():
    """Losses and state, for more steps than the first call made room for, and for fewer."""
    compiled = program(trainer(square, optax.sgd(0.1), draw=lambda key, batch: batch), donate=False)
    begin = one = compiled.init(jnp.zeros(1), jax.random.key(0))
    losses = []
    for step in range(7):
        one, metrics = compiled.step(one, stream(step))
        losses.append(float(metrics["loss"]))
    many, first = compiled.steps(begin, stream, 2)
    many, second = compiled.steps(many, stream, 4)
    traced = len(TRACES)
    many, third = compiled.steps(many, stream, 1)
    assert len(TRACES) == traced
    found = [np.asarray(m["loss"]) for m in (first, second, third)]
    assert [len(a) for a in found] == [2, 4, 1]
    np.testing.assert_allclose(np.concatenate(found), losses, rtol=1e-5)
    np.testing.assert_allclose(many.params, one.params, rtol=1e-5)
    assert int(many.step) == 7


def test_a_step_is_the_draw_of_its_key_and_state_and_the_trainers_step():
    """A draw reads the step and the averages that the state holds before the step."""

    def draw(key, batch, held):
        noise = jax.random.normal(key, (8, 1))
        return {"x1": batch["x1"] + noise + 10 * held.step + held.ema}

    run = trainer(square, optax.sgd(0.1), draw=draw, ema_decay=0.5)
    compiled = program(run, donate=False)
    state = compiled.init(jnp.ones(1), jax.random.key(4))
    for step in range(3):
        drawn = run.draw(draw_key(state.key, step), stream(step), held_by(state))
        expected, _ = run.step(state, drawn)
        state, _ = compiled.step(state, stream(step))
        np.testing.assert_allclose(state.params, expected.params, rtol=1e-5)
        np.testing.assert_allclose(state.ema, expected.ema, rtol=1e-5)


@pytest.mark.usefixtures("unchecked")
def test_errors():
    compiled = program(trainer(square, optax.sgd(0.1), draw=lambda key, batch: batch))
    state = compiled.init(jnp.zeros(1), jax.random.key(0))
    with pytest.raises(ValueError, match=r"^n must be at least 1; it is 0$"):
        compiled.steps(state, stream, 0)
    with pytest.raises(
        TypeError, match=r"^program\.steps draws its batches on the device, from an"
    ):
        compiled.steps(state, iter([stream(0)]), 1)
    with pytest.raises(TypeError, match=r"^a step takes a training state; got dict: "):
        compiled.steps({}, stream, 1)
    compiled.steps(state, stream, 1)
    with pytest.raises(
        ValueError, match=r"^this state was given to a step before, which reused its"
    ):
        compiled.step(state, stream(0))


def counted(traces):
    def loss(params, key, batch, held=None):
        traces.append(None)
        return jnp.mean((params - batch["x1"]) ** 2), None

    return program(trainer(loss, optax.sgd(0.1), draw=lambda key, batch: batch))


def constant(step):
    return {"x1": jnp.full((8, 1), step, jnp.float32)}


@pytest.mark.parametrize(
    "numbers", [range(20, 0, -1), range(1, 21), [3, 2000, 7, 1500, 1024, 3000]]
)
def test_two_programs_at_most(numbers, caplog):
    """And each call's metrics are those of its own steps, one after another."""
    traces = []
    run = counted(traces)
    state = run.init(jnp.zeros(1), jax.random.key(0))
    numbers, losses = list(numbers), []
    with jax.log_compiles():
        for n in numbers:
            state, metrics = run.steps(state, constant, n)
            assert metrics["loss"].shape == (n,)
            losses.append(np.asarray(metrics["loss"]))
    assert int(state.step) == sum(numbers)
    assert sum("Compiling jit" in told for told in caplog.messages) <= 2
    assert len(traces) <= 4  # for each the shapes of the metrics, and the program
    x, expected = 0.0, []
    for step in range(sum(numbers)):
        expected.append((x - step) ** 2)
        x -= 0.2 * (x - step)
    np.testing.assert_allclose(np.concatenate(losses), expected, rtol=1e-3)


def test_old_states_stay_where_nothing_is_donated():
    run = program(counted([]).trainer, donate=False)
    first = run.init(jnp.zeros(1), jax.random.key(0))
    second, _ = run.step(first, constant(3))
    third, _ = run.steps(second, constant, 2)
    assert [int(s.step) for s in (first, second, third)] == [0, 1, 3]
    assert float(first.ema[0]) == 0.0

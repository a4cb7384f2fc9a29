"""Any number of steps a call, by one program."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxflow.training import program, trainer


def counted(traces):
    def loss(params, key, batch, held=None):
        traces.append(None)
        return jnp.mean((params - batch["x1"]) ** 2), None

    return program(trainer(loss, optax.sgd(0.1), draw=lambda key, batch: batch))


def stream(step):
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
            state, metrics = run.steps(state, stream, n)
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
    second, _ = run.step(first, stream(3))
    third, _ = run.steps(second, stream, 2)
    assert [int(s.step) for s in (first, second, third)] == [0, 1, 3]
    assert float(first.ema[0]) == 0.0

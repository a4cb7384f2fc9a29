"""The importable loop: its log, validation, exact resume, and a word to stop."""

import functools
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxflow import couplings, draws, losses, paths
from jaxflow.data import arrays, on_device, pipeline
from jaxflow.networks import ConcatMLP, linen
from jaxflow.training import Preempted, average, fit, program, trainer

NETWORK = linen(ConcatMLP(width=8, depth=1))
X1 = jax.random.normal(jax.random.key(0), (64, 2))
PATH = paths.linear()


def run_of(**kwargs):
    decays = {"ema": 0.9, "slow": average(0.99, warmup=1)}
    loss = losses.flow_matching(NETWORK, PATH)
    draw = draws.standard(PATH, **kwargs)
    return program(trainer(loss, optax.adam(1e-2), draw=draw, ema_decay=decays))


def begin(run):
    params = NETWORK.init(jax.random.key(1), jnp.zeros(8), X1[:8])
    return run.init(params, jax.random.key(2), frozen={"teacher": jnp.arange(4.0)})


def on_the_device():
    return on_device({"x1": X1}, batch_size=8, seed=0)


@functools.cache
def batches():
    """The first of the data on the device."""
    batch = jax.jit(on_the_device().batch)
    return [batch(i) for i in range(30)]


def on_the_host():
    return pipeline(arrays(x1=np.asarray(X1)), batch_size=8, seed=0)


def stop_at(*steps):
    """A validation that is told to stop, at these steps."""

    def validate(state):
        if int(state.step) in steps:
            os.kill(os.getpid(), signal.SIGTERM)
        return {}

    return validate


DATA = {
    "device": (on_the_device, {}),
    "host": (on_the_host, {}),
    "iterable": (lambda: iter(batches()), {}),
    "coupled on the host": (on_the_device, {"coupling": couplings.optimal_transport(on_host=True)}),
}


@pytest.mark.parametrize("name", DATA)
def test_resume_is_never_having_stopped(name, tmp_path):
    """State, averages, frozen arrays and the lines of the log, bitwise, at any place."""
    data, kwargs = DATA[name]
    run = run_of(**kwargs)
    straight, lines = {}, {}
    more = {"log_every": 5, "validate_every": 8, "save_every": 6}
    whole = fit(run, begin(run), data(), 23, log=straight.__setitem__, **more)
    more |= {"log": lines.__setitem__, "checkpoints": tmp_path, "validate": stop_at(8, 16)}
    for step in (9, 17):
        with pytest.raises(Preempted, match=f"saved at step {step}"):
            fit(run, begin(run), data(), 23, **more)
    state = fit(run, begin(run), data(), 23, **more)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(state), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = map(jax.random.key_data, (a, b))
        np.testing.assert_array_equal(a, b)
    assert [*straight] == [5, 10, 15, 20, 23]
    for step, line in straight.items():
        assert line["loss"] == lines[step].get("loss", line["loss"]), step
    assert len(list((tmp_path / "frozen").iterdir())) == 1
    again = fit(run, begin(run), data(), 23, checkpoints=tmp_path)
    assert int(again.step) == 23


def test_validation_and_the_best(tmp_path):
    run, seen = run_of(), {}
    fit(
        run,
        begin(run),
        on_the_device(),
        10,
        log=lambda step, line: seen.setdefault(step, {}).update(line),
        log_every=4,
        validate=lambda state: {"held_out": state.step + 0.5},
        validate_every=5,
    )
    assert {step: sorted(line) for step, line in seen.items()} == {
        4: ["grad_norm", "loss", "skipped", "steps_per_second"],
        5: ["held_out"],
        8: ["grad_norm", "loss", "skipped", "steps_per_second"],
        10: ["grad_norm", "held_out", "loss", "skipped", "steps_per_second"],
    }
    assert seen[5]["held_out"] == 5.5


def test_told_to_stop_it_saves_and_goes_on(tmp_path):
    run, state = run_of(), None

    def log(step, line):
        if step == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    more = {"log_every": 2, "checkpoints": tmp_path, "save_every": 100, "steps_per_call": 2}
    with pytest.raises(Preempted, match="saved at step 6"):
        fit(run, begin(run), on_the_device(), 12, log=log, **more)
    state = fit(run, begin(run), on_the_device(), 12, **more)
    whole = fit(run, begin(run), on_the_device(), 12)
    np.testing.assert_array_equal(*(jax.tree.leaves(s.params)[0] for s in (state, whole)))


def test_steps_that_are_not_finite_end_it():
    run = run_of()

    def data(step):
        return {"x1": jnp.where(step < 3, X1[:8], jnp.nan)}

    with pytest.raises(ArithmeticError, match="20 steps in a row, 4 to 23"):
        fit(run, begin(run), data, 200, log_every=1)


@pytest.mark.parametrize(
    ("data", "kwargs", "error", "told"),
    [
        (X1, {}, TypeError, "data is batch"),
        ({"x1": X1}, {}, TypeError, "data is batch"),
        ([on_the_device().batch(0)], {}, ValueError, "the data ended after 1 of 9 batches"),
        (on_the_device(), {"log_every": 0}, ValueError, "log_every must be at least 1; it is 0"),
    ],
)
def test_refusals(data, kwargs, error, told):
    run = run_of()
    with pytest.raises(error, match=told):
        fit(run, begin(run), data, 9, **kwargs)

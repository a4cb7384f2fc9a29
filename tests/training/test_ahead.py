"""Draws that run ahead of the step: the same as step by step."""

import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import pytest

from jaxflow import couplings, draws, paths, sources, times
from jaxflow.draws.chain import on_host
from jaxflow.training import ahead

NULL = {"label": 10}
X1 = jax.random.normal(jax.random.key(7), (16, 3))
WITH_X0 = {"x1": X1, "cond": {"label": jnp.arange(16)}, "x0": X1 + 1}
HOST = couplings.optimal_transport(on_host=True)
DEVICE_DRAW = draws.standard(
    paths.vp(), coupling=couplings.optimal_transport(), drop=draws.drop(0.3, NULL)
)


def equal(a, b):
    same = jax.tree.map(lambda x, y: bool(jnp.array_equal(x, y)), a, b)
    return all(jax.tree.leaves(same))


def chains():
    usual = draws.standard(paths.linear(), coupling=HOST, drop=draws.drop(0.3, NULL))
    return {
        "device": DEVICE_DRAW,
        "host": usual,
        "host alone": draws.couple(HOST),
        "rows and a function": draws.chain(
            draws.chain(draws.source(sources.data(X1)), lambda key, batch: {**batch, "s": key}),
            draws.times(times.uniform()),
        ),
        "host inside a chain": draws.chain(
            draws.chain(draws.source(sources.normal()), draws.couple(HOST)),
            draws.times(times.uniform()),
        ),
    }


def batches(n):
    """Of which the last is a shorter one."""
    for i in range(n):
        batch = {**WITH_X0, "x1": X1 + i} if i % 2 else {**WITH_X0, "x1": X1 - i}
        yield batch if i < n - 1 else jax.tree.map(lambda a: a[:8], batch)


@pytest.mark.parametrize("name", chains())
def test_ahead_equals_step_by_step(name, key):
    draw = chains()[name]

    def key_of(step):
        return jax.random.fold_in(key, step)

    got = list(ahead(draw, key_of, batches(10), first=3))
    assert len(got) == 10
    for step, (batch, completed) in enumerate(zip(batches(10), got, strict=True), 3):
        assert equal(completed, draw(key_of(step), batch))
    assert on_host(draw) == name.startswith("host")


def test_ahead_keeps_float64(x64):
    """The thread draws in the precision of the one that asked."""
    batch = {"x1": jnp.ones((4, 2), jnp.float64)}
    draw = draws.standard(paths.linear())
    (got,) = ahead(draw, lambda step: jax.random.key(step), [batch])
    expected = draw(jax.random.key(0), batch)
    assert got["x0"].dtype == jnp.float64
    assert equal(got, expected)


def test_ahead_raises_at_the_batch_concerned(key):
    """What `draw` and what `batches` raise, after all batches before it."""
    bad = {**WITH_X0, "x1": X1.at[0, 0].set(jnp.nan)}
    stream = ahead(draws.couple(HOST), lambda step: key, [WITH_X0, WITH_X0, bad, WITH_X0])
    assert equal(next(stream), next(stream))
    with pytest.raises(ValueError, match="not finite"):
        next(stream)

    def torn():
        yield WITH_X0
        yield WITH_X0
        raise OSError("the disk is gone")

    stream = ahead(draws.couple(HOST), lambda step: key, torn())
    assert equal(next(stream), next(stream))
    with pytest.raises(OSError, match="the disk is gone"):
        next(stream)


@pytest.mark.parametrize(("numbers", "most"), [(3, 24), (2**18, 3)], ids=["small", "large"])
def test_ahead_reads_no_further_than_its_depth_and_leaves_no_thread(key, numbers, most):
    read, batch = [], dict.fromkeys(("x0", "x1"), jnp.ones((2, numbers)))

    def endless():
        for i in range(100):
            read.append(i)
            yield batch

    stream = ahead(draws.couple(HOST), lambda step: key, endless(), depth=2)
    next(stream)
    assert len(read) == most
    stream.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("draws-ahead")]


@pytest.mark.slow
def test_left_open_it_ends_in_silence_with_its_process():
    program = """
import itertools, jax, jax.numpy as jnp
from jaxflow import couplings, draws, training
draw, key = draws.couple(couplings.optimal_transport(on_host=True)), jax.random.key(0)
batch = {"x0": jnp.ones((4, 2)), "x1": jnp.ones((4, 2)), "cond": {}}
batches = training.ahead(draw, lambda step: key, itertools.repeat(batch))
next(batches)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_ahead_compiles_once(key):
    traces = []

    def counted(key, batch):
        traces.append(None)
        return {**batch, "t": jax.random.uniform(key, (16,))}

    list(ahead(counted, lambda step: jax.random.key(step), [WITH_X0] * 9))
    assert len(traces) == 1

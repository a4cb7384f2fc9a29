"""Batches placed ahead, and what a batch must be."""

import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow.data import check
from jaxflow.training import prefetch


def alive() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "jaxflow-prefetch"]


def test_order_and_end():
    with prefetch(iter(range(20)), jax.device_put, depth=3) as batches:
        assert [int(batch) for batch in batches] == list(range(20))
        with pytest.raises(StopIteration):
            next(batches)
    assert not alive()


def test_no_more_than_depth_wait():
    taken = []
    batches = prefetch((taken.append(i) or i for i in range(100)), lambda batch: batch, depth=2)
    assert next(batches) == 0
    time.sleep(0.3)
    assert len(taken) <= 4
    batches.close()
    assert not alive()
    with pytest.raises(StopIteration):
        next(batches)


def test_errors_surface_in_their_turn():
    def source():
        yield 1
        raise RuntimeError("the disk is gone")

    batches = prefetch(source(), lambda batch: batch)
    assert next(batches) == 1
    with pytest.raises(RuntimeError, match="the disk is gone"):
        next(batches)
    assert not alive()


def test_errors_of_placement_surface():
    with pytest.raises(ZeroDivisionError):
        next(prefetch([0], lambda batch: 1 / batch))


def test_an_abandoned_iterator_stops():
    batches = prefetch(iter(range(1000)), lambda batch: batch)
    next(batches)
    del batches
    deadline = time.monotonic() + 5
    while alive() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive()


def test_depth_is_checked():
    with pytest.raises(ValueError, match="depth = 0"):
        prefetch([], lambda batch: batch, depth=0)


def batch(**changes):
    whole = {"x1": np.zeros((4, 2), np.float32), "cond": {"label": np.zeros(4, np.int32)}}
    return whole | changes


def test_fit_batches_pass():
    assert check(batch())["x1"].shape == (4, 2)
    check(batch(x1=jnp.zeros((4, 2), jnp.bfloat16)))
    check(batch(x1=np.zeros((4, 7), np.int32)))
    check({"x1": np.zeros((4, 2), np.float32)})


def spoiled(value):
    x = np.zeros((4, 2), np.float32)
    x[2, 1] = value
    return x


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (batch(x1=spoiled(np.nan)), "the batch's x1 holds nan in example 2"),
        (batch(x0=spoiled(np.inf)), "the batch's x0 holds inf in example 2"),
        (batch(cond={"angle": spoiled(np.nan)}), r"cond\['angle'\] holds nan in example 2"),
        (batch(x1=jnp.array([[0.0], [jnp.nan], [0], [0]], jnp.bfloat16)), "example 1"),
        (batch(cond={"label": np.zeros(3, np.int32)}), "leads with the batch"),
        (batch(x1=np.zeros((4, 2), np.uint8)), "transforms.scale"),
        ({"cond": {}}, "under 'x1'"),
    ],
)
def test_unfit_batches_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        check(wrong)

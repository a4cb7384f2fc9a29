"""The batch of a step depends on the step alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxflow.data import arrays, pipeline, transforms

N = 23
SOURCE = arrays(
    image=np.arange(N * 12).reshape(N, 2, 2, 3).astype(np.uint8),
    label=np.arange(N),
    name=np.array([f"image {i}" for i in range(N)]),
)
TRANSFORMS = (transforms.flip(), transforms.dequantise())


def batches(**options):
    return pipeline(SOURCE, **{"batch_size": 4, "seed": 3, "transforms": TRANSFORMS} | options)


def take(iterator, n):
    found = [next(iterator) for _ in range(n)]
    iterator.close()
    return found


def assert_equal(one, other):
    np.testing.assert_array_equal(one["x1"], other["x1"])
    np.testing.assert_array_equal(one["cond"]["label"], other["cond"]["label"])


def test_shapes_and_types():
    batch = take(batches(), 1)[0]
    assert batch["x1"].shape == (4, 2, 2, 3)
    assert batch["x1"].dtype == np.float32
    assert batch["cond"].keys() == {"label"}
    assert batch["cond"]["label"].dtype == np.int32


@pytest.mark.parametrize("processes", [2, 4])
def test_any_number_of_processes_reads_the_same_global_batches(processes):
    whole = take(batches(), 12)
    shares = [take(batches(process_index=p, process_count=processes), 12) for p in range(processes)]
    for step, batch in enumerate(whole):
        parts = [share[step] for share in shares]
        joined = {
            "x1": np.concatenate([part["x1"] for part in parts]),
            "cond": {"label": np.concatenate([part["cond"]["label"] for part in parts])},
        }
        assert_equal(batch, joined)


def test_resuming_is_never_having_stopped():
    whole = take(batches(), 15)
    for start in (0, 5, 11):
        resumed = take(batches(start=start), 15 - start)
        for one, other in zip(whole[start:], resumed, strict=True):
            assert_equal(one, other)


def test_restore_goes_back_and_forth():
    whole = take(batches(), 9)
    iterator = batches()
    next(iterator), next(iterator)
    assert iterator.step == 2
    for step in (7, 0, 3):
        iterator.restore(step)
        assert_equal(next(iterator), whole[step])
        assert iterator.step == step + 1
    iterator.close()
    with pytest.raises(ValueError, match="closed"):
        next(iterator)


def test_every_epoch_holds_every_example_in_another_order():
    labels = np.concatenate([b["cond"]["label"] for b in take(batches(), N)])
    epochs = labels.reshape(4, N)
    assert (np.sort(epochs, axis=1) == np.arange(N)).all()
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 4


def test_seeds_differ():
    assert not np.array_equal(take(batches(), 1)[0]["x1"], take(batches(seed=4), 1)[0]["x1"])


def test_one_pass_in_order():
    passed = list(batches(shuffle=False, repeat=False, transforms=(transforms.scale(),)))
    assert [len(batch["x1"]) for batch in passed] == [4, 4, 4, 4, 4, 3]
    labels = np.concatenate([batch["cond"]["label"] for batch in passed])
    assert labels.tolist() == list(range(N))
    images = transforms.pixels(np.concatenate([batch["x1"] for batch in passed]))
    np.testing.assert_array_equal(images, SOURCE.columns["image"])


def test_conditions_are_chosen():
    assert take(batches(cond=()), 1)[0]["cond"] == {}
    with pytest.raises(ValueError, match="'species'"):
        batches(cond=("species",))


def test_source_data_goes_along():
    source = arrays(x1=np.zeros((4, 2)), x0=np.ones((4, 2)))
    batch = take(pipeline(source, batch_size=2, seed=0), 1)[0]
    assert batch["x0"].dtype == np.float32
    assert (batch["x0"] == 1).all()
    assert batch["cond"] == {}


@given(n=st.integers(1, 20), batch_size=st.integers(1, 30), step=st.integers(0, 10**6))
def test_positions_are_laid_end_to_end(n, batch_size, step):
    source = arrays(x1=np.arange(n))
    options = {"batch_size": batch_size, "seed": 0, "shuffle": False}
    batch = take(pipeline(source, start=step, **options), 1)[0]
    expected = (step * batch_size + np.arange(batch_size)) % n
    np.testing.assert_array_equal(batch["x1"], expected)


@pytest.mark.slow
def test_worker_processes_change_nothing():
    for one, other in zip(
        take(batches(start=2), 6), take(batches(start=2, workers=2), 6), strict=True
    ):
        assert_equal(one, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 5, "process_count": 2}, "batch_size = 5"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"process_index": 1}, "process_index = 1"),
        ({"seed": -1}, "seed = -1"),
        ({"start": -1}, "step = -1"),
        ({"repeat": False, "process_count": 2}, "divides"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        batches(**options)


@pytest.mark.parametrize(
    ("source", "message"),
    [(arrays(x1=np.zeros((0, 2))), "empty"), (arrays(y=np.zeros(3)), "'x1' or 'image'")],
)
def test_wrong_sources_are_named(source, message):
    with pytest.raises(ValueError, match=message):
        pipeline(source, batch_size=1, seed=0)


class Torn:
    """A source of which some examples cannot be read."""

    def __init__(self, n, torn):
        self.n, self.torn = n, torn

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        if i in self.torn:
            raise OSError(f"record {i} is torn")
        return {"x1": np.float32(i)}


def test_unreadable_examples_are_replaced_and_counted():
    """By the next that can be read, each counted once however often it is met."""
    batches = pipeline(
        Torn(8, {2, 3, 7}), batch_size=8, seed=0, shuffle=False, unreadable_at_most=3
    )
    for _ in range(3):
        assert next(batches)["x1"].tolist() == [0, 1, 4, 4, 4, 5, 6, 0]
    assert batches.unreadable == 3
    batches.close()


def test_the_first_example_may_be_unreadable_too():
    batches = pipeline(Torn(4, {0}), batch_size=4, seed=0, shuffle=False, unreadable_at_most=1)
    assert next(batches)["x1"].tolist() == [1, 1, 2, 3]
    assert batches.unreadable == 1
    batches.close()


def test_too_many_unreadable_examples_end_in_a_sentence():
    batches = pipeline(
        Torn(8, {2, 3, 7}), batch_size=8, seed=0, shuffle=False, unreadable_at_most=2
    )
    with pytest.raises(ValueError, match=r"3 examples cannot be read.*torn.*at_most=2"):
        next(batches)
    batches.close()

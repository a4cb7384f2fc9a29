"""Checkpoints: a run that stops goes on as if it had not, and damage is seen."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxflow import couplings, draws, losses, paths, times
from jaxflow.training import average, layout, program, trainer
from jaxflow.training.checkpoint import Checkpoints, read_params
from jaxflow.training.fingerprint import fingerprint

PATH = paths.linear()
pytestmark = pytest.mark.filterwarnings(  # Orbax leaves the reads of a torn folder unawaited
    "ignore::pytest.PytestUnraisableExceptionWarning"
)


def network(params, t, x, *, key=None, label):
    """With dropout, which the loss's own key serves."""
    h = jnp.tanh(jnp.concatenate([x, t[:, None], label[:, None]], -1) @ params["a"])
    if key is not None:
        h = h * jax.random.bernoulli(key, 0.7, h.shape)
    return h @ params["b"]


RUN = program(
    trainer(
        losses.flow_matching(network, PATH),
        optax.adam(1e-2),
        draw=draws.standard(
            PATH,
            coupling=couplings.optimal_transport(),
            times=times.stratified(times.uniform()),
            drop=draws.drop(0.3, {"label": -1.0}),
        ),
        microbatches=2,
    )
)


def fresh():
    rng = np.random.default_rng(1)
    params = {"a": rng.normal(size=(4, 8)), "b": rng.normal(size=(8, 2))}
    return RUN.init(jax.tree.map(jnp.float32, params), jax.random.key(3), {"teacher": jnp.ones(2)})


def batch_of(step):
    rng = np.random.default_rng(step)
    x1 = rng.normal(size=(16, 2)).astype(np.float32)
    return {"x1": x1, "cond": {"label": x1[:, 0]}}


def go(state, stop):
    losses = []
    for step in range(int(state.step), stop):
        state, metrics = RUN.step(state, RUN.place(batch_of(step)))
        losses.append(float(metrics["loss"]))
    return state, losses


def raw(leaf):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)


def assert_bitwise(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(raw(x), raw(y))


def test_resume_equals_never_having_stopped(tmp_path):
    """Bitwise: dropout, transport, condition dropout, optimiser, average and counters."""
    straight, history = go(fresh(), 6)
    state, _ = go(fresh(), 3)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(fresh()) is None
        checkpoints.save(state, {"note": "half way"})
        go(state, 4)
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(fresh())
    assert restored.meta == {"note": "half way"}
    assert restored.refused == {}
    assert int(restored.state.step) == 3
    resumed, tail = go(restored.state, 6)
    assert tail == history[3:]
    assert_bitwise(resumed, straight)
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(restored.state))


def test_another_layout_reads_the_same(tmp_path):
    """Saved on eight devices, read on two, by shapes alone."""
    state, _ = go(fresh(), 1)
    kept = jax.tree.map(raw, state)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state)
    place = layout(devices=jax.devices()[:2]).whole
    like = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place), jax.eval_shape(fresh)
    )
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(like).state
    assert_bitwise(jax.tree.map(raw, restored), kept)
    assert len(restored.params["a"].sharding.device_set) == 2


def saved(tmp_path, *steps, keep=3):
    """States of a run, each saved under its step."""
    states = {}
    with Checkpoints(tmp_path, keep=keep) as checkpoints:
        state = fresh()
        for step in steps:
            state, _ = go(state, step)
            states[step] = jax.tree.map(raw, state)
            checkpoints.save(state)
            checkpoints.wait()
    return states


def arrays_of(folder: Path) -> list[Path]:
    return list(folder.glob("state/d/*"))


def flip_bits(file):
    """One in the middle, and of a large file one in every 64 KiB: not all of it need be in use."""
    content = bytearray(file.read_bytes())
    for place in range(len(content) // 2 % 65_536, len(content), 65_536):
        content[place] ^= 1
    file.write_bytes(content)


def flip(folder):
    for file in arrays_of(folder):
        flip_bits(file)


def truncate(folder):
    for file in arrays_of(folder):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def hollow(folder):
    (folder.parent / "99").mkdir()


def unfinished(folder):
    (folder / "meta").rename(folder / "elsewhere")


@pytest.mark.parametrize("damage", [flip, truncate, hollow, unfinished])
def test_newest_whole_checkpoint_is_taken_and_the_run_goes_on(damage, tmp_path):
    """A damaged one is refused; passing its step again saves it anew and loses no file."""
    states = saved(tmp_path, 1, 2)
    damage(tmp_path / "2")
    good, bad = (2, 99) if damage is hollow else (1, 2)
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(fresh())
        assert int(restored.state.step) == good
        assert list(restored.refused) == [bad]
        assert_bitwise(jax.tree.map(raw, restored.state), states[good])
        state, _ = go(restored.state, good + 1)
        kept = jax.tree.map(raw, state)
        checkpoints.save(state)
    with Checkpoints(tmp_path) as checkpoints:
        again = checkpoints.restore(fresh())
    assert again.refused == {}
    assert_bitwise(jax.tree.map(raw, again.state), kept)
    assert [p.name for p in tmp_path.glob("refused-*")] == [f"refused-{bad}-0"]


@pytest.mark.parametrize("kept", [{"keep": 0}, {"keep": -1}, {"keep_every": -1}])
def test_a_folder_that_would_keep_nothing_is_refused(tmp_path, kept):
    with pytest.raises(ValueError, match=str(next(iter(kept.values())))):
        Checkpoints(tmp_path, **kept)


def test_a_name_that_is_a_pattern_is_refused(tmp_path):
    """Orbax would write there and never find what it wrote."""
    with pytest.raises(ValueError, match=r"lr\[adam\] cannot hold checkpoints"):
        Checkpoints(tmp_path / "lr[adam]")


def test_none_is_whole(tmp_path):
    saved(tmp_path, 1)
    flip(tmp_path / "1")
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(ValueError, match="step 1"):
        checkpoints.restore(fresh())
    assert (tmp_path / "1").is_dir()


def test_no_flipped_bit_passes_unseen(tmp_path):
    """A bit of any file of the state: refused, or without consequence."""
    states = saved(tmp_path, 1)
    refused = 0
    for file in [f for f in (tmp_path / "1" / "state").rglob("*") if f.is_file()]:
        whole = file.read_bytes()
        flip_bits(file)
        with Checkpoints(tmp_path) as checkpoints:
            try:
                restored = checkpoints.restore(fresh())
                assert_bitwise(jax.tree.map(raw, restored.state), states[1])
            except ValueError:
                refused += 1
        file.write_bytes(whole)
    assert refused >= 3


def test_a_lost_process_is_no_fault_of_the_checkpoint(tmp_path, monkeypatch):
    """It ends the restore; nothing is refused, nor set aside when the run goes on."""
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(fresh())
        checkpoints.wait()

        def lost(mine):
            raise jax.errors.JaxRuntimeError("connection closed by peer")

        with monkeypatch.context() as patch:
            patch.setattr("jaxflow.training.processes.agree", lost)
            with pytest.raises(jax.errors.JaxRuntimeError):
                checkpoints.restore(fresh())
        assert checkpoints.restore(fresh()).refused == {}


def test_writing_does_not_disturb_how_processes_agree_to_stop(tmp_path, monkeypatch):
    """The loop alone tells JAX where it is; a late word from the writer would undo that."""
    told = []
    monkeypatch.setattr(
        "jax.experimental.multihost_utils.reached_preemption_sync_point", told.append
    )
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(go(fresh(), step)[0])
        checkpoints.wait()
        assert checkpoints.steps() == [3]
    assert told == []


def test_another_networks_state_is_refused(tmp_path):
    """Other shapes and other dtypes are refused, not cast."""
    saved(tmp_path, 1)
    for change in (
        lambda a: jnp.concatenate([a, a]) if a.ndim == 2 else a,
        lambda a: a.astype(jnp.bfloat16) if a.ndim == 2 else a,
    ):
        with Checkpoints(tmp_path) as checkpoints, pytest.raises(ValueError, match="step 1"):
            checkpoints.restore(jax.tree.map(change, fresh()))


def test_keeps_the_newest_and_refuses_to_go_back(tmp_path):
    saved(tmp_path, 1, 2, 3, 4, keep=2)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.steps() == [3, 4]
        checkpoints.save(go(fresh(), 3)[0])
        assert checkpoints.steps() == [3, 4]
        with pytest.raises(RuntimeError, match="newer step 4"):
            checkpoints.save(go(fresh(), 2)[0])


KINDS = (np.float32, np.float64, np.float16, np.int8, np.int32, np.uint8, np.uint32, np.bool_)


@pytest.mark.parametrize(("columns", "programs"), [(2_000, 0), (2**18, 8)])
def test_a_save_cuts_no_share_of_a_small_array(tmp_path, columns, programs):
    """Else the first save compiles one for every array and device, and all wait for them."""
    state = RUN.init({"a": jnp.ones((8, columns))}, jax.random.key(3))
    fingerprint(state)
    compiled = []
    note = lambda name, seconds, **said: compiled.append(said.get("fun_name"))  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(state)
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
    assert len([name for name in compiled if name and "slice" in name]) >= programs
    assert programs or not any(compiled)


def tree_of(seed):
    rng = np.random.default_rng(seed)
    leaves = {np.dtype(k).name: rng.integers(0, 2, (3, 4)).astype(k) for k in KINDS}
    return {**leaves, "bfloat16": leaves["float32"].astype(jnp.bfloat16), "scalar": np.float32(2)}


@given(st.sampled_from(sorted(set(tree_of(0)) - {"bool"})), st.integers(0, 10**6))
def test_fingerprint_sees_every_bit(name, place):
    """Flipping any one bit of a leaf changes that leaf's checksum and no other's."""
    with jax.enable_x64(True):
        tree = tree_of(0)
        leaf = np.array(tree[name])
        view = leaf.reshape(-1).view(np.uint8)
        bit = place % (8 * view.size)
        view[bit // 8] ^= np.uint8(1 << (bit % 8))
        before, after = fingerprint(tree), fingerprint({**tree, name: leaf})
    changed = [n for n, a, b in zip(sorted(tree), before, after, strict=True) if a != b]
    assert changed == [name]


def test_fingerprint_of_flags_and_of_swapped_words():
    tree = {"flags": jnp.array([True, False, True]), "key": jax.random.key(0)}
    other = {"flags": jnp.array([False, True, True]), "key": jax.random.key(1)}
    assert np.all(fingerprint(tree) != fingerprint(other))
    x = jnp.arange(12.0).reshape(3, 4)
    assert fingerprint([x])[0] != fingerprint([x[::-1]])[0]
    assert fingerprint([x])[0] != fingerprint([x[:, ::-1]])[0]


def test_fingerprint_sees_a_change_of_every_word():
    """Signs of an even number of words, which cancel in a weighted sum modulo 2^32."""
    x = jax.random.normal(jax.random.key(0), (4, 6))
    for other in (-x, x.at[:2, 0].multiply(-1), x[::-1], x[:, ::-1], x.at[0].add(1).at[1].add(-1)):
        assert fingerprint([x]) != fingerprint([other])


def test_fingerprint_does_not_know_of_sharding():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(16, 8)), jnp.float32)
    mesh = layout().mesh
    for spec in [("data",), (None, "data")]:
        sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
        np.testing.assert_array_equal(fingerprint([jax.device_put(x, sharding)]), fingerprint([x]))


def test_params_alone_in_one_call(tmp_path):
    """Without network, optimiser or config; the average or not, of a step or the newest whole."""
    states = saved(tmp_path, 1, 2, 3)
    for which, name in (("ema", "ema"), (None, "params")):
        read = read_params(tmp_path, average=which)
        assert read.step == 3
        jax.tree.map(np.testing.assert_array_equal, read.params, getattr(states[3], name))
    assert_bitwise(read_params(tmp_path, step=2).params, states[2].ema)
    flip(tmp_path / "3")
    assert read_params(tmp_path).step == 2
    with pytest.raises(ValueError, match="step 3"):
        read_params(tmp_path, step=3)
    with pytest.raises(FileNotFoundError, match="checkpoint 7"):
        read_params(tmp_path, step=7)
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        read_params(tmp_path / "elsewhere")


def test_keeps_the_best_and_every_so_many(tmp_path):
    """Beside the newest: the lowest of a metric, and the multiples of a number of steps."""
    values = {1: 3.0, 2: 1.0, 3: 2.0, 4: 5.0, 5: 4.0, 6: 4.5}
    with Checkpoints(tmp_path, keep=1, keep_every=4, best="loss") as checkpoints:
        state = fresh()
        for step, loss in values.items():
            state, _ = go(state, step)
            checkpoints.save(state, metrics={"loss": loss})
            checkpoints.wait()
        assert checkpoints.steps() == [2, 4, 6]
    with Checkpoints(tmp_path, keep=1, keep_every=4, best="loss") as checkpoints:
        state, _ = go(state, 7)
        checkpoints.save(state, metrics={"loss": 9.0})
        checkpoints.wait()
        assert checkpoints.steps() == [2, 4, 7]


def test_another_course_sets_later_steps_aside(tmp_path):
    saved(tmp_path, 1, 2, 3)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.forget_after(1)
        assert checkpoints.steps() == [1]
        assert int(checkpoints.restore(fresh()).state.step) == 1
    assert {p.name for p in tmp_path.glob("refused-*")} == {"refused-2-0", "refused-3-0"}


def test_what_was_saved_beside_the_arrays_is_checked(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(go(fresh(), 1)[0], {"left_out": 4711})
    record = tmp_path / "1" / "meta" / "metadata"
    record.write_text(record.read_text().replace("4711", "4710"))
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(ValueError, match="saved beside"):
        checkpoints.restore(fresh())


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_what_is_frozen_is_stored_once(tmp_path):
    """Beside the steps, with its checksum; another teacher has a place of its own."""
    teacher = {"w": jax.random.normal(jax.random.key(0), (1 << 20,))}
    params = {"a": jnp.ones((4, 8)), "b": jnp.ones((8, 2))}
    states = [RUN.init(params, jax.random.key(0), teacher)]
    with Checkpoints(tmp_path, keep=5) as checkpoints:
        for step in range(1, 4):
            states.append(go(RUN.init(params, jax.random.key(0), teacher), step)[0])
            checkpoints.save(states[-1])
        checkpoints.wait()
        assert size(tmp_path / "frozen") > 3_000_000
        assert sum(size(tmp_path / str(step)) for step in range(1, 4)) < 200_000
        found = checkpoints.restore(RUN.layout.like(states[0]))
        assert_bitwise(found.state, states[3])
        other = go(RUN.init(params, jax.random.key(0), {"w": -teacher["w"]}), 4)[0]
        checkpoints.save(other)
        checkpoints.wait()
        assert len(list((tmp_path / "frozen").iterdir())) == 2
        assert_bitwise(checkpoints.restore(RUN.layout.like(states[0])).state, other)
    for folder in (tmp_path / "frozen").iterdir():
        for file in folder.rglob("*"):
            if file.is_file() and file.stat().st_size > 1_000_000:
                flip_bits(file)
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(ValueError, match="is whole"):
        checkpoints.restore(RUN.layout.like(states[0]))


def test_averages_by_name(tmp_path):
    """Each is read by its name, alone."""
    run = program(
        trainer(
            losses.flow_matching(network, PATH),
            optax.adam(1e-2),
            draw=draws.standard(PATH),
            ema_decay={"ema": 0.9, "target": average(0.5, warmup=1)},
        )
    )
    state = run.init({"a": jnp.ones((4, 8)), "b": jnp.ones((8, 2))}, jax.random.key(0))
    for step in range(3):
        state, _ = run.step(state, run.place(batch_of(step)))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state)
        checkpoints.wait()
        restored = checkpoints.restore(run.layout.like(state)).state
    assert_bitwise(restored, state)
    for name in ("ema", "target"):
        assert_bitwise(read_params(tmp_path, average=name).params, state.averages[name])
    assert not np.array_equal(state.averages["target"]["a"], state.ema["a"])
    with pytest.raises(ValueError, match="it holds ema, target, and no 'teacher'"):
        read_params(tmp_path, average="teacher")

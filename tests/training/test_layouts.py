"""However the state is laid over devices, the run is that of one, and each holds its part."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxflow import draws, losses, networks, paths
from jaxflow.training import layout, processes, program, trainer
from jaxflow.training.checkpoint import Checkpoints
from tests.problems import some_fast

PATH = paths.linear()
MODULE = networks.DiT(patch=2, width=32, depth=2, heads=4, num_classes=3)
NETWORK = networks.linen(MODULE)
RNG = np.random.default_rng(0)
X1 = RNG.normal(size=(16, 4, 4, 2))
LABEL = np.arange(16) % 3
LAYOUTS = {
    "data": {},
    "fsdp": {},
    "hybrid": {"fsdp": 4},
    "tensor": {"tensor": 2},
    "tensor by fsdp": {"tensor": 2, "fsdp": 2},
    "all fsdp and tensor": {"tensor": 4, "fsdp": 2},
}


def laid(name, devices=8):
    sizes = LAYOUTS[name]
    return layout(
        "tensor" if "tensor" in sizes else name,
        devices=jax.devices()[:devices],
        tensor_axes=MODULE.tensor_axes,
        **sizes,
    )


def compiled(over, microbatches=1):
    """Where the first moment of Adam forgets at once, it is the gradient."""
    loss = losses.flow_matching(NETWORK, PATH)
    optimizer = optax.adam(1e-3, b1=0.0)
    run = trainer(loss, optimizer, draw=draws.standard(PATH), microbatches=microbatches)
    return program(run, layout=over)


@functools.cache
def run_over(name):
    """One program a layout for all tests: each compiles for seconds."""
    return compiled(laid(name))


def batch(dtype):
    return {"x1": jnp.asarray(X1, dtype), "cond": {"label": jnp.asarray(LABEL)}}


@functools.cache
def parameters(dtype):
    """Random everywhere: at its own start a DiT is zero, and so are most gradients."""
    shapes = jax.eval_shape(
        lambda: NETWORK.init(
            jax.random.key(0), jnp.zeros(2), jnp.zeros((2, 4, 4, 2)), label=LABEL[:2]
        )
    )
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda a: np.asarray(rng.normal(size=a.shape) / 4, dtype), shapes)


def gradient(over, dtype, microbatches=1):
    return gradient_of(compiled(over, microbatches=microbatches), dtype)


def gradient_of(run, dtype):
    state = run.init(parameters(dtype), jax.random.key(5))
    state, metrics = run.step(state, run.place(batch(dtype)))
    return jax.device_get((state.opt_state[0].mu, metrics["loss"]))


@functools.cache
def of_one_device(dtype):
    with jax.enable_x64(dtype == "float64"):
        return gradient(layout(devices=jax.devices()[:1]), dtype)


@pytest.mark.parametrize("name", some_fast(LAYOUTS, ("data", "fsdp", "tensor", "tensor by fsdp")))
@pytest.mark.parametrize("dtype", ["float64", pytest.param("float32", marks=pytest.mark.slow)])
def test_gradients_are_those_of_one_device(name, dtype):
    expected, loss_ = of_one_device(dtype)
    with jax.enable_x64(dtype == "float64"):
        got, loss = gradient_of(run_over(name), dtype)
    tolerance = 1e-12 if dtype == "float64" else 1e-5
    norm = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(expected)))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert np.linalg.norm(a - b) / norm < tolerance
    assert loss == pytest.approx(loss_, rel=tolerance)


@pytest.mark.parametrize("name", some_fast(LAYOUTS, ("hybrid", "tensor by fsdp")))
def test_microbatches_are_reduced_to_the_gradient_of_one_device(name):
    expected, _ = of_one_device("float64")
    with jax.enable_x64(True):
        got, _ = gradient(laid(name), "float64", microbatches=2)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


def on_one_device(tree):
    """Bytes that the first device holds of a tree."""
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))


def whole(tree):
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", ["fsdp", "tensor"])
def test_a_state_starts_in_its_parts_and_with_the_same_values(name):
    """Parameters go from the host to each device in its part, and none is whole anywhere."""
    params = parameters("float32")
    run = run_over(name)
    placed = processes.distribute(params, run.layout.split(params))
    state = run.init(params, jax.random.key(0))
    for part, leaf in zip(jax.tree.leaves(placed), jax.tree.leaves(state.params), strict=True):
        assert part.sharding.is_equivalent_to(leaf.sharding, leaf.ndim)
    assert on_one_device(placed) < (0.2 if name == "fsdp" else 0.8) * whole(placed)
    for start in (state.params, state.ema):
        jax.tree.map(np.testing.assert_array_equal, start, params)


def test_fsdp_holds_an_eighth_and_gathers_where_it_uses(x64):
    """Of parameters, optimiser and average; nothing whole leaves the step."""
    run = run_over("fsdp")
    state = run.init(parameters("float64"), jax.random.key(0))
    for part in (state.params, state.ema, state.opt_state[0].mu, state.opt_state[0].nu):
        assert on_one_device(part) == pytest.approx(whole(part) / 8, rel=0.05)
    placed = run.place(batch("float64"))
    lowered = run.step.lower(state, placed).compile()
    text = lowered.as_text()
    assert "all-gather" in text
    held = on_one_device((state.params, state.ema, state.opt_state))
    memory = lowered.memory_analysis()
    assert memory.output_size_in_bytes < 1.1 * held + 1024
    state, _ = run.step(state, placed)
    for part in (state.params, state.ema, state.opt_state[0].mu, state.opt_state[0].nu):
        assert on_one_device(part) == pytest.approx(whole(part) / 8, rel=0.05)
    rows = run.layout.table(state)
    assert sum(row.bytes_per_device for row in rows) == held + 4 + 4 + 8
    assert {row.whole for row in rows if row.shape == ()} == {""}


def test_tensor_splits_heads_and_hidden_units():
    run = run_over("tensor")
    state = run.init(parameters("float32"), jax.random.key(0))
    block = state.params["blocks"]
    shard = {
        name: leaf.addressable_shards[0].data.shape
        for name, leaf in {
            "qkv": block["attention"]["qkv"]["kernel"],
            "out": block["attention"]["out"]["kernel"],
            "expand": block["expand"]["kernel"],
            "contract": block["contract"]["kernel"],
            "modulation": block["modulation"]["kernel"],
        }.items()
    }
    assert shard == {
        "qkv": (2, 32, 48),
        "out": (2, 16, 32),
        "expand": (2, 32, 64),
        "contract": (2, 64, 32),
        "modulation": (2, 32, 192),
    }


def test_saved_as_fsdp_read_as_data_and_as_tensor(tmp_path, x64):
    """On as many devices, where the run goes on, and on fewer."""
    run = run_over("fsdp")
    state = run.init(parameters("float64"), jax.random.key(0))
    state, _ = run.step(state, run.place(batch("float64")))
    kept = jax.tree.map(np.asarray, (state.params, state.opt_state))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state)
    fewer = (
        layout(devices=jax.devices()[:2]),
        layout("tensor", devices=jax.devices()[:4], tensor=4, tensor_axes=MODULE.tensor_axes),
    )
    for other in (run_over("data"), run_over("tensor"), *map(compiled, fewer)):
        like = other.init(parameters("float64"), jax.random.key(0))
        with Checkpoints(tmp_path) as checkpoints:
            restored = checkpoints.restore(like).state
        read = restored.params, restored.opt_state
        jax.tree.map(np.testing.assert_array_equal, read, kept)
        shardings = jax.tree.leaves(other.layout.shardings(restored).params)
        for leaf, sharding in zip(jax.tree.leaves(restored.params), shardings, strict=True):
            assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
        other.step.lower(restored, other.place(batch("float64")))
        if other.layout.mesh.size == 8:
            other.step(restored, other.place(batch("float64")))


@dataclass(frozen=True)
class Device:
    slice_index: int
    process_index: int
    id: int


def nodes(n, each):
    """Devices of `n` slices, in disorder."""
    found = [Device(i, i, each * i + j) for i in range(n) for j in range(each)]
    return [found[k] for k in np.random.default_rng(0).permutation(len(found))]


def test_groups_stay_inside_a_slice_where_they_fit(caplog):
    for name, sizes in [("hybrid", {"fsdp": 4}), ("tensor", {"tensor": 2, "fsdp": 2})]:
        over = layout(name, devices=nodes(2, 4), tensor_axes=MODULE.tensor_axes, **sizes)
        groups = over.mesh.devices.reshape(2, 4)
        assert [{d.slice_index for d in group} for group in groups] == [{0}, {1}]
    assert not caplog.records
    assert layout("fsdp", devices=nodes(2, 4)).mesh.shape["fsdp"] == 8
    assert "across 2 slices" in caplog.text


@dataclass(frozen=True)
class Chip(Device):
    coords: tuple[int, ...]


def chips(width, height):
    """Chips of a TPU slice, whose processes have blocks of two by two; in disorder."""
    found = []
    for process, (row, column) in enumerate(np.ndindex(height // 2, width // 2)):
        for k, (i, j) in enumerate(np.ndindex(2, 2)):
            coords = (2 * column + j, 2 * row + i, 0)
            found.append(Chip(0, process, 4 * process + k, coords))
    return [found[k] for k in np.random.default_rng(0).permutation(len(found))]


def test_groups_are_blocks_of_neighbours_and_processes_hold_runs_of_rows():
    """Of four chips each is the next one's neighbour; eight and sixteen are blocks."""
    for size, sides in [(4, (2, 2)), (8, (4, 2)), (16, (8, 2))]:
        over = layout("hybrid", devices=chips(8, 8), fsdp=size)
        for group in over.mesh.devices.reshape(-1, size):
            places = np.array([chip.coords[:2] for chip in group])
            assert tuple(np.ptp(places, axis=0) + 1) == sides
            steps = np.abs(places - np.roll(places, -1, axis=0)).sum(1)
            assert size != 4 or steps.tolist() == [1, 1, 1, 1]
        processes_in_order = [chip.process_index for chip in over.mesh.devices.ravel()]
        assert processes_in_order == sorted(processes_in_order)


def test_a_batch_is_read_whole_by_one_process():
    for name in LAYOUTS:
        assert laid(name).share == (0, 1)


UNITS = "has 6 units that stay whole, which do not divide over tensor=4: "
WHOLE = "^mode 'shard_map' keeps the whole state on every device; the layout .* needs mode 'jit'$"


def test_errors_name_what_they_got():
    rules = {"kernel": (-1, 6)}
    state = jax.eval_shape(
        lambda: compiled(layout()).init({"kernel": jnp.zeros((4, 12))}, jax.random.key(0))
    )
    for call, received in [
        (lambda: layout("fdsp"), "^layout is 'fdsp', but must be one of data, fsdp"),
        (lambda: layout("hybrid"), "^layout 'hybrid' .*fsdp=k.*; got fsdp=1 and tensor=1$"),
        (lambda: layout("hybrid", fsdp=3), "^fsdp=3 times tensor=1 does not divide 8 devices: "),
        (lambda: layout("data", fsdp=2), "^layout 'data' .*; got fsdp=2 and tensor=1$"),
        (lambda: layout("fsdp", fsdp=4), "^layout 'fsdp' .*hybrid.*; got fsdp=4 and tensor=1$"),
        (lambda: layout("tensor", tensor=1, tensor_axes=rules), "^layout 'tensor' .*tensor=k"),
        (lambda: layout("tensor", tensor=2), "^tensor=2 splits layers by the network's rules"),
        (lambda: layout("fsdp", tensor=0), "^a layout needs devices, .*, fsdp=1 and tensor=0$"),
        (
            lambda: layout("fsdp", tensor=16, tensor_axes=rules),
            "^fsdp=0 times tensor=16 does not divide 8 devices: ",
        ),
        (lambda: layout(devices=[]), "^a layout needs devices, .*; got 0 devices, "),
        (lambda: layout("tensor", tensor=4, tensor_axes=rules).shardings(state), UNITS),
        (lambda: program(MAPPED, mode="shard_map", layout=layout("fsdp")), WHOLE),
    ]:
        with pytest.raises(ValueError, match=received):
            call()


MAPPED = trainer(
    losses.flow_matching(NETWORK, PATH),
    optax.adam(1e-3),
    draw=draws.standard(PATH),
    axis_name="data",
)

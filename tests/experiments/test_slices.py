"""Plans of runs on slices that are not here; that compilers agree is for `make topologies`."""

import importlib.util
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from configs.digits import get_config as digits
from configs.two_moons import get_config as two_moons
from experiments.setup import build
from experiments.setup.operations import flops
from experiments.slices.estimate import Estimate, Memory, estimate, example_shapes
from experiments.slices.roofline import roofline, sent
from experiments.slices.search import candidates, describe, ranked, refined
from experiments.slices.topology import devices_of
from jaxflow import training
from jaxflow.training.cost import CHIPS, Chip, Collective, bytes_touched

CHIP = Chip(flops=1e12, memory=1e9, bandwidth=1e11, links=1e10, network=1e9)


def collective(kind, size, group, times=1):
    return Collective(kind, ((size,),), size, times, tuple(group), "")


def test_a_ring_sends_what_it_must():
    """Of B bytes over g devices: all-gather (g - 1)/g B, all-reduce twice that, permutation B."""
    for kind, share in [("all-gather", 0.75), ("reduce-scatter", 0.75), ("all-reduce", 1.5)]:
        assert sent(collective(kind, 1_000, range(4)), 8) == share * 1_000
    assert sent(collective("collective-permute", 1_000, ()), 8) == 1_000
    assert sent(collective("all-reduce", 1_000, ()), 8) == 2 * 7 / 8 * 1_000


def test_a_step_takes_as_long_as_its_slowest_part():
    within = collective("all-gather", 4_000_000, range(4), times=3)
    across = collective("all-reduce", 1_000_000, (0, 4))
    found = roofline(CHIP, 8 * 10**9, 10**8, [within, across], devices=8, node=4)
    assert found.compute == pytest.approx(1e-3)
    assert found.memory == pytest.approx(1e-3)
    assert found.links == pytest.approx(3 * 3e6 / 1e10 + 1e6 / 1e9)
    assert found.fastest == max(found.compute, found.memory, found.links)
    assert found.slowest == pytest.approx(1e-3 + found.links)
    assert found.utilisation == pytest.approx(found.compute / found.slowest)


def test_every_chip_that_can_be_planned_for_is_whole():
    whole = [name for name, chip in CHIPS.items() if chip.bandwidth is not None]
    assert {"TPU v4", "TPU v5 lite", "TPU v5", "TPU v6 lite", "NVIDIA H100", "NVIDIA B200"} <= set(
        whole
    )
    assert all(None not in CHIPS[name] for name in whole)
    device = SimpleNamespace(device_kind="NVIDIA H100 80GB HBM3")
    assert training.chip(device) == CHIPS["NVIDIA H100"]
    assert training.chip(SimpleNamespace(device_kind="abacus")) is None


@pytest.fixture
def moons(monkeypatch):
    """Two moons on the simulated devices, as if they were chips."""
    monkeypatch.setattr(training, "chip", lambda device: CHIP)
    config = two_moons()
    config.batch_size = 64
    return config, example_shapes(config, None)


def test_a_plan_is_what_the_compiler_says(moons):
    """Memory to the byte, operations as `training.flops` counts, gradients on the wire once."""
    config, shapes = moons
    config.parallel.layout = "fsdp"
    found = estimate(config, jax.devices(), shapes)
    run = build.program(config)
    state = jax.eval_shape(lambda: build.initial_state(config, run))
    assert found.operations == flops(config, state)
    assert found.parameters == sum(a.size for a in jax.tree.leaves(state.params))
    placed = jax.tree.map(
        lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s),
        state,
        run.layout.shardings(state),
    )
    batch = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct((64, *a.shape[1:]), a.dtype, sharding=run.layout.batch),
        shapes,
    )
    told = run.step.lower(placed, batch).compile().memory_analysis()
    assert found.memory.total == (
        told.argument_size_in_bytes
        + told.temp_size_in_bytes
        + told.generated_code_size_in_bytes
        + told.output_size_in_bytes
        - told.alias_size_in_bytes
    )
    of_state = sum(row.bytes_per_device for row in run.layout.table(state))
    assert sum(found.memory.state.values()) == of_state
    assert found.fits
    assert found.samples_a_second == pytest.approx(64 / found.bounds.slowest)


def test_what_cannot_be_planned_is_one_sentence(moons, monkeypatch):
    config, shapes = moons
    config.batch_size = 60
    with pytest.raises(ValueError, match=r"^a batch of 60 does not divide over 8 devices"):
        estimate(config, jax.devices(), shapes)
    config.parallel.mode = "pmap"
    with pytest.raises(ValueError, match=r"^mode 'pmap' compiles where it runs: "):
        estimate(config, jax.devices(), shapes)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"^nothing is known of cpu: see training\.CHIPS$"):
        estimate(two_moons(), jax.devices(), shapes)
    for name, told in [
        ("v5x:4x4", r"^--topology=v5x:4x4 begins with no chip .*did you mean 'v5"),
        ("v5e", "^--topology=v5e has no sizes"),
        ("h100:8by2", "^--topology=h100:8by2 has no sizes"),
    ]:
        with pytest.raises(ValueError, match=told):
            devices_of(name)
    with pytest.raises(ValueError, match=r"^--slices=2 is of TPUs: .*as h100:2x8$"):
        devices_of("h100:8", slices=2)
    for name, package, extra in [
        ("v5e:4x4", "libtpu", "plan-tpu"),
        ("h100:8", "jax_cuda13_plugin", "plan-gpu"),
    ]:
        if importlib.util.find_spec(package) is None:
            with pytest.raises(ValueError, match=rf"not installed: pip install -e '.\[{extra}\]'$"):
                devices_of(name)
    config.data.cond = ("text",)
    with pytest.raises(ValueError, match=r"^the shape of the condition 'text' is that of the data"):
        example_shapes(config, (2,))


def test_shapes_without_data():
    config = digits()
    shapes = example_shapes(config, (8, 8, 1))
    assert shapes["x1"].shape == (2, 8, 8, 1)
    assert shapes["cond"]["label"].dtype == jnp.int32


def fake(config, *, total, slowest):
    memory = Memory({}, 0, 0, total, 1e9)
    bounds = SimpleNamespace(slowest=slowest)
    return Estimate(config, 8, "chip", 1, 1, memory, [], bounds, 0.0, "", total)


def test_the_fastest_that_fits_is_ranked_first():
    config = two_moons()
    fast, slow, large = (
        fake(config, total=total, slowest=slowest)
        for total, slowest in [(5e8, 1.0), (5e8, 2.0), (2e9, 0.5)]
    )
    refused = fake(config, total=3e9, slowest=1.0)._replace(memory=None, bounds=None)
    assert ranked([refused, large, slow, fast]) == [fast, slow, large, refused]


def test_every_layout_is_tried_once_and_none_that_cannot_be():
    config = two_moons()
    config.network = {"name": "dit", "kwargs": {"width": 48, "depth": 1, "heads": 6, "patch": 2}}
    tried = [describe(one) for one in candidates(config, 16)]
    assert tried == ["data", "fsdp", "hybrid fsdp=4", "tensor tensor=2"]
    for one in candidates(config, 8):
        build.layout(one, jax.devices())
    refinements = [describe(one) for one in refined(config)]
    assert refinements == [
        "data, remat dots",
        "data, remat full",
        "data, 2 microbatches",
        "data, 4 microbatches",
    ]
    config.network.kwargs.dtype = "bfloat16"
    assert [describe(one) for one in refined(config)][4:] == ["data, gradients in float32"]


def test_bytes_touched_count_slices_of_what_a_loop_goes_through():
    """A loop over the layers of a stack reads each once, and not the stack each time."""
    layers, n = 16, 128

    @jax.jit
    def through(stack, x):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, stack)[0]

    stack, x = (jax.ShapeDtypeStruct(s, jnp.float32) for s in ((layers, n, n), (4, n)))
    found = bytes_touched(through.lower(stack, x).compile().as_text())
    once = 4 * math.prod(stack.shape)
    assert once <= found < 4 * once

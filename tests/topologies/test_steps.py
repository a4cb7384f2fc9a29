"""What compilers for TPU slices and GPU nodes make of a step, without one: bytes on the links and
in memory.

Needs libtpu, or JAX's plugin for CUDA: `make topologies`.
"""

import importlib
import re
from functools import cache
from typing import Any

import flax.nnx as nnx_
import jax
import jax.numpy as jnp
import optax
import pytest

from experiments.setup import build
from experiments.slices.estimate import estimate, example_shapes
from experiments.slices.topology import TPUS, devices_of
from jaxflow import networks
from jaxflow.training import layout
from jaxflow.training.cost import collectives
from jaxflow.training.fingerprint import fingerprint
from tests.training.test_traffic import Plain, step

pytestmark = [pytest.mark.topologies, pytest.mark.timeout(1_200)]

A_DEVICE = 15  # examples; no size of a network divides by 5
B2 = networks.dit("B/2", num_classes=1000, dtype=jnp.bfloat16)
NETWORKS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "dit": (B2, (32, 32, 4)),
    "small dit": (networks.dit("S/4", num_classes=1000, dtype=jnp.bfloat16), (32, 32, 4)),
    "mlp": (networks.MLP(width=512, depth=3, num_classes=10, dtype=jnp.bfloat16), (64,)),
    "unet": (networks.UNet(num_classes=10, dtype=jnp.bfloat16), (32, 32, 3)),
    "nnx": (None, (8, 8, 2)),
    "transformer": (
        networks.transformer("6M", 97, num_classes=10, dtype=jnp.bfloat16),
        (128,),
    ),
}
IN_FLOAT32 = ("conditioning", "modulation", "outward", "outward_norm")
CASES = [
    ("v5e:4x4", "dit", "data", {}),
    ("v5e:4x4", "dit", "fsdp", {}),
    ("v5e:4x4", "dit", "hybrid", {"fsdp": 4}),
    ("v5e:2x2", "mlp", "fsdp", {}),
    ("v5e:2x2", "transformer", "data", {}),
    ("v5e:2x2", "transformer", "fsdp", {}),
    ("h100:8", "transformer", "fsdp", {}),
    ("v5e:2x2", "nnx", "data", {}),
    ("v5e:2x2", "nnx", "fsdp", {}),
    ("v5e:2x2", "nnx", "hybrid", {"fsdp": 2}),
    ("h100:8", "nnx", "data", {}),
    ("h100:8", "nnx", "fsdp", {}),
    ("h100:2x8", "nnx", "hybrid", {"fsdp": 8}),
    ("v5p:2x2x2", "small dit", "fsdp", {}),
    ("v6e:4x4", "small dit", "data", {}),
    ("h100:8", "dit", "data", {}),
    ("h100:8", "dit", "fsdp", {}),
    ("h100:2x8", "dit", "hybrid", {"fsdp": 8}),
    pytest.param("v5e:4x4", "unet", "data", {}, marks=pytest.mark.slow),
    pytest.param("v5e:4x4", "unet", "fsdp", {}, marks=pytest.mark.slow),
    pytest.param("v5e:4x4", "unet", "hybrid", {"fsdp": 4}, marks=pytest.mark.slow),
    pytest.param("h100:8", "unet", "data", {}, marks=pytest.mark.slow),
    pytest.param("h100:8", "unet", "fsdp", {}, marks=pytest.mark.slow),
    pytest.param("h100:2x8", "unet", "hybrid", {"fsdp": 8}, marks=pytest.mark.slow),
]


@cache
def devices(topology: str) -> list[Any]:
    """Of a topology whose compiler is installed."""
    compiler = "libtpu" if topology.startswith(TPUS) else "jax_cuda13_plugin"
    try:
        importlib.import_module(compiler)
    except ImportError:
        pytest.skip(f"{compiler} compiles for {topology}: make topologies")
    return devices_of(topology)


def compiled_on(topology: str, name: str, kind: str, axes: dict[str, int], **more: Any) -> Any:
    """The step, its collectives, and the bytes of its parameters."""
    module, event = NETWORKS[name]
    rules = getattr(module, "tensor_axes", None)
    over = layout(kind, devices=devices(topology), tensor_axes=rules, **axes)
    n = A_DEVICE * over.batch_parts
    network = networks.nnx(Plain(nnx_.Rngs(0))) if module is None else networks.linen(module)
    more |= {"optimizer": optax.adamw(1e-4), "labelled": module is not None}
    made, count = step(network, over, n, event, **more)
    once = 4 * count if module is None else bytes_of(network, event)
    return made, collectives(made.as_text()), once


def parameters_of(network: Any, event: tuple[int, ...]) -> Any:
    """Their shapes."""
    kind = int if hasattr(network.module, "vocabulary") else float
    return jax.eval_shape(
        lambda key: network.init(
            key, jnp.zeros(2), jnp.zeros((2, *event), kind), label=jnp.zeros(2, int)
        ),
        jax.random.key(0),
    )


def bytes_of(network: Any, event: tuple[int, ...]) -> int:
    """Of the parameters as they are computed with: in bfloat16, but for conditions and outputs."""
    params = parameters_of(network, event)
    sizes = {k: sum(a.size for a in jax.tree.leaves(v)) for k, v in params.items()}
    return sum((4 if k in IN_FLOAT32 else 2) * size for k, size in sizes.items())


@pytest.mark.parametrize(("topology", "name", "kind", "axes"), CASES)
def test_a_step_moves_parameters_and_gradients_alone(topology, name, kind, axes):
    """In bfloat16: two gathers and a reduction under fsdp, a reduction alone under data.

    The state stays where it is, and nothing goes by the host.
    """
    made, found, once = compiled_on(topology, name, kind, axes)
    for one in found:
        # A GPU's compiler joins small gradients to flat arrays, of any length.
        places = [n for shape in one.shapes if len(shape) > 1 for n in shape]
        assert not any(n and n % 5 == 0 for n in places), one
    moved = sum(one.times * one.bytes for one in found)
    # Across the groups of a hybrid layout, each device reduces its part of the gradients.
    passes = {"data": 1, "fsdp": 3, "hybrid": 3 + 1 / axes.get("fsdp", 1)}[kind]
    assert moved <= (1.05 if kind == "data" else 1.1) * passes * once
    told = made.memory_analysis()
    assert told.alias_size_in_bytes >= 0.98 * told.output_size_in_bytes - 4096
    assert not re.search(r" (infeed|outfeed|send|recv)\(", made.as_text())
    if (topology, name, kind) == ("v5e:4x4", "dit", "fsdp"):
        assert told.temp_size_in_bytes <= 4e9


@pytest.mark.parametrize(("topology", "passes"), [("v5e:4x4", 3), ("h100:8", 4)])
def test_microbatches_move_what_one_moves(topology, passes):
    """One gather and one reduction in float32, each once: a TPU's compiler casts before it gathers,
    a GPU's behind it.
    """
    _, found, once = compiled_on(topology, "dit", "fsdp", {}, microbatches=3)
    assert {one.times for one in found} == {1}
    assert sum(one.bytes for one in found) <= 1.1 * passes * once


@pytest.mark.parametrize("topology", ["v5e:4x4", "h100:8"])
def test_tensor_moves_what_megatron_counts(topology):
    """Two reductions of activations a block, forward and backward; gradients over the groups."""
    _, found, once = compiled_on(topology, "small dit", "tensor", {"tensor": 2})
    groups = len(devices(topology)) // 2
    tokens, width, depth = 64, 384, 12
    activations = 4 * depth * A_DEVICE * tokens * width * 2
    moved = sum(one.times * one.bytes for one in found)
    assert groups > 1
    assert moved <= 1.05 * activations + 2 * once


def test_checksums_move_a_word_an_array():
    module, event = NETWORKS["small dit"]
    over = layout("fsdp", devices=devices("v5e:4x4"))
    params = parameters_of(networks.linen(module), event)
    laid = jax.tree.map(
        lambda a, sharding: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding),
        params,
        over.split(params),
    )
    found = collectives(fingerprint.lower(laid).compile().as_text())
    words = len(jax.tree.leaves(params))
    assert sum(one.times * one.bytes for one in found) <= 2 * 4 * words


EVENTS = {"digits": (8, 8, 1), "fashion_mnist": (28, 28, 1), "cifar10": (32, 32, 3)}


@pytest.mark.parametrize(
    "name",
    [
        "two_moons",
        "digits",
        pytest.param("fashion_mnist", marks=pytest.mark.slow),
        pytest.param("cifar10", marks=pytest.mark.slow),
    ],
)
def test_every_config_compiles_for_a_slice(name):
    """Gradients once; of a kernel that doubles an image four of 2x2 for one of 3x3."""
    config = importlib.import_module(f"configs.{name}").get_config()
    shapes = example_shapes(config, EVENTS.get(name))
    found = estimate(config, devices("v5e:2x2"), shapes)
    assert found.fits
    size = jnp.dtype(config.network.kwargs.get("dtype", "float32")).itemsize
    doubling = _doubling(config, shapes) if config.network.name == "unet" else 0
    moved = sum(one.times * one.bytes for one in found.moved)
    assert moved <= 1.05 * size * (found.parameters + 7 / 9 * doubling) + 4096


@pytest.mark.parametrize(
    ("method", "kind", "bytes_a_parameter"),
    [
        ("improved_mean_flow", "data", 4),
        ("mean_flow", "fsdp", 12),
    ],
)
def test_a_flow_map_s_step_moves_parameters_and_gradients_alone(method, kind, bytes_a_parameter):
    """Gradients once, in float32, the sum of those that move and those at rest; under fsdp, in
    bfloat16, two gathers and a reduction for either.
    """
    module = importlib.import_module(f"configs.few_step.{method}")
    config = module.get_config("imagenet_latents")
    config.network.kwargs.update({"patch": 4, "width": 384, "heads": 6})
    config.batch_size, config.parallel.layout = 256, kind
    found = estimate(config, devices("v5e:4x4"), example_shapes(config, (32, 32, 4)))
    assert found.fits
    moved = sum(one.times * one.bytes for one in found.moved)
    assert moved <= 1.05 * bytes_a_parameter * found.parameters


def _doubling(config: Any, shapes: Any) -> int:
    """Parameters of the kernels of `networks.resampling.doubling_conv`."""
    leaves = jax.tree_util.tree_flatten_with_path(build.shapes(config, shapes))[0]
    names = (
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in leaves
    )
    return sum(leaf.size for name, leaf in names if re.match(r"up_\d+/conv/kernel$", name))

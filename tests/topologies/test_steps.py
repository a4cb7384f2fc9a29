"""What compilers for TPU slices make of a step, without a TPU: bytes on the links and in memory.

Needs libtpu: `make topologies`.
"""

from functools import cache
from typing import Any

import jax.numpy as jnp
import optax
import pytest

from jaxflow import networks
from jaxflow.training import layout
from jaxflow.training.traffic import collectives
from tests.training.test_traffic import step

pytest.importorskip("libtpu", reason="libtpu compiles for TPUs: make topologies")
pytestmark = [pytest.mark.topologies, pytest.mark.timeout(1_200)]

SLICE = "v5e:4x4"
A_DEVICE = 15  # examples; no size of a network divides by 5
NETWORKS = {
    "dit": (networks.dit("B/2", num_classes=1000, dtype=jnp.bfloat16), (32, 32, 4)),
    "unet": (networks.UNet(num_classes=10, dtype=jnp.bfloat16), (32, 32, 3)),
}
CASES = [
    ("dit", "data", {}),
    ("dit", "fsdp", {}),
    ("dit", "hybrid", {"fsdp": 4}),
    pytest.param("unet", "fsdp", {}, marks=pytest.mark.slow),
]


@cache
def devices() -> list[Any]:
    from jax.experimental import topologies

    return list(topologies.get_topology_desc(platform="tpu", topology_name=SLICE).devices)


@pytest.mark.parametrize(("name", "kind", "axes"), CASES)
def test_a_step_moves_parameters_and_gradients_alone(name, kind, axes):
    """In bfloat16: two gathers and a reduction under fsdp, a reduction alone under data."""
    module, event = NETWORKS[name]
    over = layout(kind, devices=devices(), **axes)
    n = A_DEVICE * over.batch_parts
    compiled, count = step(networks.linen(module), over, n, event, optimizer=optax.adamw(1e-4))
    found = collectives(compiled.as_text())
    for one in found:
        assert not any(n and n % 5 == 0 for shape in one.shapes for n in shape), one
    moved = sum(one.times * one.bytes for one in found)
    once = 2 * count
    # Across the groups of a hybrid layout, each device reduces its part of the gradients.
    passes = {"data": 1, "fsdp": 3, "hybrid": 3 + 1 / axes.get("fsdp", 1)}[kind]
    assert moved <= (1.05 if kind == "data" else 1.1) * passes * once
    if (name, kind) == ("dit", "fsdp"):
        assert compiled.memory_analysis().temp_size_in_bytes <= 4e9

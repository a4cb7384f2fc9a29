"""What compilers for TPU slices make of a step, without a TPU: bytes on the links and in memory.

Needs libtpu: `make topologies`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

from jaxflow import draws, losses, networks, paths
from jaxflow.training import layout, program, trainer
from jaxflow.training.traffic import Collective, collectives

pytest.importorskip("libtpu", reason="libtpu compiles for TPUs: make topologies")
pytestmark = [pytest.mark.topologies, pytest.mark.timeout(1_200)]

SLICE = "v5e:4x4"
A_DEVICE = 15  # examples; no size of a network divides by 5
PATH = paths.linear()
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


@dataclass(frozen=True)
class Step:
    """A compiled step: what moves, the bytes of work a device needs, and the parameters."""

    moved: list[Collective]
    work: int
    parameters: int


@cache
def devices() -> list[Any]:
    from jax.experimental import topologies

    return list(topologies.get_topology_desc(platform="tpu", topology_name=SLICE).devices)


def compiled(name: str, kind: str, axes: Mapping[str, int]) -> Step:
    module, event = NETWORKS[name]
    network = networks.linen(module)
    run = program(
        trainer(losses.flow_matching(network, PATH), optax.adamw(1e-4), draw=draws.standard(PATH)),
        layout=layout(kind, devices=devices(), **axes),
    )
    over, n = run.layout, A_DEVICE * run.layout.batch_parts
    inputs = jnp.zeros(1), jnp.zeros((1, *event))
    params = jax.eval_shape(
        lambda key: network.init(key, *inputs, label=jnp.zeros(1, int)), jax.random.key(0)
    )
    state = over.like(jax.eval_shape(run.trainer.init, params, jax.random.key(0)))
    batch = {
        "x1": jax.ShapeDtypeStruct((n, *event), jnp.float32, sharding=over.batch),
        "cond": {"label": jax.ShapeDtypeStruct((n,), jnp.int32, sharding=over.batch)},
    }
    made = run.step.lower(state, batch).compile()
    return Step(
        collectives(made.as_text()),
        made.memory_analysis().temp_size_in_bytes,
        sum(a.size for a in jax.tree.leaves(params)),
    )


@pytest.mark.parametrize(("name", "kind", "axes"), CASES)
def test_a_step_moves_parameters_and_gradients_alone(name, kind, axes):
    """In bfloat16: two gathers and a reduction under fsdp, a reduction alone under data."""
    step = compiled(name, kind, axes)
    for one in step.moved:
        assert not any(n and n % 5 == 0 for shape in one.shapes for n in shape), one
    moved = sum(one.times * one.bytes for one in step.moved)
    once = 2 * step.parameters
    # Across the groups of a hybrid layout, each device reduces its part of the gradients.
    passes = {"data": 2, "fsdp": 3, "hybrid": 3 + 1 / axes.get("fsdp", 1)}[kind]
    assert moved <= (1.05 if kind == "data" else 1.1) * passes * once
    if (name, kind) == ("dit", "fsdp"):
        assert step.work <= 4e9

"""What a compiler for TPUs makes of a sampler and a likelihood: no collective, no short product."""

import re
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from experiments.slices.topology import devices_of
from jaxflow import networks, paths, sampling, velocities
from jaxflow.training.cost import collectives

pytest.importorskip("libtpu", reason="libtpu compiles for TPUs: make topologies")
pytestmark = [pytest.mark.topologies, pytest.mark.timeout(600)]

PATH = paths.linear()
MODULE = networks.dit("S/8", num_classes=10, dtype=jnp.bfloat16)
NETWORK = networks.linen(MODULE)
NULL = {"label": 10}
SOLVES = {
    "adaptive": lambda v, x, cond: sampling.adaptive(v, x, cond=cond).x,
    "guided on a grid": lambda v, x, cond: (
        sampling.fixed_step(
            velocities.classifier_free(v, scale=2.0, null=NULL),
            x,
            sampling.grids.uniform(4),
            cond=cond,
        ).x
    ),
    "log_prob": lambda v, x, cond: (
        sampling.log_prob(
            v,
            x,
            cond=cond,
            divergence=sampling.hutchinson(),
            keys=jax.random.split(jax.random.key(0), len(x)),
        ).value
    ),
}


@cache
def text_of(name: str) -> str:
    """The program of a solve whose batch lies over the devices of a slice, under jit."""
    mesh = Mesh(np.asarray(devices_of("v5e:2x2")), "data", axis_types=(AxisType.Auto,))
    rows, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
    x = jax.ShapeDtypeStruct((16, 32, 32, 4), jnp.float32, sharding=rows)
    label = jax.ShapeDtypeStruct((16,), jnp.int32, sharding=rows)
    shapes = jax.eval_shape(
        lambda: NETWORK.init(
            jax.random.key(0), jnp.zeros(2), jnp.zeros((2, 32, 32, 4)), label=jnp.zeros(2, int)
        )
    )
    params = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=whole), shapes)

    def solve(params: Any, x: Any, label: Any) -> Any:
        v = velocities.from_network(NETWORK, params, path=PATH)
        return SOLVES[name](v, x, {"label": label})

    return jax.jit(solve, out_shardings=rows).lower(params, x, label).compile().as_text()


@pytest.mark.parametrize("name", SOLVES)
def test_a_solve_moves_nothing(name):
    """But whether all samples are done, once a step of an adaptive solve."""
    assert all(one.bytes <= 1024 for one in collectives(text_of(name)))


@pytest.mark.parametrize("name", ["adaptive", "log_prob"])
def test_no_product_of_a_solve_is_short(name):
    text = text_of(name)
    products = [line for line in text.splitlines() if re.search(r" (convolution|dot)\(", line)]
    assert products
    for line in products:
        assert "bf16" not in line.partition(" metadata=")[0], line
        assert "operand_precision={highest,highest}" in line, line

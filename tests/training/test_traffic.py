"""What a step moves between devices: parameters and gradients, never an example."""

import math

import flax.nnx as nnx_
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxflow import draws, losses, networks, paths
from jaxflow.training import layout, program, trainer
from jaxflow.training.traffic import collectives

PATH = paths.linear()
BATCH = 40  # no size of a network divides by 5
LAYOUTS = {"data": {}, "fsdp": {}, "hybrid": {"fsdp": 4}}


class Plain(nnx_.Module):
    """A network that says nothing of how its parameters are used."""

    def __init__(self, rngs):
        self.inward = nnx_.Linear(2 * 64, 128, rngs=rngs)
        self.outward = nnx_.Linear(128, 2 * 64, rngs=rngs)

    def __call__(self, t, x):
        h = nnx_.silu(self.inward(x.reshape(len(x), -1)) + t[:, None])
        return self.outward(h).reshape(x.shape)


NETWORKS = {
    "dit": lambda: networks.linen(networks.DiT(patch=2, width=64, depth=3, heads=4, num_classes=7)),
    "unet": lambda: networks.linen(
        networks.UNet(
            channels=32, multipliers=(1, 2), blocks=1, attention=(4,), num_classes=7, film=True
        )
    ),
    "mlp": lambda: networks.linen(networks.MLP(width=64, depth=2, num_classes=7)),
    "nnx": lambda: networks.nnx(Plain(nnx_.Rngs(0))),
}


def step(name, over, microbatches=1):
    """The compiled step, and the bytes of the parameters."""
    network = NETWORKS[name]()
    t, x = jnp.zeros(2), jnp.zeros((2, 8, 8, 2))
    cond = {} if name == "nnx" else {"label": jnp.zeros(2, int)}
    run = program(
        trainer(
            losses.flow_matching(network, PATH),
            optax.adam(1e-3),
            draw=draws.standard(PATH),
            microbatches=microbatches,
        ),
        layout=over,
    )
    params = jax.eval_shape(lambda key: network.init(key, t, x, **cond), jax.random.key(0))
    state = over.like(jax.eval_shape(run.trainer.init, params, jax.random.key(0)))
    batch = {"x1": jnp.zeros((BATCH, 8, 8, 2)), "cond": {k: jnp.zeros(BATCH, int) for k in cond}}
    shapes = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=over.batch), batch
    )
    compiled = run.step.lower(state, shapes).compile()
    return compiled, sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(params))


ALL = [
    pytest.param(name, kind, marks=() if kind == "fsdp" or name == "dit" else pytest.mark.slow)
    for name in NETWORKS
    for kind in LAYOUTS
]


@pytest.mark.parametrize(("name", "kind"), ALL)
def test_a_step_moves_parameters_and_gradients_alone(name, kind):
    """Two gathers and a reduction a parameter at most; of the batch not one example."""
    compiled, size = step(name, layout(kind, **LAYOUTS[kind]))
    found = collectives(compiled.as_text())
    for one in found:
        for shape in one.shapes:
            assert not any(n and n % 5 == 0 for n in shape), one
    moved = dict.fromkeys(("all-gather", "rest"), 0)
    for one in found:
        moved["all-gather" if one.kind == "all-gather" else "rest"] += one.times * one.bytes
    gathers = {"data": 0, "fsdp": 2, "hybrid": 2}[kind]
    assert moved["all-gather"] <= 1.1 * gathers * size + 4096
    # The CPU's compiler scatters by reducing the whole, then across groups a part of it.
    assert moved["rest"] <= 1.1 * size * (1 + 1 / 4 * (kind == "hybrid")) + 4096


def test_collectives_are_counted_with_their_loops():
    mesh = Mesh(np.asarray(jax.devices()[:8]), "i")
    rows = NamedSharding(mesh, PartitionSpec("i"))

    @jax.jit
    @jax.shard_map(mesh=mesh, in_specs=PartitionSpec("i"), out_specs=PartitionSpec(None))
    def reduced(x):
        def body(total, _):
            return jax.lax.psum(x * total[0], "i"), None

        return jax.lax.scan(body, jnp.ones((1, 3)), length=7)[0]

    text = reduced.lower(jax.ShapeDtypeStruct((8, 3), jnp.float32, sharding=rows)).compile()
    (one,) = collectives(text.as_text())
    assert (one.kind, one.times, one.bytes) == ("all-reduce", 7, 12)
    assert math.prod(one.shapes[0]) == 3


def test_what_is_no_program_is_refused():
    with pytest.raises(ValueError, match=r"no ENTRY computation: give compiled.as_text"):
        collectives("module {}")

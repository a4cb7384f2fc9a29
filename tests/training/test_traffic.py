"""What a step moves between devices: parameters and gradients, never an example."""

import math
import re

import flax.nnx as nnx_
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxflow import draws, losses, networks, paths, sources, times
from jaxflow.training import layout, program, trainer
from jaxflow.training.cost import collectives

PATH = paths.linear()
BATCH = 40  # no size of a network divides by 5
ADAM = optax.adam(1e-3)
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
    "transformer": lambda: networks.linen(
        networks.Transformer(97, width=64, depth=3, heads=4, num_classes=7)
    ),
}
EVENTS = {"transformer": (12,)}


def step(network, over, n, event, **more):
    """The compiled step on batches of `n`, from shapes alone, and the number of parameters."""
    made, count = lowered(network, over, n, event, **more)
    return made.compile(), count


def lowered(
    network, over, n, event, labelled=True, microbatches=1, optimizer=ADAM, flow_map=None, **more
):
    of_tokens = hasattr(getattr(network, "module", None), "vocabulary")
    t, x = jnp.zeros(2), jnp.zeros((2, *event), int if of_tokens else float)
    cond = {"label": jnp.zeros(2, int)} if labelled else {}
    loss, draw, second = losses.flow_matching(network, PATH), draws.standard(PATH), {}
    if of_tokens:
        path = paths.mixture(source=sources.mask(network.module.vocabulary))
        loss, draw = losses.generalised_kl(network, path), draws.standard(path)
    if flow_map is not None:
        loss = getattr(losses, flow_map)(network, PATH)
        draw, second = draws.chain(draw, draws.spans(times.uniform())), {"r": t}
    run = program(
        trainer(loss, optimizer, draw=draw, microbatches=microbatches), layout=over, **more
    )
    params = jax.eval_shape(
        lambda key: network.init(key, t, x, **cond, **second), jax.random.key(0)
    )
    state = over.like(jax.eval_shape(run.trainer.init, params, jax.random.key(0)))
    batch = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct((n, *a.shape[1:]), a.dtype, sharding=over.batch),
        {"x1": x, "cond": cond},
    )
    return run.step.lower(state, batch), sum(a.size for a in jax.tree.leaves(params))


ALL = [
    pytest.param(name, kind, marks=() if kind == "fsdp" or name == "dit" else pytest.mark.slow)
    for name in NETWORKS
    for kind in LAYOUTS
]


@pytest.mark.parametrize(("name", "kind"), ALL)
def test_a_step_moves_parameters_and_gradients_alone(name, kind):
    """Two gathers and a reduction a parameter at most; of the batch not one example."""
    over = layout(kind, **LAYOUTS[kind])
    labelled = name != "nnx"
    event = EVENTS.get(name, (8, 8, 2))
    compiled, count = step(NETWORKS[name](), over, BATCH, event, labelled=labelled)
    size = 4 * count
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


# Calls of the network in a step: forward mode is no second one, and one more gather is for the way
# back.
CALLS = {  # of the examples that move, and one of those at rest
    "mean_flow": 1 + 1,
    "alpha_flow": 2 + 1,
    "improved_mean_flow": 2 + 1,
    "eulerian": 2 + 1,
    "lagrangian": 2 + 1,
    "semigroup": 3 + 1,
}


@pytest.mark.parametrize(
    "name", [pytest.param(k, marks=[pytest.mark.slow] * (k != "mean_flow")) for k in CALLS]
)
def test_a_flow_map_gathers_once_a_call(name):
    n = 4 * BATCH  # in groups of four
    compiled, count = step(NETWORKS["dit"](), layout("fsdp"), n, (8, 8, 2), flow_map=name)
    found = collectives(compiled.as_text())
    for one in found:
        for shape in one.shapes:
            assert not any(n and n % 5 == 0 for n in shape), one
    gathered = sum(one.times * one.bytes for one in found if one.kind == "all-gather")
    rest = sum(one.times * one.bytes for one in found if one.kind != "all-gather")
    assert gathered <= 1.1 * (CALLS[name] + 2) * 4 * count + 4096  # two of them backwards
    assert rest <= 1.1 * 2 * 4 * count + 4096


def test_what_was_gathered_may_be_kept_for_the_way_back():
    """One gather of parameters for two, and more memory."""
    made = [
        step(NETWORKS["dit"](), layout("fsdp"), BATCH, (8, 8, 2), keep_gathered=keeps)
        for keeps in (False, True)
    ]
    gathered = [
        sum(one.times * one.bytes for one in collectives(a.as_text()) if one.kind == "all-gather")
        for a, _ in made
    ]
    assert gathered[1] <= 1.1 * 4 * made[0][1] + 4096 < gathered[0]
    freed, kept = (a.memory_analysis().temp_size_in_bytes for a, _ in made)
    assert freed < kept


@pytest.mark.parametrize("kind", ["hybrid", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_microbatches_move_what_one_moves(kind):
    """Parameters once, gradients once, however many parts a batch is taken through in."""
    over = layout(kind, **LAYOUTS[kind])
    moved = []
    for microbatches in (2, 4):
        compiled, count = step(NETWORKS["mlp"](), over, 160, (8,), microbatches=microbatches)
        found = collectives(compiled.as_text())
        moved.append(sum(one.times * one.bytes for one in found))
        assert {one.times for one in found} == {1}
    assert moved[0] == moved[1] <= 1.1 * 4 * count * (2 + 1 / 4 * (kind == "hybrid")) + 4096


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_travel_in_the_dtype_that_was_asked_for(dtype):
    network = networks.linen(networks.MLP(width=64, depth=2, dtype=jnp.bfloat16))
    text = lowered(network, layout("fsdp"), 80, (8,), labelled=False, reduce_dtype=dtype)[
        0
    ].as_text()
    name = {"float32": "f32", "bfloat16": "bf16"}[dtype]
    sums = re.findall(r"reduce_scatter.*?-> tensor<[\dx]*x(\w+)>", text, re.DOTALL)
    assert sums
    assert set(sums) == {name}


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


def test_what_goes_between_slices_is_one_collective():
    """A TPU's runtime takes it from a send to a receive: the larger is the whole array."""

    def end(name, shape, taken):
        return (
            f"  %{name} = (f32[{shape}]{{1,0}}, u32[], token[]) {name}({taken}), channel_id=1, "
            'is_host_transfer=true, frontend_attributes={_xla_host_transfer_rendezvous="one_0",'
            '_xla_megascale_target="{1:2,4}x{0:3}",_xla_megascale_transfer_type="ALL_GATHER"}'
        )

    text = "\n".join(
        [
            "HloModule jit_step, num_partitions=4",
            "",
            "ENTRY %main (part: f32[16,8]) -> f32[48,8] {",
            "  %part = f32[16,8]{1,0} parameter(0)",
            "  %after = token[] after-all()",
            end("send", "16,8", "%part, %after"),
            end("recv", "48,8", "%after"),
            "  %host = (f32[9,9]{1,0}, u32[], token[]) send(%part, %after), channel_id=2",
            "  ROOT %made = f32[48,8]{1,0} get-tuple-element(%recv), index=0",
            "}",
        ]
    )
    (found,) = collectives(text)
    assert (found.kind, found.bytes, found.times) == ("all-gather", 4 * 48 * 8, 1)
    assert found.group == (0, 4, 8)


def test_what_is_no_program_is_refused():
    with pytest.raises(ValueError, match=r"no ENTRY computation: give compiled.as_text"):
        collectives("module {}")

"""A sample depends on nothing but itself; new parameters compile nothing."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from jaxflow.sampling import adaptive, fixed_step, grids
from jaxflow.training import layout
from jaxflow.velocities import from_network
from tests.problems import points


def network(params, t, x, *, key=None):
    h = jnp.tanh(jnp.concatenate([x, t[:, None]], -1) @ params["a"])
    return h @ params["b"] * 3


PARAMS = {
    "a": np.random.default_rng(0).normal(size=(5, 32)),
    "b": np.random.default_rng(1).normal(size=(32, 4)) / 4,
}


@jax.jit
def sample(velocity, x):
    return adaptive(velocity, x)


def test_samples_do_not_depend_on_their_batch():
    """Bitwise at one shape; in float32 at another, within the solver's tolerance."""
    velocity = from_network(network, jax.tree.map(jnp.float32, PARAMS))
    x = jnp.asarray(points(16, 4), jnp.float32)
    mates = x.at[1:].set(30 * x[1:] + 1)
    a, b, alone = sample(velocity, x), sample(velocity, mates), sample(velocity, x[:1])
    np.testing.assert_array_equal(a.x[0], b.x[0])
    assert a.nfe[0] == b.nfe[0]
    assert len(set(a.nfe.tolist())) > 1
    np.testing.assert_allclose(alone.x[0], a.x[0], rtol=1e-4, atol=1e-4)


def test_samples_do_not_depend_on_the_devices(x64):
    """In float64: other batch sizes and eight devices, to 1e-10 with equal cost."""
    velocity = from_network(network, jax.tree.map(jnp.asarray, PARAMS))
    x = jnp.asarray(points(16, 4))
    whole = sample(velocity, x)
    spec = PartitionSpec("data")
    over_devices = jax.jit(
        jax.shard_map(
            adaptive,
            mesh=layout().mesh,
            in_specs=(PartitionSpec(), spec),
            out_specs=spec,
            check_vma=False,
        )
    )
    pieces = [over_devices(velocity, x), sample(velocity, x[:5]), sample(velocity, x[:1])]
    assert len(pieces[0].x.sharding.device_set) == 8
    for piece in pieces:
        n = len(piece.x)
        np.testing.assert_allclose(piece.x, whole.x[:n], atol=1e-10)
        np.testing.assert_array_equal(piece.nfe, whole.nfe[:n])


def test_new_parameters_do_not_retrace():
    traces = []

    def counted(params, t, x, *, key=None, shift):
        traces.append(None)
        return params * x + shift[:, None]

    @jax.jit
    def run(velocity, x, cond):
        return fixed_step(velocity, x, grids.uniform(3), cond=cond)

    for w in (1.0, 2.0):
        run(from_network(counted, jnp.float32(w)), jnp.ones((2, 2)), {"shift": jnp.ones(2)})
        first = len(traces) if w == 1.0 else first
    assert len(traces) == first

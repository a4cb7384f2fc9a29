"""Every shipped network at its smallest, with inputs for it."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.networks import (
    MLP,
    BlockTransformer,
    ConcatMLP,
    Discrete,
    DiT,
    Transformer,
    UNet,
    linen,
)

KEY = jax.random.key(0)
IMAGE = (4, 4, 3)

SMALL = {
    "mlp": (MLP(width=16, depth=2, num_classes=4, dropout=0.5), (3, 2)),
    "concat_mlp": (ConcatMLP(width=16), (2,)),
    "unet": (UNet(32, (1, 2), blocks=1, attention=(), num_classes=4, dropout=0.5), IMAGE),
    "unet_film": (UNet(32, (1, 1), blocks=1, attention=(), film=True, resample="block"), IMAGE),
    "dit": (DiT(patch=2, width=16, depth=2, heads=2, num_classes=4), IMAGE),
    "transformer": (Transformer(5, width=16, depth=2, heads=2, num_classes=4), (6,)),
    "discrete": (Discrete(DiT(patch=2, width=16, depth=1, heads=2), 5, features=4), (4, 4, 2)),
    "block_transformer": (
        BlockTransformer(5, 3, width=16, depth=2, heads=2, num_classes=4),
        (6,),
    ),
    "transformer_untied": (
        Transformer(5, width=16, depth=1, heads=2, neighbours=3, tied=False),
        (6,),
    ),
}


def inputs(name):
    module, event = SMALL[name]
    cond = {"label": jnp.array([0, 4])} if getattr(module, "num_classes", None) else {}
    if reads_tokens(module):
        x = jax.random.randint(jax.random.key(2), (2, *event), 0, module.vocabulary + 1)
        if hasattr(module, "block"):
            cond["clean"] = (x + 1) % module.vocabulary
    else:
        x = jax.random.normal(jax.random.key(2), (2, *event))
    return jnp.array([0.2, 0.7]), x, cond


def reads_tokens(module):
    return hasattr(module, "vocabulary")


def perturbed(params):
    """Parameters that no initialisation to zero hides."""
    noise = np.random.default_rng(3)
    return jax.tree.map(lambda p: p + 0.1 * noise.standard_normal(p.shape, np.float32), params)


@cache
def compiled(module):
    """One compiled call a module for all tests, and the list that grows with each trace."""
    traces = []

    @jax.jit
    def call(network, params, t, x, cond, key):
        traces.append(1)
        return network(params, t, x, key=key, **cond)

    def again(params, t, x, cond, key=None):
        return call(linen(module.clone()), params, t, x, cond, key)

    return again, traces

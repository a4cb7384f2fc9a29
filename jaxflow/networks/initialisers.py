r"""How parameters start, and how a whole network's are drawn at once.

Every parameter starts as

    (1)  mean + deviation * z,    z ~ N(0, 1) cut at two deviations, scaled to variance one,

so one stream of `z` serves a network: `initialise` traces the module for the shape, mean and
deviation of each parameter, without compiling its forward pass, draws `z` in equal blocks by a
single small program, and cuts the parameters out. A parameter depends on the key and its own path
alone, so that adding a layer leaves the others as they were.

What it is for is the first minute of a run. Seconds of a cold process from the first trace to
parameters on the device, and what they add to its peak memory, on two CPU cores:

| network | `initialise` | `jax.jit(init)` | the same with rbg keys | `init` |
|---|---|---|---|---|
| U-Net of 1.1 M | 0.6 s, 50 MiB | 7.8 s, 220 MiB | 4.6 s, 160 MiB | 17 s, 490 MiB |
| U-Net of 35.7 M | 1.5 s, 280 MiB | 8.0 s, 530 MiB | 5.1 s, 440 MiB | 14 s, 700 MiB |
| DiT-S/2 of 33 M | 0.6 s, 260 MiB | 1.8 s, 300 MiB | 1.5 s, 210 MiB | 4.8 s, 460 MiB |
| DiT-B/2 of 130 M | 2.3 s, 1010 MiB | 2.1 s, 740 MiB | 2.6 s, 590 MiB | 6.5 s, 950 MiB |

A network of many layers gains five to ten times; one whose blocks are stacked three times when it
is small, and nothing but a larger peak when it is large.
Programs that draw each parameter by itself compile as long as `init` does, without its forward
pass too. The U-Nets are those of `configs/fashion_mnist.py` and `configs/cifar10.py`. Seconds by

    python -c "import time, jax, jax.numpy as jnp; from jaxflow.networks import *; m = UNet(); \
    xs = jnp.zeros(2), jnp.zeros((2, 32, 32, 3)); key = jax.random.key(0); start = time.time(); \
    jax.block_until_ready(jax.device_put(initialise(m, key, *xs))); print(time.time() - start)"

with `jax.jit(m.init)(key, *xs)` for the others.
"""

import dataclasses
import math
import zlib
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.arrays import is_concrete
from jaxflow.records import record, static
from jaxflow.types import AnyArray, Array, Key, Params

__all__ = ["Initialiser", "initialise", "lecun", "normal", "ones", "xavier", "zeros"]

Shape = tuple[int, ...]

_BLOCK = 1 << 14  # numbers that have a key of their own
_LANES = 8  # blocks drawn side by side
_PIECE = 1 << 13  # blocks drawn in a call, 512 MiB
_CUT_DEVIATION = 0.87962566103423978
_recording: ContextVar[bool] = ContextVar("recording", default=False)


@dataclass(frozen=True)
class Initialiser:
    """Equation (1), with the deviation a function of the parameter's shape.

    Call it as any initialiser of Flax, `(key, shape, dtype) -> array`.
    """

    mean: float
    deviation: Callable[[Shape], float]

    def __call__(self, key: Key, shape: Shape, dtype: Any = jnp.float32) -> Any:
        deviation = self.deviation(shape)
        if _recording.get():
            return _Recipe(value=jnp.zeros(shape, dtype), mean=self.mean, deviation=deviation)
        if deviation == 0.0:
            return jnp.full(shape, self.mean, dtype)
        return (self.mean + deviation * _standard(key, shape)).astype(dtype)


def _standard(key: Key, shape: Shape) -> Array:
    return jax.random.truncated_normal(key, -2.0, 2.0, shape, jnp.float32) / _CUT_DEVIATION


def _zero(shape: Shape) -> float:
    return 0.0


def _fans(shape: Shape) -> tuple[int, int]:
    window = math.prod(shape[:-2])
    return shape[-2] * window, shape[-1] * window


def _lecun(shape: Shape) -> float:
    return _fans(shape)[0] ** -0.5


def _xavier(shape: Shape) -> float:
    return (0.5 * sum(_fans(shape))) ** -0.5


def _fixed(shape: Shape, *, deviation: float) -> float:
    return deviation


zeros = Initialiser(0.0, _zero)
ones = Initialiser(1.0, _zero)
lecun = Initialiser(0.0, _lecun)
xavier = Initialiser(0.0, _xavier)


def normal(deviation: float) -> Initialiser:
    """Zero mean and a given deviation, whatever the shape."""
    return Initialiser(0.0, partial(_fixed, deviation=deviation))


@record
class _Recipe(nn.meta.AxisMetadata):
    """A parameter's shape with its mean and deviation, as the tracing of a module meets it."""

    value: Any
    mean: float = static()
    deviation: float = static()

    def unbox(self) -> Any:
        return self.value

    def replace_boxed(self, val: Any) -> "_Recipe":
        return dataclasses.replace(self, value=val)

    def add_axis(self, index: int, params: dict[Any, Any]) -> "_Recipe":
        return self

    def remove_axis(self, index: int, params: dict[Any, Any]) -> "_Recipe":
        return self


class _Spec(NamedTuple):
    shape: Shape
    dtype: Any
    mean: float
    deviation: float


def initialise(module: nn.Module, key: Key, *args: Any, **kwargs: Any) -> Params:
    """The parameters of a Linen module as NumPy arrays, without compiling its forward pass.

    A device draws them in pieces, so that a network may be larger than its memory. Works eagerly,
    under `jax.jit` (with `out_shardings`) and under `jax.eval_shape`. A module that uses
    initialisers other than this file's gets what `module.init` gives, drawn on one device.

    Args:
        module: the network.
        key: every parameter is a function of it and of its path.
        *args: example inputs, arrays or `jax.ShapeDtypeStruct`s.
        **kwargs: as `args`, by name; a bool is passed on as it is.

    Raises:
        ValueError: where the module has variables other than parameters.
    """
    switches: dict[str, Any] = {
        name: value for name, value in kwargs.items() if isinstance(value, bool)
    }
    inputs = (args, {name: value for name, value in kwargs.items() if name not in switches})

    def init(key: Key, args: Any, kwargs: Any) -> Any:
        return module.init(key, *args, **kwargs, **switches)

    variables = _recipes(init, inputs)
    others = sorted(set(variables) - {"params"})
    if others:
        raise ValueError(
            f"{type(module).__name__} keeps variables {others} beside its parameters: a network is "
            "a pure function of parameters; use layers without state (GroupNorm for BatchNorm)"
        )
    leaves, treedef = jax.tree_util.tree_flatten_with_path(
        variables.get("params", {}), is_leaf=_is_recipe
    )
    if not all(_is_recipe(leaf) for _, leaf in leaves):
        return _by_module(init, key, inputs)
    paths = [zlib.crc32(jax.tree_util.keystr(path).encode()) for path, _ in leaves]
    return treedef.unflatten(_draw(key, paths, [_spec(leaf) for _, leaf in leaves]))


def _is_recipe(leaf: Any) -> bool:
    return isinstance(leaf, _Recipe)


def _spec(leaf: _Recipe) -> _Spec:
    return _Spec(leaf.value.shape, leaf.value.dtype, leaf.mean, leaf.deviation)


def _recipes(init: Callable[..., Any], inputs: Any) -> Any:
    """The module's variables, its parameters as recipes where its initialisers are ours."""
    token = _recording.set(True)
    try:
        return jax.eval_shape(partial(init, jax.random.key(0)), *inputs)
    finally:
        _recording.reset(token)


def _by_module(init: Callable[..., Any], key: Key, inputs: Any) -> Params:
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(jnp.shape(a), a.dtype), inputs)

    def draw(key: Key) -> Params:
        examples = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        return nn.unbox(init(key, *examples)["params"])

    drawn = jax.jit(draw)(key)
    return jax.device_get(drawn) if all(map(is_concrete, jax.tree.leaves(drawn))) else drawn


def _draw(key: Key, paths: Sequence[int], specs: Sequence[_Spec]) -> list[AnyArray]:
    """Each parameter by (1), from its own run of blocks of `z`."""
    counts = [-(-math.prod(spec.shape) // _BLOCK) if spec.deviation else 0 for spec in specs]
    total = sum(counts)
    pieces = max(1, -(-total // _PIECE))
    padding = -total % (pieces * _LANES)
    owners = np.pad(np.repeat(np.array(paths, np.uint32), counts), (0, padding))
    indices = np.pad(np.concatenate([np.arange(n, dtype=np.uint32) for n in counts]), (0, padding))
    places = owners.reshape(pieces, -1, _LANES), indices.reshape(pieces, -1, _LANES)
    # Outside of a trace NumPy cuts the parameters out, since XLA would compile every cut.
    xp = np if is_concrete(jax.random.fold_in(key, 0)) else jnp
    drawn = [xp.asarray(_blocks(key, *at)) for at in zip(*places, strict=True)]
    z = drawn[0] if pieces == 1 else xp.concatenate(drawn)
    starts = np.cumsum([0, *counts])[:-1]
    return [
        _cut(xp, z[start : start + count], spec)
        for start, count, spec in zip(starts, counts, specs, strict=True)
    ]


@jax.jit
def _blocks(key: Key, owners: Array, indices: Array) -> Array:
    """Blocks of `z`, each from the key of its parameter and its place in it."""

    def block(owner: Array, index: Array) -> Array:
        return _standard(jax.random.fold_in(jax.random.fold_in(key, owner), index), (_BLOCK,))

    return jax.lax.map(lambda at: jax.vmap(block)(*at), (owners, indices)).reshape(-1, _BLOCK)


def _cut(xp: Any, z: Any, spec: _Spec) -> Any:
    if not spec.deviation:
        return xp.full(spec.shape, spec.mean, spec.dtype)
    value = spec.deviation * z.reshape(-1)[: math.prod(spec.shape)].reshape(spec.shape)
    return (value + spec.mean if spec.mean else value).astype(spec.dtype)

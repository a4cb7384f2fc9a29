r"""Sampling tokens block by block: each by the jumps of its own process, given those before.

(1) $x^b \sim p(x^b \mid x^{< b})$, by `jumps` on a grid of times, for $b = 1, 2, \dots$

A network of blocks reads each once it is data, and keeps its keys and values: a call costs one
block, and the whole as many calls of a block as there are blocks, times those of the grid and one
for reading.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxflow.checks import check_made
from jaxflow.records import record, traceable
from jaxflow.sampling.jumps import check_rising, walked
from jaxflow.sampling.leaps import euler
from jaxflow.sampling.leaps.process import Process, check_start
from jaxflow.sampling.precision import computing
from jaxflow.types import AnyArray, Array, Data, Keys, Method, Path, Solution, Velocity
from jaxflow.velocities.in_blocks import in_blocks

__all__ = ["by_block"]


@record
class Remembering:
    """Logits of a block, with a memory of those before."""

    logits: Any
    memory: Any
    start: Array

    def __call__(self, t: Any, x: Data, **cond: Any) -> Array:
        return self.logits(t, x, self.memory, self.start, **cond)


def by_block(
    logits: Velocity | Callable[..., Any],
    x0: Data,
    grid: ArrayLike | Sequence[float],
    *,
    keys: Keys,
    path: Path,
    method: Method | None = None,
    block: int | None = None,
    given: AnyArray | None = None,
    cond: Mapping[str, Any] | None = None,
    precision: str = "network",
) -> Solution:
    """Generate tokens block by block (1), each along a grid of times that ends at the data.

    Compiled inside, as `jumps`; a sample depends on its own key alone. Sequences may be longer than
    those of the training.

    Args:
        logits: those of a network that was trained by `draws.by_block`, as
            `velocities.from_network(network, params)` of a `networks.BlockTransformer`; or others,
            `velocities.in_blocks`.
        x0: `[batch, length]` tokens at `grid[0]`, from the path's source; whole blocks of them.
        grid: two or more increasing times, the last of them 1.
        keys: one a sample.
        path: of tokens, that the network was trained on, with one law of noise for all places.
        method: one of `leaps`; Euler's where None.
        block: tokens of one, where the logits do not tell.
        given: bools `[batch, length]`, which tokens of `x0` are the data's and stay. A block sees
            those before alone: what is given after it does not reach it.
        cond: conditions, each `[batch, ...]`.
        precision: as of `jumps`.

    Returns:
        The solution. `nfe` counts calls: of one block each, where keys and values are kept.

    Raises:
        ValueError: as `jumps`; for a length that is not whole blocks, or a grid that does not end
            at 1.

    Arriola et al., Block Diffusion: Interpolating Between Autoregressive and Diffusion Language
    Models, 2025, arXiv:2503.09573, algorithm 2.

    >>> from jaxflow import paths, sampling, sources
    >>> path, keys = paths.mixture(source=sources.mask(9)), jax.random.split(jax.random.key(0), 1)
    >>> counts = lambda t, x, clean: 99.0 * jax.nn.one_hot(jnp.roll(clean, 1, 1) + 1, 9)
    >>> x0 = path.source.sample(keys, (6,))
    >>> grid = sampling.grids.uniform(2)
    >>> by_block(counts, x0, grid, keys=keys, path=path, block=1).x[0].tolist()
    [1, 2, 3, 4, 5, 6]
    """
    check_made("method", method)
    cond = check_start(path, x0, keys, given, cond)
    times = check_rising(grid)
    if times[-1] != 1:
        raise ValueError(
            f"the next block is given the data of this one: let the grid end at 1; got {grid}"
        )
    posterior, products = computing(in_blocks(logits, block), precision)
    if jnp.ndim(x0) != 2 or jnp.shape(x0)[1] % posterior.block:
        raise ValueError(
            f"x0 has shape {jnp.shape(x0)}: tokens [batch, length], whole blocks of "
            f"{posterior.block}"
        )
    arguments = traceable((posterior, path, euler() if method is None else method))
    with products:
        return _by_block(*arguments, x0, times, keys, cond, given)


@jax.jit
def _by_block(
    posterior: Any,
    path: Any,
    method: Method,
    x0: Data,
    grid: Array,
    keys: Keys,
    cond: Mapping[str, Any],
    given: Array | None,
) -> Solution:
    x0, block = jnp.asarray(x0), posterior.block
    count = x0.shape[1] // block

    def step(memory: Any, start: Array) -> tuple[Any, Any]:
        own = jax.vmap(jax.random.fold_in, (0, None))(keys, start)
        cut = partial(jax.lax.dynamic_slice_in_dim, start_index=start, slice_size=block, axis=1)
        stay = None if given is None else cut(jnp.asarray(given))
        process = Process(path, Remembering(posterior, memory, start), cond, stay)
        x, _ = walked(process, method, cut(x0), grid, own, to_end=True, save=False)
        return posterior.read(x, memory, start, **cond), x

    _, x = jax.lax.scan(step, posterior.empty(x0), block * jnp.arange(count))
    x = jnp.moveaxis(x, 0, 1).reshape(x0.shape)
    calls = (len(grid) - 2) * method.calls + 1 + posterior.reads
    nfe = jnp.full((len(x),), count * calls, jnp.int32)
    return Solution(x, None, None, nfe, jnp.all(x >= 0, axis=1))

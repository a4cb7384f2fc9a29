"""Draws one after another, and plain functions as draws."""

import inspect
from typing import Any

import jax

from jaxflow.checks import check_made
from jaxflow.records import record, traceable
from jaxflow.types import Batch, Draw, Held, Key

__all__ = ["Chain", "as_draw", "chain", "on_host"]


@record
class Chain:
    """Draws one after another, each with a key of its own."""

    draws: tuple[Draw, ...]

    @property
    def on_host(self) -> bool:
        """Whether any of them runs outside of jit."""
        return any(on_host(draw) for draw in self.draws)

    def __call__(self, key: Key, batch: Batch, held: Held | None = None) -> Batch:
        for part, draw in zip(jax.random.split(key, len(self.draws)), self.draws, strict=True):
            batch = draw(part, batch, held)
        return batch


@record
class WithoutHeld:
    """A draw `(key, batch) -> batch` that reads nothing else."""

    draw: Any

    def __call__(self, key: Key, batch: Batch, held: Held | None = None) -> Batch:
        return self.draw(key, batch)


def on_host(draw: Any) -> bool:
    """Whether a part of the draw runs outside of jit, so that it wants `training.ahead`."""
    return getattr(getattr(draw, "func", draw), "on_host", False)


def as_draw(draw: Any) -> Draw:
    """The draw itself, or that of a plain function `(key, batch)` or `(key, batch, held)`.

    Raises:
        TypeError: for what is no function.
    """
    check_made("draw", draw)
    if not callable(draw):
        raise TypeError(
            f"a draw is (key, batch, held) -> batch; got {type(draw).__name__}: "
            "draws.standard(path) is the usual one"
        )
    return traceable(draw) if _takes_held(draw) else WithoutHeld(traceable(draw))


def _takes_held(draw: Any) -> bool:
    parameters = inspect.signature(draw).parameters.values()
    by_place = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len(by_place) > 2 or any(p.kind is p.VAR_POSITIONAL for p in parameters)


def chain(*draws: Draw) -> Draw:
    """Draws one after another, each with a key of its own; plain functions are draws too."""
    return Chain(tuple(map(as_draw, draws)))

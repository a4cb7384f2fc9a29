"""The jump process of tokens that a posterior defines on a path: what a leap steps."""

from typing import Any

import jax.numpy as jnp

from jaxflow.arrays import check_keys
from jaxflow.checks import check_batch, check_made
from jaxflow.paths.ends import is_of_tokens
from jaxflow.paths.mixture import Mixture, check_tokens
from jaxflow.records import record
from jaxflow.tokens import check_logits, drawn
from jaxflow.types import Array, Data, Keys, Time

__all__ = ["Process", "check_masks", "check_rates", "check_start", "mixture_of"]


@record
class Process:
    """A posterior `(t, x) -> logits` on a path of tokens, some of which may be given."""

    path: Any
    posterior: Any
    cond: Any
    given: Array | None

    def __call__(self, t: Time, x: Data) -> Array:
        """The logits `[batch, *event, vocabulary]` of the data at each place."""
        logits = self.posterior(t, x, **self.cond)
        check_logits(logits, x)
        return logits

    def fixed(self, x: Data) -> Array:
        """Which tokens stay: those that are given, and those that are the data's for certain."""
        known = self.path.known(x)
        return known if self.given is None else known | self.given

    def data(self, keys: Keys, x: Data, logits: Array) -> Data:
        """A draw of the data at each place."""
        return jnp.where(self.fixed(x), x, drawn(keys, logits).astype(x.dtype))

    def span(self, t: Time, s: Time, x: Data) -> Array:
        """The clock time from `t` to `s` at each place."""
        check_rates(self.path, "a leap by the clock")
        return self.path.clock(s, x) - self.path.clock(t, x)

    def keep(self, x: Data, moved: Data) -> Data:
        """What has moved, the given tokens as they were."""
        return moved if self.given is None else jnp.where(self.given, x, moved)


def mixture_of(process: Process, leap: str) -> Any:
    """The path of a leap that is of mixtures alone.

    Raises:
        ValueError: for a metric path, or for one whose source is not known.
    """
    path = process.path
    if not isinstance(path, Mixture) or path.source is None:
        raise ValueError(
            f"{leap} is of paths.mixture(kappa, source=...), whose tokens are data or noise; got "
            f"{path!r}: take another leap, as euler"
        )
    return path


def check_rates(path: Any, leap: str) -> None:
    """Refuse a path without rates for a leap that holds those of a step's beginning.

    Raises:
        ValueError: saying so.
    """
    if not hasattr(path, "clock"):
        raise ValueError(
            f"{leap} holds the rates of a step's beginning, and those of {path!r} are infinite at "
            "t = 0: take ancestral"
        )


def check_start(path: Any, x0: Any, keys: Keys, given: Any, cond: Any) -> dict[str, Any]:
    """The conditions, once all that a sampler of tokens sets out from is known to fit.

    Raises:
        ValueError: for a path of real numbers, tokens that are not whole numbers, keys or
            conditions that do not lead with the batch, or given tokens of another shape.
    """
    check_made("path", path)
    _check_of_tokens(path)
    check_tokens(x0)
    cond = {} if cond is None else dict(cond)
    check_keys(keys, check_batch(x0, cond))
    _check_given(given, x0)
    return cond


def check_masks(path: Any, sampler: str) -> None:
    """Refuse a path that is not between masks and data, for a sampler of these alone.

    Raises:
        ValueError: saying so.
    """
    if not (isinstance(path, Mixture) and hasattr(path.source, "token")):
        raise ValueError(
            f"{path!r} is not between masks and data, and {sampler} is of paths.mixture(kappa, "
            "source=sources.mask(token)): take jumps by another leap for other paths"
        )


def _check_of_tokens(path: Any) -> None:
    if hasattr(path, "hard"):
        raise ValueError(f"{path!r} is a path of training: sample on its tokens', path.hard")
    if hasattr(path, "missing"):
        raise ValueError(f"{path!r} is of edits, whose sampler is sampling.edits")
    if not is_of_tokens(path):
        raise ValueError(
            f"{path!r} is a path of real numbers, whose samplers are fixed_step and adaptive: "
            "jumps are of tokens, on paths.mixture(...) or paths.metric(...)"
        )


def _check_given(given: Any, x: Data) -> None:
    if given is not None and (jnp.shape(given) != jnp.shape(x) or str(given.dtype) != "bool"):
        raise ValueError(
            f"given is {jnp.result_type(given)} of shape {jnp.shape(given)} for tokens of shape "
            f"{jnp.shape(x)}: it is bool, True for a token that stays"
        )

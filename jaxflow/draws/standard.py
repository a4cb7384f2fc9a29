"""The usual draw of an objective."""

from collections.abc import Callable, Mapping
from typing import Any

from jaxflow import couplings, sources
from jaxflow import times as times_
from jaxflow.checks import check_made
from jaxflow.draws import pairs
from jaxflow.draws.chain import chain
from jaxflow.draws.pairs import AnyTimes
from jaxflow.paths.ends import interval_of
from jaxflow.types import Coupling, Draw, Path, Source

__all__ = ["standard"]


def standard(
    path: Path,
    *,
    source: Source | Callable[..., Any] | None = None,
    coupling: Coupling | None = None,
    times: AnyTimes | Mapping[str, AnyTimes] | None = None,
    drop: Draw | None = None,
) -> Draw:
    """The usual chain: source, coupling, times in the path's interval, latent, dropout.

    Args:
        path: gives the interval of the times, and the latent where it has one.
        source: where None that of the path, if it names one, or standard normal; so for every part
            of a product.
        coupling: independent where None.
        times: uniform where None.
        drop: condition dropout, as `draws.drop(.1, {"label": 10})`; none where None.

    Raises:
        TypeError: for an argument of another kind.
    """
    check_made("path", path)
    if not callable(path):
        raise TypeError(
            f"a path is (t, x0, x1, z) -> PathSample; got {type(path).__name__}: paths.linear() is "
            "the usual one"
        )
    steps = [
        pairs.source(_source_of(path) if source is None else source),
        pairs.couple(couplings.independent() if coupling is None else coupling),
        pairs.times(times_.uniform() if times is None else times, interval_of(path)),
        pairs.latent(path),
    ]
    return chain(*steps, *([] if drop is None else [drop]))


def _source_of(path: Path) -> Source:
    parts = getattr(path, "parts", None)
    if parts is None:
        own = getattr(path, "source", None)
        return sources.normal() if own is None else own
    return sources.product({name: _source_of(part) for name, part in parts.items()})

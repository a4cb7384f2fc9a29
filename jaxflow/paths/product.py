r"""A path for samples of several parts, each part on a path of its own.

(1) $x_t^k = X^k(t^k, x_0^k, x_1^k)$ for every part $k$
"""

from collections.abc import Mapping
from typing import Any

import jax

from jaxflow.paths.ends import schedule_of
from jaxflow.records import record, traceable
from jaxflow.types import Key, Path, PathSample, Time

__all__ = ["Product", "product"]


@record
class Product:
    """The paths (1) of the parts of a sample, by name."""

    parts: Mapping[str, Path]

    def latent(self, key: Key, x0: Mapping[str, Any]) -> Mapping[str, Any]:
        """The latent of each part that has one."""
        check_parts("the path", self.parts, x0)
        keys = jax.random.split(key, len(self.parts))
        return {
            name: getattr(part, "latent", _no_latent)(k, x0[name])
            for k, (name, part) in zip(keys, self.parts.items(), strict=True)
        }

    def __call__(
        self,
        t: Time | Mapping[str, Time],
        x0: Mapping[str, Any],
        x1: Mapping[str, Any],
        z: Any = None,
    ) -> PathSample:
        """The points (1), as mappings; `t` is one for all parts, or a mapping of them.

        Raises:
            ValueError: where the parts of the samples are not those of the path.
        """
        check_parts("the path", self.parts, x1)
        samples = {
            name: part(
                t[name] if isinstance(t, Mapping) else t,
                x0[name],
                x1[name],
                z[name] if isinstance(z, Mapping) else z,
            )
            for name, part in self.parts.items()
        }

        def each(field: str) -> dict[str, Any]:
            return {name: getattr(sample, field) for name, sample in samples.items()}

        return PathSample(t, each("x"), each("u"), each("x0"), each("x1"), each("score"))


def _no_latent(key: Key, x0: Any) -> None:
    """What a path without randomness of its own draws."""


def parts_of(path: Any) -> Mapping[str, Path]:
    """The paths of the parts of a sample.

    Raises:
        ValueError: for a path of one part.
    """
    parts = getattr(path, "parts", None)
    if parts is None:
        raise ValueError(f"mixed is of several parts, on paths.product({{...}}); got {path!r}")
    return parts


def check_parts(what: str, parts: Mapping[str, Any], x: Any) -> None:
    """Refuse samples of other parts than `parts`.

    Raises:
        ValueError: naming both.
    """
    found = sorted(x) if isinstance(x, Mapping) else "one array"
    if found != sorted(parts):
        raise ValueError(f"{what} has the parts {sorted(parts)}, but the samples are {found}")


def product(parts: Mapping[str, Path]) -> Product:
    """A path for mappings of arrays, such as an image and its caption's embedding.

    Args:
        parts: the path of each part, by name.

    Raises:
        ValueError: for no part.

    >>> import jax.numpy as jnp
    >>> from jaxflow import paths
    >>> path = product({"a": paths.linear(), "b": paths.cosine()})
    >>> zero, one = ({"a": jnp.full((1, 1), v), "b": jnp.full((1, 2), v)} for v in (0.0, 1.0))
    >>> path(jnp.ones(1), zero, one).x["b"].shape
    (1, 2)
    """
    if not parts:
        raise ValueError("a product needs the path of at least one part")
    for part in parts.values():
        if hasattr(part, "schedule"):
            schedule_of(part)
    return Product(traceable(dict(parts)))

"""Names that are not known, and the ones that were meant."""

import difflib
from collections.abc import Iterable
from typing import Any

__all__ = ["check_known", "did_you_mean"]


def did_you_mean(name: Any, known: Iterable[Any]) -> str:
    """The nearest known name, to be put behind the unknown one in a sentence; or nothing.

    >>> did_you_mean("linaer", ["cosine", "linear"])
    " (did you mean 'linear'?)"
    >>> did_you_mean("abc", ["cosine", "linear"])
    ''
    """
    near = difflib.get_close_matches(str(name), [str(each) for each in known], n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def check_known(what: str, name: Any, known: Iterable[Any]) -> None:
    """Refuse a name that is none of those known.

    Raises:
        ValueError: naming what it is the name of, the nearest known name, and all of them.
    """
    known = list(known)
    if name not in known:
        raise ValueError(
            f"{what} is {name!r}{did_you_mean(name, known)}, "
            f"but must be one of {', '.join(map(str, known))}"
        )

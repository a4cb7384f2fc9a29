"""HTML by small functions: whatever is not markup already is escaped."""

import base64
import html
import re
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["Html", "figure", "page", "prose", "table", "tag"]

VOID = ("br", "img", "meta")

STYLE = """
:root { color-scheme: light dark; --line: color-mix(in srgb, CanvasText 22%, Canvas); }
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem; background: Canvas; color: CanvasText;
  font: 1rem/1.5 system-ui, sans-serif; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; border-top: 1px solid var(--line);
  padding-top: 1rem; }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1rem; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .8rem .3rem 0; text-align: left;
  vertical-align: top; }
td.number, th.number { text-align: right; }
td.verdict { min-width: 12rem; }
.seen strong { color: light-dark(#a63a00, #ffab70); }
.wide { overflow-x: auto; }
figure { display: inline-block; margin: .5rem 1rem .5rem 0; vertical-align: top; max-width: 100%; }
figure.small { max-width: 18rem; }
img { max-width: 100%; height: auto; } img.paper { background: white; }
figcaption, .line { color: color-mix(in srgb, CanvasText 75%, Canvas); }
pre, code { font: .88em/1.45 ui-monospace, monospace; overflow-wrap: anywhere; }
pre { white-space: pre-wrap; }
@media print { nav { display: none; } body { max-width: none; padding: 0; }
  figure, tr { break-inside: avoid; } h2 { break-after: avoid; } }
"""


class Html(str):
    """Text that is markup already."""


def tag(name: str, /, *children: Any, **attributes: Any) -> Html:
    """An element; an attribute whose name Python keeps for itself ends in `_`.

    >>> tag("p", "a < b", tag("b", 1), class_="x")
    '<p class="x">a &lt; b<b>1</b></p>'
    """
    pairs = ((key.rstrip("_"), html.escape(str(value))) for key, value in attributes.items())
    opened = "".join([name, *(f' {key}="{value}"' for key, value in pairs)])
    if name in VOID:
        return Html(f"<{opened}>")
    return Html(f"<{opened}>{joined(children)}</{name}>")


def joined(children: Iterable[Any]) -> Html:
    """One after another, escaped where they are no markup."""
    return Html(
        "".join(c if isinstance(c, Html) else html.escape(str(c), quote=False) for c in children)
    )


def prose(text: str) -> Html:
    """A sentence, what stands between backticks as code."""
    return Html(re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(text, quote=False)))


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> Html:
    """Rows under a head, where that says anything; columns of numbers to the right."""
    rows = list(rows)
    right = [_of_numbers([row[i] for row in rows]) for i in range(len(head))]
    top = tag("thead", _row("th", head, right)) if any(head) else Html("")
    body = tag("tbody", *(_row("td", row, right) for row in rows))
    return tag("div", tag("table", top, body), class_="wide")


def _of_numbers(column: Sequence[Any]) -> bool:
    given = [cell for cell in column if cell is not None]
    return bool(given) and all(isinstance(cell, float | int) for cell in given)


def _row(kind: str, cells: Sequence[Any], right: Sequence[bool]) -> Html:
    given = [{"class_": "number"} if number else {} for number in right]
    return tag(
        "tr", *(tag(kind, shown(cell), **own) for cell, own in zip(cells, given, strict=True))
    )


def shown(value: Any) -> Any:
    """A number as a person reads it, to four digits; anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, float | int):
        return "" if value is None else value
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def figure(picture: bytes, kind: str, told: str, size: str = "large") -> Html:
    """A picture within the page; `kind` is its media type, one drawn on paper stays white."""
    source = f"data:{kind};base64,{base64.b64encode(picture).decode()}"
    paper = {"class_": "paper"} if kind == "image/png" else {}
    image = tag("img", src=source, alt=told, **paper)
    return tag("figure", image, tag("figcaption", told), class_=size)


def page(title: str, body: Iterable[Html]) -> str:
    """A whole document that needs nothing else."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Html(STYLE)),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, tag('body', *body), lang='en')}\n"

"""The page of a run: sections of what was written down and measured, and what to try.

`Found` is all that the page is made of; nothing here reads a file or runs a network.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.output import charts
from experiments.output.found import Found, seconds_spent
from experiments.output.markup import Html, figure, page, prose, table, tag
from experiments.output.remedies import advice

__all__ = ["PICTURES", "Section", "chosen", "document"]

PICTURES = 12
APART = ("step", "skipped", "spikes", "unreadable")


class Section(NamedTuple):
    """A part of the page: where a link finds it, what one sees, and the thing itself."""

    anchor: str
    title: str
    line: str
    body: Html


def document(found: Found) -> str:
    """The whole page."""
    sections = [s for s in SECTIONS if not (found.of_tokens and s in OF_FLOWS)]
    made = [section(found) for section in sections]
    links = tag("nav", *(tag("a", s.title, href=f"#{s.anchor}") for s in made))
    parts = [
        tag(
            "section",
            tag("h2", s.title),
            tag("p", prose(s.line), class_="line"),
            s.body,
            id=s.anchor,
        )
        for s in made
    ]
    return page(f"{found.name}: report", [tag("h1", found.name), links, *parts])


def chosen(items: Sequence[Any], most: int = PICTURES) -> list[Any]:
    """At most that many, evenly, the first and the last among them."""
    n = len(items)
    if n <= most:
        return list(items)
    return [items[round(i * (n - 1) / (most - 1))] for i in range(most)]


def _missing(command: str) -> Html:
    return tag("p", "Not there yet. This makes it: ", tag("code", command))


def _run(found: Found) -> Section:
    last = found.lines[-1] if found.lines else {}
    config = found.config
    parts = ("network", "path", "times", "coupling", "loss", "optimizer", "sampler")
    names = {part: config[part]["name"] for part in parts}
    rows = [
        ("run", found.name),
        ("data", config["data"]["source"]["name"]),
        *names.items(),
        ("step of the parameters", found.step),
        ("step of the log", last.get("step")),
        ("steps in all", config["steps"]),
        ("parameters", found.parameters),
        ("training so far", _duration(seconds_spent(found.lines)) if found.lines else None),
        ("steps a second", last.get("steps_per_second")),
    ]
    line = "What was trained, how far it is, and what it took."
    body = table(("", ""), [row for row in rows if row[1] is not None])
    if not found.lines or found.step is None:
        body = Html(body + _missing(found.commands.train))
    return Section("run", "The run", line, body)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _curves(found: Found) -> Section:
    line = (
        "Means over the steps since the last line of the log; a loss of flow matching does not "
        "fall to 0, since many pairs meet at one point."
    )
    if not found.lines:
        return Section("curves", "Curves", line, _missing(found.commands.train))
    names = list(dict.fromkeys(k for entry in found.lines for k in entry))
    shown = [k for k in ("loss", "grad_norm") if k in names]
    shown += [k for k in names if k not in (*shown, *APART) and not k.startswith("seconds/")]
    curves = {_words(k): _curve(found.lines, k) for k in shown}
    steps = [entry["step"] for entry in found.lines]
    rate = {"learning rate": (steps, found.learning_rate)} if len(found.learning_rate) else {}
    curves = {k: v for k, v in curves.items() if any(math.isfinite(x) for x in v[1])} | rate
    if not curves:
        return Section("curves", "Curves", line, _missing(found.commands.train))
    told = "Over steps: " + ", ".join(curves)
    return Section("curves", "Curves", line, _svg(charts.draw_curves(curves), told))


def _curve(lines: Sequence[Mapping[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of the lines that have it."""
    having = [line for line in lines if name in line]
    return [line["step"] for line in having], [_number(line[name]) for line in having]


def _words(name: str) -> str:
    return name.replace("grad_norm", "gradient norm").replace("_", " ")


def _number(value: Any) -> float:
    return value if isinstance(value, float | int) else math.nan


def _svg(picture: bytes, told: str) -> Html:
    return figure(picture, "image/svg+xml", told)


def _samples(found: Found) -> Section:
    line = "Samples of the average parameters as training went, from the same noise each time."
    pictures = [
        figure(picture, "image/png", f"step {step:,}", "small")
        for step, picture in chosen(found.pictures)
    ]
    body = tag("div", *pictures) if pictures else _missing(found.commands.train)
    return Section("samples", "Samples over time", line, body)


def _times(found: Found) -> Section:
    line = (
        "The loss of the average parameters on held-out data by time, in ten bins with standard "
        "errors, beside the best model of independent Gaussian numbers: above that, the network "
        "has not learned a time. And the root mean square of samples on their way and of the path "
        "of training: where they part, the flow drifts from its path."
    )
    if found.of_tokens:
        return _times_of_tokens(found)
    if found.losses is None or found.norms is None:
        return Section("times", "Loss and norm by time", line, _missing(found.commands.train))
    others = found.losses.gaussian or [None] * len(found.losses.network)
    rows = [
        (f"{b.low:.1f} to {b.high:.1f}", b.count, b.mean, b.standard_error, g and g.mean)
        for b, g in zip(found.losses.network, others, strict=True)
    ]
    head = ("t", "examples", "loss", "standard error", "Gaussian model")
    body = tag(
        "div",
        _svg(charts.draw_bins(found.losses), "Loss by time"),
        _svg(charts.draw_norms(found.norms), "Norm by time"),
        tag("details", tag("summary", "The numbers of the loss"), table(head, rows)),
    )
    return Section("times", "Loss and norm by time", line, body)


def _times_of_tokens(found: Found) -> Section:
    line = (
        "The loss of the average parameters on held-out data by time, in nats a token, in ten bins "
        "with standard errors. Where the loss is the bound on the evidence, its mean is the figure "
        "that evaluate tells in bits."
    )
    if found.losses is None:
        return Section("times", "Loss by time", line, _missing(found.commands.train))
    rows = [
        (f"{b.low:.1f} to {b.high:.1f}", b.count, b.mean, b.standard_error)
        for b in found.losses.network
    ]
    numbers = table(("t", "examples", "loss", "standard error"), rows)
    drawn = _svg(charts.draw_bins(found.losses), "Loss by time")
    return Section("times", "Loss by time", line, tag("div", drawn, numbers))


def _straightness(found: Found) -> Section:
    line = (
        "What the ways of samples cost beside straight ones between the same ends: the energy, "
        "its excess over that of a straight way (straightness, 0 at best), and length over "
        "distance (detour, 1 at best). The straighter, the fewer steps a sampler needs."
    )
    if found.straightness is None:
        return Section("straightness", "Straightness", line, _missing(found.commands.train))
    rows = [
        (name, own.mean, own.standard_error, straight.mean, straight.standard_error)
        for name, (own, straight) in found.straightness.items()
    ]
    head = ("", "the flow", "standard error", "a straight flow", "standard error")
    return Section("straightness", "Straightness", line, table(head, rows))


def _evaluation(found: Found) -> Section:
    line = "Samples, held-out data and two baselines, all measured alike against held-out data."
    if found.evaluation is None:
        return Section("evaluation", "Evaluation", line, _missing(found.commands.evaluate))
    rows = found.evaluation.get("rows", {})
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    body = table(("", *columns), [(n, *(row.get(c) for c in columns)) for n, row in rows.items()])
    rest = [(k, v) for k, v in found.evaluation.items() if isinstance(v, float | int | str)]
    stale = _stale(found, found.evaluation, found.commands.evaluate)
    parts = body + table(("", ""), rest) + _saturated(found) + stale
    return Section("evaluation", "Evaluation", line, Html(parts))


def _saturated(found: Found) -> Html:
    if found.saturation is None:
        return Html("")
    own, held = (f"{of.mean:.1%} ± {of.standard_error:.1%}" for of in found.saturation)
    return tag("p", f"Pixels at the lowest or highest level: samples {own}, held-out data {held}.")


def _stale(found: Found, of: Mapping[str, Any], command: str) -> Html:
    """A word where it was measured at another step."""
    if found.step is None or of.get("step") == found.step:
        return Html("")
    told = f"Measured at step {of.get('step')}; the parameters are now of step {found.step}: "
    return tag("p", told, tag("code", command))


def _frontier(found: Found) -> Section:
    line = "Quality against calls of the network; lower and further left is better."
    if found.frontier is None:
        return Section("frontier", "Frontier", line, _missing(found.commands.frontier))
    points = sorted(found.points, key=lambda p: (p.calls, p.quality))
    rows = [
        (s.method, s.grid, s.n, s.guidance, calls, quality, error)
        for s, calls, quality, error in points
    ]
    quality = found.frontier.get("quality", "quality")
    head = ("method", "grid", "steps", "guidance", "calls", quality, "standard error")
    picture = found.frontier_picture
    drawn = figure(picture, "image/png", "Quality against calls") if picture else Html("")
    stale = _stale(found, found.frontier, found.commands.frontier)
    return Section("frontier", "Frontier", line, Html(drawn + table(head, rows) + stale))


def _health(found: Found) -> Section:
    line = "Steps that were left out since they were not finite, starts that led nowhere, spikes."
    if not found.lines:
        return Section("health", "Health", line, _missing(found.commands.train))
    last = found.lines[-1]
    rows = [(f"steps: {k}", int(last[k])) for k in ("skipped", "spikes") if last.get(k) is not None]
    rows += [("unreadable examples", int(last["unreadable"]))] if "unreadable" in last else []
    rows += [(f"starts.json: {k}", v) for k, v in (found.starts or {}).items()]
    body = table(("", ""), rows)
    if found.diagnosis is None:
        return Section("health", "Health", line, Html(body + tag("p", "There is no diagnosis.")))
    return Section("health", "Health", line, Html(body + _json(found.diagnosis)))


def _config(found: Found) -> Section:
    line = "The config as it was run."
    return Section("config", "Config", line, _json(found.config))


def _json(value: Mapping[str, Any]) -> Html:
    return tag("pre", json.dumps(value, indent=2, ensure_ascii=False))


def _advice(found: Found) -> Section:
    line = "What is known to go wrong, whether it shows here, and what to try, the likeliest first."
    return Section("advice", "What to try", line, advice(found))


SECTIONS = (
    _run,
    _curves,
    _samples,
    _times,
    _straightness,
    _evaluation,
    _frontier,
    _health,
    _config,
    _advice,
)
OF_FLOWS = (_straightness, _frontier)

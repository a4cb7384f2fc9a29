"""From the numbers of a report to verdicts: each symptom by one stated criterion.

A verdict is "seen", "not seen" or "not measured"; what was compared is told beside it, and so is
the command that measures. Errors are standard errors, of a difference `hypot(a, b)`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.output.buckets import Estimate, Losses, Norms
from experiments.output.frontier import Point, Setting
from experiments.output.maps import DISTANCES, RESIDUALS

__all__ = [
    "NOT_MEASURED",
    "NOT_SEEN",
    "SEEN",
    "Verdict",
    "copied",
    "disagreeing",
    "diverging",
    "drifting",
    "high_at_the_ends",
    "memorised",
    "misspelt",
    "over_guided",
    "too_few_calls",
    "underfit",
]

SEEN, NOT_SEEN, NOT_MEASURED = "seen", "not seen", "not measured"

ENDS = 0.05
DRIFT = 0.05
FLAT = 0.05
SATURATED = 0.01
NEAR = 0.8
TOLD_APART = 0.9
SPIKE = 1.0
RISE = 0.5
APART = 0.1
BEFORE = 10
COPIED = 1.5
MISSPELT = 0.1

Rows = Mapping[str, Mapping[str, float]]


class Verdict(NamedTuple):
    """What a criterion says, and the numbers that made it."""

    state: str
    told: str


def _when(seen: bool, told: str) -> Verdict:
    return Verdict(SEEN if seen else NOT_SEEN, told)


def high_at_the_ends(losses: Losses | None, command: str) -> Verdict:
    """Seen where the loss of the first or last bin of time is above that of a Gaussian model by
    more than 5 % of the latter and 3 errors of the difference, or is not finite.
    """
    if losses is None:
        return Verdict(NOT_MEASURED, command)
    if losses.gaussian is None or losses.excess is None:
        return Verdict(NOT_MEASURED, "no Gaussian model is known for a source that is not normal")
    seen, told = False, []
    for end, i in (("0", 0), ("1", -1)):
        reference, excess = losses.gaussian[i], losses.excess[i]
        if excess.count == 0:
            continue
        above = excess.mean > ENDS * abs(reference.mean)
        clear = not excess.mean <= 3 * _known(excess.standard_error)
        seen = seen or (above and clear) or not math.isfinite(excess.mean)
        told.append(
            f"near t = {end}: {losses.network[i].mean:.4g}, Gaussian model {reference.mean:.4g}"
        )
    return _when(seen, "; ".join(told))


def drifting(norms: Norms | None, command: str) -> Verdict:
    """Seen where the two norms of some time differ by more than 5 % and 4 errors, or one is not
    finite.
    """
    if norms is None:
        return Verdict(NOT_MEASURED, command)
    gaps = []
    for t, own, path in zip(norms.t, norms.samples, norms.path, strict=True):
        if not math.isfinite(own.mean):
            return Verdict(SEEN, f"samples are not finite at t = {t:.2f}")
        error = math.hypot(_known(own.standard_error), _known(path.standard_error))
        gap = own.mean / path.mean - 1 if path.mean else 0.0
        gaps.append((abs(gap) > DRIFT and abs(own.mean - path.mean) > 4 * error, abs(gap), gap, t))
    seen, _, gap, t = max(gaps)
    return _when(seen, f"{gap:+.1%} at t = {t:.2f}, where they part the most")


def too_few_calls(points: Sequence[Point], own: Setting | None, command: str) -> Verdict:
    """Seen where more steps of the run's own method on its own grid are better by more than 5 %
    and 2 errors.
    """
    if own is None:
        told = "the frontier has fixed steps on a grid of `n` alone, and this sampler has others"
        return Verdict(NOT_MEASURED, told)
    mine = [p for p in points if _alike(p.setting, own) and p.setting.n == own.n]
    more = [p for p in points if _alike(p.setting, own) and p.setting.n > own.n]
    if not mine or not more:
        return Verdict(NOT_MEASURED, command)
    best = min(more, key=_quality)
    told = f"{mine[0].quality:.4g} at {mine[0].calls:g} calls, {best.quality:.4g} at {best.calls:g}"
    return _when(_worse(mine[0], best), told)


def over_guided(
    scale: float,
    points: Sequence[Point],
    samples: Estimate | None,
    held: Estimate | None,
    command: str,
) -> Verdict:
    """Seen under a guidance above 1 where the distance to data is worse than at 1 by more than 5 %
    and 2 errors, or pixels are saturated more often than in held-out data by more than 0.01 and
    3 errors.
    """
    if scale <= 1:
        return Verdict(NOT_SEEN, f"guidance is {scale:g}")
    if samples is not None and held is not None:
        error = math.hypot(_known(samples.standard_error), _known(held.standard_error))
        told = f"saturated pixels {samples.mean:.1%}, of held-out data {held.mean:.1%}"
        if samples.mean - held.mean > max(SATURATED, 3 * error):
            return Verdict(SEEN, told)
    guided, plain = ([p for p in points if p.setting.guidance == g] for g in (scale, 1.0))
    if not guided or not plain:
        return Verdict(NOT_MEASURED, command)
    a, b = min(guided, key=_quality), min(plain, key=_quality)
    return _when(_worse(a, b), f"at best {a.quality:.4g}, without guidance {b.quality:.4g}")


def memorised(rows: Rows | None, endless: bool, command: str) -> Verdict:
    """Seen where the nearest training example of samples is nearer than 0.8 times that of held-out
    data, both in the mean.
    """
    if endless:
        return Verdict(NOT_SEEN, "a distribution has no training set to remember")
    own, held = _of_both(rows, "nearest training example")
    if own is None or held is None:
        return Verdict(NOT_MEASURED, command)
    return _when(own < NEAR * held, f"{own:.4g}, of held-out data {held:.4g}")


def diverging(lines: Sequence[Mapping[str, Any]], diagnosed: bool, command: str) -> Verdict:
    """Seen where a step was skipped or a loss is not finite, a line of the log is above the median
    of the ten before it by more than that median, or the median of the last five above the least
    such median by more than half of it.
    """
    if not lines:
        return Verdict(NOT_MEASURED, command)
    given = [line.get("loss") for line in lines]
    losses = [x for x in given if x is not None and math.isfinite(x)]
    skipped = int(lines[-1].get("skipped") or 0)
    before = [(losses[max(0, i - BEFORE) : i], losses[i]) for i in range(BEFORE // 2, len(losses))]
    spikes = sum(x - np.median(old) > SPIKE * abs(np.median(old)) for old, x in before)
    starts = range(max(1, len(losses) - 4) if losses else 0)
    medians = [float(np.median(losses[i : i + 5])) for i in starts]
    rises = bool(losses) and medians[-1] - min(medians) > RISE * abs(min(medians))
    bad = len(given) - len(losses)
    told = f"{skipped} steps skipped, {bad} lines without a finite loss, {spikes} spikes"
    told += ", the loss rises at the end" if rises else ""
    told += ", and a diagnosis" if diagnosed else ""
    return _when(bool(skipped or bad or spikes or rises or diagnosed), told)


def disagreeing(lines: Sequence[Mapping[str, Any]], is_map: bool, command: str) -> Verdict:
    """Seen where two steps of a flow map end away from one by more than 0.1 of the way, the
    semigroup residual, and its samples in one and in four steps differ in their distance to data by
    more than 5 %; or where one of these is not finite. Of the last line that has them.
    """
    if not is_map:
        return Verdict(NOT_SEEN, "the run learns no flow map")
    names = next(iter(RESIDUALS)), DISTANCES[0], DISTANCES[-1]
    line = next((line for line in reversed(lines) if names[0] in line), None)
    if line is None:
        return Verdict(NOT_MEASURED, command)
    residual, one, four = (line.get(name) for name in names)
    if residual is None or one is None or four is None:
        return Verdict(SEEN, f"at step {line['step']} the map is not finite")
    told = f"semigroup residual {residual:.3g}; distance {one:.4g} in one step, {four:.4g} in four"
    return _when(residual > APART and abs(one - four) > FLAT * min(one, four), told)


def underfit(rows: Rows | None, command: str) -> Verdict:
    """Seen where a classifier tells samples from held-out data in at least 0.9 of the cases."""
    accuracy = (rows or {}).get("samples", {}).get("two-sample accuracy")
    if accuracy is None:
        return Verdict(NOT_MEASURED, command)
    return _when(accuracy >= TOLD_APART, f"two-sample accuracy {accuracy:.3f}, at best 0.5")


def copied(rows: Rows | None, command: str) -> Verdict:
    """Seen where samples share a longer run with the training text than 1.5 times held-out text."""
    own, held = _of_both(rows, "longest copy")
    if own is None or held is None:
        return Verdict(NOT_MEASURED, command)
    told = f"{own:.4g} symbols in the mean, of held-out text {held:.4g}"
    return _when(own > COPIED * held, told)


def misspelt(rows: Rows | None, command: str) -> Verdict:
    """Seen where fewer words of samples are known than of held-out text, by more than 0.1."""
    own, held = _of_both(rows, "spelled")
    if own is None or held is None:
        return Verdict(NOT_MEASURED, f"where the data has words: {command}")
    return _when(held - own > MISSPELT, f"{own:.3f} of the words, of held-out text {held:.3f}")


def _of_both(rows: Rows | None, name: str) -> tuple[float | None, float | None]:
    """Of samples and of held-out data."""
    known = rows or {}
    return known.get("samples", {}).get(name), known.get("held-out data", {}).get(name)


def _alike(a: Setting, b: Setting) -> bool:
    return a._replace(n=0) == b._replace(n=0)


def _worse(a: Point, b: Point) -> bool:
    if not math.isfinite(a.quality) or not math.isfinite(b.quality):
        return math.isfinite(b.quality)
    error = math.hypot(_known(a.standard_error), _known(b.standard_error))
    return a.quality > (1 + FLAT) * b.quality and a.quality - b.quality > 2 * error


def _quality(point: Point) -> float:
    return math.inf if math.isnan(point.quality) else point.quality


def _known(error: float) -> float:
    """An error, 0 where none is known."""
    return 0.0 if math.isnan(error) else error

"""A candidate against the primary: what differs, by how much, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from loadgen.outcome import Outcome
from loadgen.slo import intervals
from loadgen.slo.figures import Figure, Unknown, figure
from loadgen.slo.measure import CONFIDENCE, NAMELESS, Estimate, Measurements
from loadgen.slo.objective import Reference
from loadgen.slo.quantities import digits
from loadgen.slo.split import Split, check_split, holm
from loadgen.slo.verdict import Interval

Meaning = Literal["better", "worse", "no difference shown", "too few samples"]
NAMES = ("latency-p50", "latency-p95", "latency-p99", "error-rate")
STREAM_NAMES = ("ttft-p50", "ttft-p95", "itl-p95")


@dataclass(frozen=True, slots=True)
class Difference:
    """One figure of both. `change` is candidate/primary - 1 (times and rates), or candidate - primary (shares).

    `interval` is that of `change`. `p` is the chance of seeing this much where there is no difference, and `adjusted`
    the same after Holm's correction for all the figures compared; None where nothing can be said.
    """

    figure: Figure
    primary: float | None
    candidate: float | None
    change: float | None = None
    interval: Interval | None = None
    p: float | None = None
    adjusted: float | None = None
    meaning: Meaning = "too few samples"
    words: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """`meaning`: "worse" if any figure is worse, "better" if any is better and none worse."""

    scenario: str
    primary: str
    candidate: str
    differences: tuple[Difference, ...]
    meaning: Meaning
    words: str  # "v2 is worse: latency-p95 is 12 % higher (8 % to 16 %)"
    split: Split | None = None


def compare(
    outcome: Outcome,
    primary: str,
    candidate: str,
    *,
    scenario: str | None = None,
    figures: Iterable[str] | None = None,
    confidence: float = CONFIDENCE,
    weights: Mapping[str, float] | None = None,
) -> Comparison:
    """Hold two versions' figures against each other; `weights`, if given, is the split that was intended.

    A difference counts when its p value is below 1 - confidence after Holm's correction; the intervals that are shown
    are each figure's own. Raises ValueError for the name of a figure that there is not, and for one that is no
    estimate (a count or a maximum).
    """
    measured = Measurements(outcome)
    asked = _figures(measured, figures)
    raw = [_difference(measured, each, scenario, primary, candidate, confidence) for each in asked]
    known = [index for index, each in enumerate(raw) if each.p is not None]
    adjusted = dict(zip(known, holm([raw[index].p or 0.0 for index in known]), strict=True))
    found = tuple(_meant(each, adjusted.get(index), confidence) for index, each in enumerate(raw))
    meaning = _overall(found)
    split = None
    if weights:
        counts: dict[str, int] = {}
        for series in measured.series(scenario, None):
            if series.version not in NAMELESS:
                counts[series.version] = counts.get(series.version, 0) + series.ended
        split = check_split(counts, weights)
    words = _words(measured, scenario, primary, candidate, found, meaning)
    return Comparison(scenario or "", primary, candidate, found, meaning, words, split)


def _figures(measured: Measurements, names: Iterable[str] | None) -> list[Figure]:
    if names is None:
        streams = any("ttft" in each.metrics for each in measured.outcome.series)
        names = (*NAMES, *(STREAM_NAMES if streams else ()))
    found = []
    for name in names:
        each = figure(name)
        if isinstance(each, Unknown):
            raise ValueError(f"{each.what} ({each.hint})")
        if each.stat in ("count", "rate", "min", "max") or each.metric in ("split", "dropped"):
            raise ValueError(f"{name} is no estimate that could be compared: take percentiles, means, rates")
        found.append(each)
    return found


def _difference(
    measured: Measurements, figure: Figure, scenario: str | None, primary: str, candidate: str, confidence: float
) -> Difference:
    ours, theirs = Reference(figure, candidate, scenario), Reference(figure, primary, scenario)
    one, other = measured.of(ours, confidence), measured.of(theirs, confidence)
    found = Difference(figure, other.value if other else None, one.value if one else None)
    if one is None or other is None or min(one.samples, other.samples) < _needs(figure, confidence):
        return found
    as_difference = figure.dimension == "share" or not (one.value > 0 and other.value > 0)

    def ends(one: Estimate, other: Estimate) -> tuple[float, float]:
        if as_difference:
            return intervals.difference(one.bounded, other.bounded)
        low, high = intervals.ratio(one.bounded, other.bounded)
        return low - 1, high - 1

    def apart(sure: float) -> bool:
        wider = measured.of(ours, sure), measured.of(theirs, sure)
        if wider[0] is None or wider[1] is None:
            return False
        low, high = ends(wider[0], wider[1])
        return low > 0 or high < 0

    change = one.value - other.value if as_difference else one.value / other.value - 1
    low, high = ends(one, other)
    return replace(found, change=change, interval=Interval(low, high, confidence), p=intervals.least_level(apart))


def _needs(figure: Figure, confidence: float) -> int:
    return intervals.percentile_needs(figure.percent, confidence) if figure.stat == "p" else 30


def _meant(found: Difference, adjusted: float | None, confidence: float) -> Difference:
    name = found.figure.name
    if adjusted is None or found.change is None or found.interval is None:
        return replace(found, words=f"{name}: too few samples to compare")
    low, high = found.interval.low, found.interval.high
    points = found.figure.dimension == "share"
    size = digits(abs(found.change) * 100)
    size += (" point" if size == "1" else " points") if points else " %"
    between = f"{_signed(low)} to {_signed(high)}"
    if adjusted >= 1 - confidence:
        words = f"{name}: no difference shown ({between})"
        return replace(found, adjusted=adjusted, meaning="no difference shown", words=words)
    higher = found.change > 0
    meaning: Meaning = "worse" if higher == found.figure.good_is_low else "better"
    words = f"{name} is {size} {'higher' if higher else 'lower'} ({between})"
    return replace(found, adjusted=adjusted, meaning=meaning, words=words)


def _signed(change: float) -> str:
    return "any" if math.isinf(change) else f"{'+' if change > 0 else ''}{digits(change * 100)} %"


def _overall(found: tuple[Difference, ...]) -> Meaning:
    meanings = {each.meaning for each in found}
    for each in ("worse", "better", "no difference shown"):
        if each in meanings:
            return each
    return "too few samples"


def _words(
    measured: Measurements,
    scenario: str | None,
    primary: str,
    candidate: str,
    found: tuple[Difference, ...],
    meaning: Meaning,
) -> str:
    for name in (primary, candidate):
        if not any(each.ended for each in measured.series(scenario, name)):
            return f"nothing to compare: {name} did not answer"
    told = [each for each in found if each.meaning == meaning]
    match meaning:
        case "too few samples":
            return f"{candidate} and {primary} cannot be compared: too few samples"
        case "no difference shown":
            return f"no difference between {candidate} and {primary} is shown"
    slower = all(each.figure.dimension == "time" for each in told)
    word = {"worse": "slower" if slower else "worse", "better": "faster" if slower else "better"}[meaning]
    words = f"{candidate} is {word}: " + "; ".join(each.words for each in told)
    against = [each.words for each in found if each.meaning == "better"] if meaning == "worse" else []
    return words + (f". Better: {'; '.join(against)}" if against else "")

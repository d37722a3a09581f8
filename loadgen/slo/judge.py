"""Outcome and SLOs in, verdicts out.

Without a confidence the measured value decides, once there are enough samples for its interval to have two ends; with
fewer, and always when a confidence is asked for, the interval decides: PASS if all of it holds, FAIL if none of it
does, otherwise INCONCLUSIVE.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from loadgen.outcome import Outcome
from loadgen.slo import intervals
from loadgen.slo.figures import DURATIONS
from loadgen.slo.measure import CONFIDENCE, Estimate, Measurements
from loadgen.slo.objective import ALL, Reference, Slo
from loadgen.slo.quantities import quantity
from loadgen.slo.verdict import Assessment, Interval, Policy, Ruling, Scale, Verdict

ENOUGH_FOR_A_MEAN = 30
_HOPELESS = 100_000_000  # more samples than this nobody will take


def assess(
    outcome: Outcome, slos: Iterable[Slo], *, confidence: float | None = None, inconclusive: Policy = "exit"
) -> Assessment:
    """Judge every SLO for everyone it speaks of. Raises ValueError for a confidence that is not within 0.5 and 1."""
    if confidence is not None and not 0.5 <= confidence < 1:
        raise ValueError(f"a confidence of {confidence:g} is not possible: give 0.5 to 0.9999, such as 0.95")
    measured = Measurements(outcome)
    verdicts = [
        _judge(measured, slo, scenario, version, confidence)
        for slo in slos
        for scenario, version in _parties(measured, slo)
    ]
    return Assessment(tuple(verdicts), outcome.faults, confidence, inconclusive, *_silence(outcome))


def _parties(measured: Measurements, slo: Slo) -> list[tuple[str, str]]:
    """Whom an SLO is about: (scenario, version)."""
    subject, other = slo.subject, slo.other
    scenarios = (subject.scenario,) if subject.scenario is not None else measured.scenarios() or ("",)
    found = []
    for scenario in scenarios:
        if subject.version is not None:
            # Where several scenarios ran, a version need not be in each.
            if len(scenarios) == 1 or measured.series(scenario, subject.version):
                found.append((scenario, subject.version))
        elif subject.figure.metric == "dropped":
            found.append((scenario, ALL))
        else:
            found += [(scenario, version) for version in measured.versions(scenario)]
    if other is not None and subject.version is None:  # nobody is compared with itself
        found = [
            (scenario, version)
            for scenario, version in found
            if (other.scenario or scenario, other.version, other.figure) != (scenario, version, subject.figure)
        ]
    return found or [(scenarios[0], subject.version or ALL)]


@dataclass(frozen=True, slots=True)
class _Case:
    """What is held against the limit: on a scale of its own where two figures are compared."""

    estimate: Estimate
    limit: float
    scale: Scale
    words: str
    needed: int | None  # samples, where there are too few


def _judge(measured: Measurements, slo: Slo, scenario: str, version: str, confidence: float | None) -> Verdict:
    sure = confidence or CONFIDENCE
    blank = Verdict(slo, scenario, version, "NO_DATA", scale=slo.subject.figure.dimension)
    subject = replace(slo.subject, scenario=scenario, version=version)
    own = measured.of(subject, sure)
    if own is None or not own.samples:
        return replace(blank, why=_nothing(measured, subject))
    if slo.other is None:
        case = _alone(slo, own, sure)
    else:
        other = replace(slo.other, scenario=slo.other.scenario or scenario, version=slo.other.version or version)
        theirs = measured.of(other, sure)
        if theirs is None or not theirs.samples:
            return replace(blank, samples=own.samples, why=_nothing(measured, other))
        case = _against(slo, own, theirs, other, sure)
    verdict = _verdict(blank, case, confidence, sure)
    succeeded = any(each.ok for each in measured.series(scenario, version))
    if slo.subject.figure.metric in DURATIONS and not succeeded and verdict.ruling != "FAIL":
        # Errors that come fast are no service.
        return replace(verdict, ruling="NO_DATA", needed=None, why=f"all {own.samples:,} requests failed; {case.words}")
    return verdict


def _alone(slo: Slo, own: Estimate, sure: float) -> _Case:
    figure = slo.subject.figure
    needs = _needs(slo, sure)
    exact = own.exact or (figure.stat == "share" and slo.constant in (0, 1))  # "not one" is a fact about this run
    if exact:
        own = replace(own, low=own.value, high=own.value, exact=True)
    words = f"{figure.name} is {quantity(own.value, figure.dimension)}"
    if own.hits is not None:
        words += f" ({own.hits:,} of {own.samples:,})"
    return _Case(own, slo.constant, figure.dimension, words, None if exact or own.samples >= needs else needs)


def _against(slo: Slo, own: Estimate, theirs: Estimate, other: Reference, sure: float) -> _Case:
    """A ratio where that is what is limited and both are above 0, and otherwise a difference."""
    dimension = slo.subject.figure.dimension
    needs = max(_needs(slo, sure), _needs(replace(slo, subject=other), sure))
    samples, exact = min(own.samples, theirs.samples), own.exact and theirs.exact
    needed = None if exact or samples >= needs else needs
    limit = slo.factor * theirs.value + slo.constant
    whose = f"{other.version}'s " if other.version != ALL else ""
    words = (
        f"{slo.subject.figure.name} is {quantity(own.value, dimension)}, {whose}{other.figure.name} "
        f"{quantity(theirs.value, dimension)}; the limit is {quantity(limit, dimension)}"
    )
    if not slo.constant and own.value > 0 and theirs.value > 0 and dimension != "share":
        low, high = intervals.ratio(own.bounded, theirs.bounded)
        ratio = own.value / theirs.value
        return _Case(Estimate(ratio, low, high, samples, exact), slo.factor, "ratio", words, needed)
    gap = own.value - slo.factor * theirs.value
    low, high = intervals.difference(own.bounded, theirs.bounded, slo.factor)
    return _Case(Estimate(gap, low, high, samples, exact), slo.constant, dimension, words, needed)


def _needs(slo: Slo, sure: float) -> int:
    """How many samples it takes until a verdict can be had at all."""
    figure = slo.subject.figure
    if figure.stat == "p":
        return intervals.percentile_needs(figure.percent, sure)
    if figure.stat in ("mean", "stddev"):
        return ENOUGH_FOR_A_MEAN
    if figure.stat == "share" and slo.other is None:
        return intervals.share_needs(min(slo.constant, 1 - slo.constant), sure)
    return ENOUGH_FOR_A_MEAN if figure.stat == "share" else 1


def _verdict(blank: Verdict, case: _Case, confidence: float | None, sure: float) -> Verdict:
    slo, own, limit = blank.slo, case.estimate, case.limit
    holds = slo.holds(own.value, limit)
    # A strict limit that an end of the interval only touches is neither kept nor broken by it.
    clear = {slo.holds(own.low, limit), slo.holds(own.high, limit)} == {holds}
    needed, ruling = case.needed, _ruling(holds)
    why = case.words
    if own.exact:
        pass
    elif needed is not None and not clear:
        ruling = "INCONCLUSIVE"
        why += f"; {own.samples:,} samples are too few to tell: it takes at least {needed:,}"
    elif not clear and confidence is not None:
        ruling, needed = "INCONCLUSIVE", _more(own, limit)
        why += f"; the limit lies inside the {sure:.4g} interval: " + (
            f"about {needed:,} samples would tell" if needed else "it is too close for any number of samples"
        )
    else:
        needed = None
        if not clear:
            why += "; the limit lies inside the interval, so another run may say otherwise"
    margin = (limit - own.value) if slo.upper else (own.value - limit)
    return replace(
        blank,
        ruling=ruling,
        value=own.value,
        limit=limit,
        margin=margin / abs(limit) if limit else margin,
        interval=None if own.exact else Interval(own.low, own.high, sure),
        scale=case.scale,
        samples=own.samples,
        needed=needed,
        why=why,
    )


def _ruling(holds: bool) -> Ruling:
    return "PASS" if holds else "FAIL"


def _more(own: Estimate, limit: float) -> int | None:
    """How many samples would move the interval off the limit: it shrinks with the square root of their number."""
    reach = (own.high if limit > own.value else own.low) - own.value
    gap = limit - own.value
    if not math.isfinite(reach) or abs(gap) < 1e-12:
        return None
    needed = own.samples * (reach / gap) ** 2
    if needed > _HOPELESS:
        return None
    step: int = 10 ** max(0, len(str(math.ceil(needed))) - 2)
    return max(own.samples + 1, math.ceil(needed / step) * step)


def _nothing(measured: Measurements, reference: Reference) -> str:
    """Why there are no data, as far as can be told."""
    scenario, version, metric = reference.scenario, reference.version, reference.figure.metric
    ran = measured.scenarios()
    if scenario and scenario not in ran:
        return f"no scenario {scenario!r} ran: there are {', '.join(ran) or 'none'}"
    answered = [each for each in measured.outcome.versions() if measured.series(scenario, each)]
    if version != ALL and version not in answered:
        return f"version {version!r} never answered: there are {', '.join(answered) or 'none'}"
    if not any(each.ended for each in measured.series(scenario, version)):
        return "not one request ended"
    extra = {
        "goodput": " (no goodput limits were given)",
        "ttft": " (no answer was a stream)",
        "itl": " (no answer was a stream)",
        "tpot": " (no answer was a stream)",
        "tokens": " (no answer was a stream)",
    }
    return f"{metric} was not measured{extra.get(metric, '')}"


def _silence(outcome: Outcome) -> tuple[str, bool]:
    """Why the run says nothing about how the target serves (empty where it does), and whether anything answered."""
    ended = sum(each.ended for each in outcome.series)
    if not ended:
        return "not one request ended", False
    if any(each.ok for each in outcome.series):
        return "", True
    if any(each.codes for each in outcome.series):
        return f"all {ended:,} requests failed", True
    return f"all {ended:,} requests failed without an answer", False

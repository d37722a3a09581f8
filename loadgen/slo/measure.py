"""What was measured: a figure of a version, out of an outcome, with its interval. Reads only."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from loadgen.histogram import Histogram
from loadgen.outcome import UNATTRIBUTED, UNKNOWN, Outcome, Sent, Series
from loadgen.slo import intervals
from loadgen.slo.figures import DURATIONS, Figure
from loadgen.slo.objective import ALL, Reference

CONFIDENCE = 0.95
NAMELESS = (UNKNOWN, UNATTRIBUTED)


@dataclass(frozen=True, slots=True)
class Estimate:
    """`exact`: it is a fact about this run (a count, a maximum), and `low` and `high` are the value itself.

    `hits` of `samples`, where it is a share.
    """

    value: float
    low: float
    high: float
    samples: int
    exact: bool = False
    hits: int | None = None

    @property
    def bounded(self) -> intervals.Bounded:
        return self.value, self.low, self.high


class Measurements:
    """An outcome that is asked many times: histograms are opened once."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self._histograms: dict[tuple[str | None, str | None, str], Histogram] = {}

    def scenarios(self) -> tuple[str, ...]:
        """In the order in which they are accounted for."""
        names = [each.scenario for each in self.outcome.accounts] + [each.scenario for each in self.outcome.series]
        return tuple(dict.fromkeys(names))

    def versions(self, scenario: str | None = None) -> tuple[str, ...]:
        """Those that an SLO without a version is judged for: all that answered, and ALL if some named no version."""
        answered = {each.version for each in self.series(scenario, None) if each.ended}
        named = tuple(name for name in self.outcome.versions() if name in answered and name not in NAMELESS)
        return named if named and not answered.intersection(NAMELESS) else (*named, ALL)

    def series(self, scenario: str | None, version: str | None) -> tuple[Series, ...]:
        return tuple(
            each
            for each in self.outcome.series
            if scenario in (None, each.scenario) and version in (None, ALL, each.version)
        )

    def duration(self, scenario: str | None) -> float:
        """Seconds over which rates are taken."""
        longest = max((each.duration for each in self._accounts(scenario)), default=0.0)
        return longest or self.outcome.duration

    def histogram(self, scenario: str | None, version: str | None, metric: str) -> Histogram:
        """Empty where nothing was recorded."""
        key = (scenario, version, metric)
        if key not in self._histograms:
            found = Histogram()
            for each in self.series(scenario, version):
                if metric in each.metrics:
                    found.add(each.metrics[metric].histogram())
            if metric == "lag" and not found.count and version in (None, ALL) and self.outcome.lag is not None:
                found.add(self.outcome.lag.histogram())
            self._histograms[key] = found
        return self._histograms[key]

    def of(self, reference: Reference, confidence: float = CONFIDENCE) -> Estimate | None:
        """None where nothing was measured."""
        figure, scenario, version = reference.figure, reference.scenario, reference.version
        if figure.metric in DURATIONS:
            return _duration(self.histogram(scenario, version, figure.metric), figure, confidence)
        if figure.metric == "dropped":
            return _dropped(self._accounts(scenario), figure, confidence)
        series = self.series(scenario, version)
        samples = sum(each.ended for each in series)
        if figure.metric == "samples" and figure.stat == "count":
            return _exact(samples, samples)
        if not samples:
            return None
        if figure.metric == "split":
            named = sum(each.ended for each in self.series(scenario, None) if each.version not in NAMELESS)
            return _share(samples, max(named, samples), confidence)
        hits = _hits(series, figure.metric)
        if hits is None:
            return None
        if figure.stat == "share":
            return _share(hits, samples, confidence)
        if figure.stat == "count":
            return _exact(hits, samples)
        duration = self.duration(scenario)
        return _exact(hits / duration, samples) if duration > 0 else None

    def _accounts(self, scenario: str | None) -> tuple[Sent, ...]:
        return tuple(each for each in self.outcome.accounts if scenario in (None, each.scenario))


def _hits(series: Iterable[Series], metric: str) -> int | None:
    """How many of the requests count for a metric; None where nobody counted."""
    match metric:
        case "errors":
            return sum(each.errors for each in series)
        case "timeouts":
            return sum(each.timed_out for each in series)
        case "samples":
            return sum(each.ended for each in series)
        case "throughput":
            return sum(each.ok for each in series)
        case "goodput":
            counted = [each.good for each in series if each.good is not None]
        case "tokens":
            counted = [each.tokens for each in series if each.tokens is not None]
        case _:
            raise ValueError(f"no series holds the metric {metric!r}")
    return sum(counted) if counted else None


def _exact(value: float, samples: int) -> Estimate:
    return Estimate(value, value, value, samples, exact=True)


def _share(hits: int, samples: int, confidence: float) -> Estimate:
    samples = max(hits, samples)  # counts of a worker that was lost half-way need not agree
    low, high = intervals.share(hits, samples, confidence)
    return Estimate(hits / samples, low, high, samples, hits=hits)


def _dropped(accounts: tuple[Sent, ...], figure: Figure, confidence: float) -> Estimate | None:
    asked, dropped = sum(each.asked for each in accounts), sum(each.dropped for each in accounts)
    if figure.stat == "count":
        return _exact(dropped, asked) if accounts else None
    return _share(dropped, asked, confidence) if asked or dropped else None


def _duration(histogram: Histogram, figure: Figure, confidence: float) -> Estimate | None:
    n = histogram.count
    if figure.stat == "count":
        return _exact(n, n)
    if not n:
        return None
    match figure.stat:
        case "p" if 0 < figure.percent < 100:
            low, high = intervals.order_ranks(n, figure.percent / 100, confidence)
            return Estimate(
                histogram.percentile(figure.percent),
                0.0 if low is None else histogram.at_rank(low),
                math.inf if high is None else histogram.at_rank(high),
                n,
            )
        case "mean":
            return Estimate(histogram.mean, *intervals.mean(histogram.mean, histogram.stddev, n, confidence), n)
        case "stddev":
            value = histogram.stddev
            return Estimate(value, *intervals.deviation(value, _fourth(histogram), n, confidence), n)
        case "min" | "p" if figure.stat == "min" or figure.percent == 0:
            return _exact(histogram.least, n)
        case _:
            return _exact(histogram.greatest, n)


def _fourth(histogram: Histogram) -> float:
    """The fourth central moment, from the buckets."""
    values, counts = (np.array(column, dtype=np.float64) for column in zip(*histogram.buckets(), strict=True))
    return float((counts * (values - histogram.mean) ** 4).sum() / histogram.count)

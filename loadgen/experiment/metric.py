"""Names of metrics, backend/metric[/aggregate], and what is known of one: values in the order in which they were seen.

A counter or gauge has one value a loop, and its last one counts. A sample or histogram has a distribution, of which
an aggregate is asked: grpc/latency/p95, http/latency-p97.5. Latencies are in milliseconds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from loadgen.histogram import Distribution
from router.hints import nearest

MetricType = Literal["Counter", "Gauge", "Histogram", "Sample"]

DISTRIBUTIONS = ("latency", "service", "connect", "lag", "queue", "ttft", "itl", "tpot")
"""What a load task measures as distributions."""

SCALARS = ("request-count", "error-count", "error-rate", "goodput", "tokens-per-second")
AGGREGATES = ("count", "mean", "stddev", "min", "max")

_NAME = re.compile(r"[\w.-]+(/[\w.-]+)+", re.ASCII)
_PERCENTILE = re.compile(r"p(\d+(?:\.\d+)?)")
_BUILT_IN = re.compile(r"(http|grpc)(-(?P<id>.+))?")


class MetricFault(ValueError):
    """A name that means nothing; with what to do."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint


@dataclass(frozen=True, slots=True)
class MetricInfo:
    """What a metric is, for people."""

    type: MetricType
    description: str = ""
    units: str = ""


@dataclass(frozen=True, slots=True)
class Observed:
    """What was seen of one metric of one version. `trusted` is empty, or says why the figures cannot be believed."""

    values: tuple[float, ...] = ()
    distribution: Distribution | None = None
    samples: int | None = None
    """How many requests the figure rests on, where that is known."""
    distrust: str = ""


@dataclass(frozen=True, slots=True)
class MetricName:
    """`base` is backend/metric; `aggregate` is one of AGGREGATES or p<X>, or empty."""

    base: str
    aggregate: str = ""

    @property
    def backend(self) -> str:
        return self.base.partition("/")[0]

    @property
    def percent(self) -> float | None:
        found = _PERCENTILE.fullmatch(self.aggregate)
        return float(found[1]) if found else None


@dataclass(frozen=True, slots=True)
class Reading:
    """A metric's value for one version, in the metric's units; None where there is none, and `why`."""

    value: float | None
    why: str = ""
    samples: int | None = None
    distrust: str = ""
    percent: float | None = None


def normal(name: str) -> str:
    """http/latency-p95.00 -> http/latency-p95. Raises MetricFault."""
    if not _NAME.fullmatch(name):
        raise MetricFault(f"{name!r} is not the name of a metric", "metrics are called a/b or a/b/c")
    head, _, last = name.rpartition("/")
    stem, dash, aggregate = last.rpartition("-")
    if dash and _is_percentile(aggregate):
        return f"{head}/{stem}-{_percentile(aggregate)}"
    return f"{head}/{_percentile(last)}" if _is_percentile(last) else name


def parse(name: str) -> MetricName:
    """The parts of a name, whichever way its aggregate is written. Raises MetricFault."""
    name = normal(name)
    head, _, last = name.rpartition("/")
    if "/" in head and (last in AGGREGATES or _is_percentile(last)):
        return MetricName(head, last)
    stem, dash, aggregate = last.rpartition("-")
    if dash and stem in DISTRIBUTIONS and (aggregate in AGGREGATES or _is_percentile(aggregate)):
        return MetricName(f"{head}/{stem}", aggregate)
    return MetricName(name)


def built_in(name: str) -> tuple[str, str] | None:
    """("http" or "grpc", endpoint or "") of a metric of a load task. Raises MetricFault where it has no such metric."""
    parsed = parse(name)
    found = _BUILT_IN.fullmatch(parsed.backend)
    if found is None:
        return None
    metric = parsed.base.partition("/")[2]
    if metric in SCALARS and not parsed.aggregate:
        return found[1], found["id"] or ""
    if metric in DISTRIBUTIONS and parsed.aggregate:
        return found[1], found["id"] or ""
    if metric in DISTRIBUTIONS:
        hint = f"ask for one of its figures: {metric}-mean, {metric}-p99"
        raise MetricFault(f"{name} is a distribution, not a number", hint)
    known = [*SCALARS, *(f"{one}-{each}" for one in DISTRIBUTIONS for each in (*AGGREGATES, "p99"))]
    near = nearest(parsed.base.partition("/")[2] + (f"-{parsed.aggregate}" if parsed.aggregate else ""), known)
    hint = f"did you mean '{parsed.backend}/{near}'?" if near else f"known: {', '.join(SCALARS)}, latency-p99, ..."
    raise MetricFault(f"metric {name!r} is not known", hint)


def read(name: str, known: Mapping[str, Observed]) -> Reading:
    """The value of a metric among what was observed of one version. Raises MetricFault for a name that is none."""
    name = normal(name)
    if (seen := known.get(name)) is not None and seen.values:
        percent = parse(name).percent
        return Reading(seen.values[-1], samples=seen.samples, distrust=seen.distrust, percent=percent)
    parsed = parse(name)
    seen = known.get(parsed.base)
    if seen is None or not parsed.aggregate:
        return Reading(None, "it was not measured")
    value = aggregate(seen, parsed)
    if value is None:
        return Reading(None, "there are no values", distrust=seen.distrust)
    samples = seen.samples if seen.samples is not None else _count(seen)
    return Reading(value, samples=samples, distrust=seen.distrust, percent=parsed.percent)


def aggregate(seen: Observed, name: MetricName) -> float | None:
    """Of a distribution in milliseconds, or of the values that were seen. The deviation is that of the population."""
    if name.aggregate == "count":
        return float(_count(seen))
    if not _count(seen):
        return None
    if seen.distribution is not None:
        return _of_distribution(seen.distribution, name)
    values = sorted(seen.values)
    mean = math.fsum(values) / len(values)
    match name.aggregate:
        case "mean":
            return mean
        case "stddev":
            return math.sqrt(math.fsum((each - mean) ** 2 for each in values) / len(values))
        case "min":
            return values[0]
        case "max":
            return values[-1]
    percent = name.percent
    assert percent is not None
    return _percentile_of(values, percent)


def _percentile_of(values: list[float], percent: float) -> float:
    """Of sorted values, by the rule of Iter8's library: between two ranks it is the mean of their values."""
    rank = percent / 100 * len(values)
    if rank <= 1:
        return values[0]
    whole = int(rank)
    return values[whole - 1] if whole == rank else (values[whole - 1] + values[whole]) / 2


def _of_distribution(kept: Distribution, name: MetricName) -> float:
    histogram = kept.histogram()
    match name.aggregate:
        case "mean":
            value = histogram.mean
        case "stddev":
            value = histogram.stddev
        case "min":
            value = histogram.least
        case "max":
            value = histogram.greatest
        case _:
            percent = name.percent
            assert percent is not None
            value = histogram.percentile(percent)
    return value * 1000


def _count(seen: Observed) -> int:
    return seen.distribution.count if seen.distribution is not None else len(seen.values)


def _is_percentile(text: str) -> bool:
    return _PERCENTILE.fullmatch(text) is not None


def _percentile(text: str) -> str:
    percent = float(text[1:])
    if not 0 < percent <= 100:
        raise MetricFault(f"there is no percentile {percent:g}", "give more than 0 and at most 100")
    return f"p{percent:g}"


@dataclass(frozen=True, slots=True)
class Measured:
    """What a task adds to the insights: for each version that it saw, what it observed."""

    info: Mapping[str, MetricInfo] = field(default_factory=dict)
    by_version: Mapping[str, Mapping[str, Observed]] = field(default_factory=dict)

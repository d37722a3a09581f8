"""Which charts a run has: its facts in, charts out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from loadgen.histogram import Histogram
from loadgen.outcome import Second, Series
from loadgen.report import axes
from loadgen.report.charts import Chart, Limit, Line
from loadgen.report.contents import Report
from loadgen.report.facts import Group, Row, label
from loadgen.slo.figures import Figure
from loadgen.slo.measure import NAMELESS
from loadgen.slo.quantities import digits, duration

COLOURS = 8  # versions that are drawn; the busiest, where there are more
_CURVE = 160  # points of a percentile curve
_SECONDS = 240  # points over time: longer runs are taken together by several seconds
_BINS = 72


def drawn(group: Group) -> tuple[Row, ...]:
    """The versions that charts show, in their order."""
    busiest = sorted((row for row in group.rows if row.ended), key=lambda row: (row.version in NAMELESS, -row.ended))
    kept = {row.version for row in busiest[:COLOURS]}
    return tuple(row for row in group.rows if row.version in kept)


def charts(report: Report, group: Group, detail: float = 1.0) -> tuple[Chart, ...]:
    """Those of a scenario that have anything to show; `detail` below 1 draws fewer points."""
    rows = drawn(group)
    if not rows:
        return ()
    found = [_percentiles(report, rows, group.name, detail), _spread(rows)]
    series = {each.version: each for each in group.series}
    over_time = [(place, series[row.version]) for place, row in enumerate(rows) if series[row.version].timeline]
    if over_time:
        found += _over_time(over_time, group, detail)
    if any(row.streams for row in rows):
        found += [
            _stream(rows, "ttft", "Time to first token", detail),
            _stream(rows, "itl", "Time between tokens", detail),
        ]
    return tuple(chart for chart in found if any(line.points for line in chart.lines))


def _percentiles(report: Report, rows: Sequence[Row], scenario: str, detail: float) -> Chart:
    most = min(99.99, 100 * (1 - 1 / max(2, max(row.histograms["latency"].count for row in rows))))
    lines = []
    for place, row in enumerate(rows):
        for metric, dashed in (("latency", False), ("service", True)):
            curve = _curve(row.histograms[metric], most, detail)
            tips = [f"{metric} p{percent:.5g}: {duration(value)}" for percent, value in curve]
            points = [(axes.rarity(percent), value) for percent, value in curve]
            lines.append(Line(row.label, points, place, dashed=dashed, tips=tips))
    limits = _limits(report, scenario, "latency")
    values = [value for line in lines for _, value in line.points] + [each.value for each in limits]
    return Chart(
        "Latency by percentile",
        axes.percentiles(most),
        axes.for_durations(values, duration),
        lines,
        "percentile (each step to the right is ten times rarer)",
        "latency",
        "Solid: latency from the intended start. Dashed: service time from the real start. " + _told(rows, "latency"),
        limits,
        wide=True,
    )


def _limits(report: Report, scenario: str, metric: str) -> list[Limit]:
    """Fixed limits of a metric's percentiles, each once."""
    found: dict[str, Limit] = {}
    for verdict in report.assessment.verdicts:
        slo = verdict.slo
        subject = slo.subject.figure
        if slo.other is None and verdict.scenario == scenario and subject.metric == metric and subject.stat == "p":
            found.setdefault(slo.text, Limit(slo.constant, _limit_words(subject, slo.constant)))
    return list(found.values())[:3]


def _limit_words(figure: Figure, value: float) -> str:
    return f"p{figure.percent:g} limit {duration(value)}"


def _curve(histogram: Histogram, most: float, detail: float) -> list[tuple[float, float]]:
    """(percent, value), dense where percentiles are rare, as far as there is a sample for each."""
    if not histogram.count:
        return []
    reach = min(most, 100 * (1 - 1 / histogram.count)) if histogram.count > 1 else 0.0
    rarities = np.geomspace(1.0, axes.rarity(reach), round(_CURVE * detail) if reach else 1)
    percents = [100 * (1 - 1 / float(each)) for each in rarities]
    return list(zip(percents, histogram.percentiles(*percents), strict=True))


def _spread(rows: Sequence[Row]) -> Chart:
    """How latencies spread: the share of a version's requests in each of many bins of equal ratio."""
    histograms = [row.histograms["latency"] if row.ok else Histogram() for row in rows]
    filled = [each for each in histograms if each.count]
    least = max(min((each.percentile(0.1) for each in filled), default=1e-3), 1e-6)
    most = max((each.percentile(99.9) for each in filled), default=1.0)
    greatest = max((each.count for each in filled), default=0)
    bins = round(min(_BINS, max(16, 3 * greatest ** (1 / 3))))  # few samples in many bins are but noise
    edges = np.geomspace(least * 0.9, max(most, least * 1.5) * 1.1, bins + 1)
    lines = []
    for place, (row, histogram) in enumerate(zip(rows, histograms, strict=True)):
        if not histogram.count:
            continue
        values, counts = (np.array(column) for column in zip(*histogram.buckets(), strict=True))
        heights = np.histogram(np.clip(values, edges[0], edges[-1]), bins=edges, weights=counts)[0] / histogram.count
        middles = [math.sqrt(start * end) for start, end in pairwise(edges.tolist())]
        points = [(edges[0], 0.0), *zip(middles, heights.tolist(), strict=True), (edges[-1], 0.0)]
        tips = [f"around {duration(at)}: {digits(height * 100)} %" for at, height in points]
        lines.append(Line(row.label, points, place, filled=True, tips=tips))
    highest = max((height for line in lines for _, height in line.points), default=1.0)
    return Chart(
        "How latencies spread",
        axes.logarithmic(float(edges[0]), float(edges[-1]), duration),
        axes.linear(highest, lambda value: f"{digits(value * 100)} %"),
        lines,
        "latency (logarithmic)",
        "share of requests",
        "The share of each version's requests by latency, in bins of equal ratio; of versions that succeeded at all.",
    )


def _over_time(series: Sequence[tuple[int, Series]], group: Group, detail: float) -> list[Chart]:
    length = 1 + max(second.at for _, each in series for second in each.timeline)
    step = max(1, math.ceil(length / (_SECONDS * detail)))
    across = axes.linear(max(length - 1, 1), lambda value: f"{value:g} s", about=6)

    def lines(
        of: Callable[[list[Second]], float], words: Callable[[float], str], what: str = "", dashed: bool = False
    ) -> list[Line]:
        found = []
        for place, each in series:
            bins: dict[int, list[Second]] = {}
            for second in each.timeline:
                bins.setdefault(second.at // step * step, []).append(second)
            points = [(float(at), of(bins.get(at, []))) for at in range(0, length, step)]
            tips = [f"{what}at {at:g} s: {words(value)}" for at, value in points]
            found.append(Line(label(each.version), points, place, dashed=dashed, tips=tips))
        return found

    def chart(title: str, made: list[Line], up: axes.Axis, up_title: str, words: str) -> Chart:
        return Chart(title, across, up, made, "seconds since the start", up_title, words)

    p50 = lines(lambda seconds: _worst(second.p50 for second in seconds), duration, "p50 ", dashed=True)
    p99 = lines(lambda seconds: _worst(second.p99 for second in seconds), duration, "p99 ")
    ended = lines(lambda seconds: sum(second.ended for second in seconds) / step, lambda value: f"{digits(value)}/s")
    if group.account is not None and group.account.duration >= step:  # what ends later is no throughput, it is a rest
        ended = [_until(group.account.duration - step, line) for line in ended]
    failed = lines(lambda seconds: sum(second.failed for second in seconds) / step, lambda value: f"{digits(value)}/s")
    together = "" if step == 1 else f" Each point is {step} s; of their percentiles the highest."
    times = [value for line in (*p50, *p99) for _, value in line.points]
    return [
        chart(
            "Latency over time",
            [*p99, *p50],
            axes.for_durations(times, duration),
            "latency",
            f"Solid: the 99th percentile of each second. Dashed: the median.{together}",
        ),
        chart("Throughput over time", ended, _rates(ended), "requests/s", "Requests that ended, per second."),
        chart("Errors over time", failed, _rates(failed), "errors/s", "Requests that failed, per second."),
    ]


def _until(last: float, line: Line) -> Line:
    kept = sum(at <= last for at, _ in line.points)
    return replace(line, points=line.points[:kept], tips=line.tips[:kept])


def _stream(rows: Sequence[Row], metric: str, title: str, detail: float) -> Chart:
    most = min(99.99, 100 * (1 - 1 / max(2, max(row.histograms[metric].count for row in rows))))
    lines = []
    for place, row in enumerate(rows):
        curve = _curve(row.histograms[metric], most, detail)
        tips = [f"{metric} p{percent:.5g}: {duration(value)}" for percent, value in curve]
        lines.append(Line(row.label, [(axes.rarity(percent), value) for percent, value in curve], place, tips=tips))
    values = [value for line in lines for _, value in line.points]
    return Chart(
        title,
        axes.percentiles(most),
        axes.for_durations(values, duration),
        lines,
        "percentile",
        metric,
        f"{title} by percentile. " + _told(rows, metric),
    )


def _told(rows: Iterable[Row], metric: str) -> str:
    """The curve's main points in words."""
    found = []
    for row in rows:
        if row.histograms[metric].count:
            p50, p99 = row.histograms[metric].percentiles(50, 99)
            found.append(f"{row.label}: p50 {duration(p50)}, p99 {duration(p99)}.")
    return " ".join(found)


def _worst(values: Iterable[float | None]) -> float:
    return max((value for value in values if value is not None), default=math.nan)


def _rates(lines: Iterable[Line]) -> axes.Axis:
    return axes.linear(max((value for line in lines for _, value in line.points), default=0.0), digits)

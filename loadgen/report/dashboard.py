"""The JSON that Iter8's Grafana boards read: /httpDashboard and /grpcDashboard, from outcomes.

Times are milliseconds, as there. Iter8 numbers versions; here they have their names, and "0" where none was named.
Durations hold failed requests too; their own distribution is not kept apart, so that "Error durations" is empty.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import numpy as np

from loadgen.histogram import Histogram
from loadgen.outcome import Outcome, Series
from loadgen.slo.measure import NAMELESS

_BUCKETS = 20


def http_dashboard(outcomes: Mapping[str, Outcome], result: Mapping[str, Any]) -> dict[str, Any]:
    """`outcomes` by endpoint (its URL where there is one, otherwise its id); `result` as Iter8 keeps it:
    name, namespace, revision, startTime, numCompletedTasks, failure, iter8Version."""
    return {
        "Endpoints": {name: _http(outcome) for name, outcome in outcomes.items()},
        "ExperimentResult": _result(result),
    }


def grpc_dashboard(outcomes: Mapping[str, Outcome], result: Mapping[str, Any]) -> dict[str, Any]:
    """Like http_dashboard; endpoints are methods."""
    return {
        "Endpoints": {name: _grpc(outcome) for name, outcome in outcomes.items()},
        "ExperimentResult": _result(result),
    }


def _http(outcome: Outcome) -> dict[str, Any]:
    histogram, errors = _together(outcome.series), sum(each.errors for each in outcome.series)
    return {
        "Durations": [
            {"Version": version, "Bucket": f"{_short(start)} - {_short(end)}", "Value": count}
            for version, start, end, count in _buckets(outcome.series)
        ],
        "Statistics": {
            "Count": histogram.count,
            "Mean": _ms(histogram.mean),
            "StdDev": _ms(histogram.stddev),
            "Min": _ms(histogram.least),
            "Max": _ms(histogram.greatest),
        },
        "Error durations": [],
        "Error statistics": {"Count": errors, "Mean": 0, "StdDev": 0, "Min": 0, "Max": 0},
        "Return codes": _codes(outcome.series),
    }


def _grpc(outcome: Outcome) -> dict[str, Any]:
    return {
        "Durations": [
            {"Version": version, "Bucket": f"{math.floor(end * 1000) / 1000:g}", "Value": count}
            for version, _, end, count in _buckets(outcome.series)
        ],
        "Statistics": {
            "Count": sum(each.ended for each in outcome.series),
            "ErrorCount": sum(each.errors for each in outcome.series),
        },
        "Status codes": _codes(outcome.series),
    }


def _buckets(series: Iterable[Series]) -> list[tuple[str, float, float, int]]:
    """(version, start, end, how many) in ms, over buckets that all versions share so that they can be laid together."""
    recorded = [(each.version, each.metrics["latency"].histogram()) for each in series if "latency" in each.metrics]
    recorded = [(version, histogram) for version, histogram in recorded if histogram.count]
    if not recorded:
        return []
    least = max(_ms(min(histogram.least for _, histogram in recorded)), 0.001)
    most = _ms(max(histogram.greatest for _, histogram in recorded))
    edges = np.geomspace(least, max(most, least * 1.001), _BUCKETS + 1)
    found = []
    for version, histogram in recorded:
        values, counts = (np.array(column) for column in zip(*histogram.buckets(), strict=True))
        heights = np.histogram(np.clip(values * 1000, edges[0], edges[-1]), bins=edges, weights=counts)[0]
        name = "0" if version in NAMELESS else version
        for (start, end), height in zip(pairwise(edges.tolist()), heights.tolist(), strict=True):
            if height:
                found.append((name, start, end, round(height)))
    return found


def _together(series: Iterable[Series]) -> Histogram:
    found = Histogram()
    for each in series:
        if "latency" in each.metrics:
            found.add(each.metrics["latency"].histogram())
    return found


def _codes(series: Iterable[Series]) -> dict[str, int]:
    """What was answered, with -1 (as fortio has it) for requests that got no answer at all."""
    found: dict[str, int] = {}
    for each in series:
        for code, count in each.codes.items():
            found[code] = found.get(code, 0) + count
        if silent := each.ended - sum(each.codes.values()):
            found["-1"] = found.get("-1", 0) + silent
    return dict(sorted(found.items()))


def _result(result: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "Name": result.get("name", ""),
        "Namespace": result.get("namespace", ""),
        "Revision": result.get("revision", 0),
        "Start time": _started(result.get("startTime")),
        "Completed tasks": result.get("numCompletedTasks", 0),
        "Failure": result.get("failure", False),
        "Insights": None,
        "Iter8 version": result.get("iter8Version", ""),
    }


def _started(value: object) -> str:
    """Iter8 shows "29 Nov 26 23:00 UTC"; given are RFC 3339, Unix seconds, or nothing."""
    match value:
        case str() if value:
            moment = datetime.fromisoformat(value)
        case int() | float():
            moment = datetime.fromtimestamp(value, UTC)
        case datetime():
            moment = value
        case _:
            return ""
    moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    return moment.strftime("%d %b %y %H:%M UTC")


def _ms(seconds: float) -> float:
    return seconds * 1000 if math.isfinite(seconds) else 0.0


def _short(value: float) -> str:
    """One digit after the point, as Iter8 rounds down; more where a bucket lies below 1 ms."""
    digits = 1 if value >= 1 else 4
    return f"{math.floor(value * 10**digits) / 10**digits:g}"

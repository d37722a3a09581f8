"""The figures that an SLO can speak of: `latency-p99`, `error-rate`, ...; which there are and what they measure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

Dimension = Literal["time", "share", "per second", "count"]

# Durations of requests and streams; loadgen/outcome.py says what each one is.
DURATIONS = ("latency", "service", "connect", "queue", "lag", "ttft", "itl", "tpot")
_STATS = ("mean", "min", "max", "stddev", "count")

# name: (metric, statistic, dimension). What is not a duration is one figure, under all the names that people know.
SINGLE: dict[str, tuple[str, str, Dimension]] = {
    "error-rate": ("errors", "share", "share"),
    "error-count": ("errors", "count", "count"),
    "timeout-rate": ("timeouts", "share", "share"),
    "timeout-count": ("timeouts", "count", "count"),
    "samples": ("samples", "count", "count"),
    "request-rate": ("samples", "rate", "per second"),
    "throughput": ("throughput", "rate", "per second"),
    "goodput": ("goodput", "share", "share"),
    "goodput-per-second": ("goodput", "rate", "per second"),
    "dropped": ("dropped", "count", "count"),
    "drop-rate": ("dropped", "share", "share"),
    "tokens": ("tokens", "count", "count"),
    "tokens-per-second": ("tokens", "rate", "per second"),
    "split": ("split", "share", "share"),
}
_ALIASES = {
    "errors-rate": "error-rate",
    "errors-count": "error-count",
    "errors": "error-count",
    "timeouts": "timeout-count",
    "timeouts-rate": "timeout-rate",
    "timeouts-count": "timeout-count",
    "request-count": "samples",
    "requests": "samples",
    "samples-count": "samples",
    "requests-rate": "request-rate",
    "throughput-rate": "throughput",
    "goodput-rate": "goodput",
    "goodput-share": "goodput",
    "dropped-count": "dropped",
    "dropped-rate": "drop-rate",
    "tokens-count": "tokens",
    "tokens-rate": "tokens-per-second",
    "e2e": "latency",
}


@dataclass(frozen=True, slots=True, order=True)
class Figure:
    """One number of a version: `stat` of `metric`. A percentile has the stat "p" and its `percent`."""

    metric: str
    stat: str
    percent: float = 0.0
    dimension: Dimension = "time"

    @property
    def name(self) -> str:
        """As it is written in an SLO and in reports."""
        if self.stat == "p":
            return f"{self.metric}-p{self.percent:g}"
        for name, (metric, stat, _) in SINGLE.items():
            if (metric, stat) == (self.metric, self.stat):
                return name
        return f"{self.metric}-{self.stat}"

    @property
    def good_is_low(self) -> bool:
        """Whether less of it is better."""
        return self.metric not in ("samples", "throughput", "goodput", "tokens", "split")


def percentile(metric: str, percent: float) -> Figure:
    return Figure(metric, "p", percent)


@dataclass(frozen=True, slots=True)
class Unknown:
    """Why a name is no figure, and what may have been meant."""

    what: str
    hint: str


def figure(name: str) -> Figure | Unknown:
    """The figure of a name: its parts are joined by `-`, `.` or `/`."""
    tidy = re.sub(r"[./](?=[a-z])", "-", name.strip().lower())
    tidy = _ALIASES.get(tidy, tidy)
    if tidy.startswith("e2e-"):
        tidy = "latency-" + tidy[4:]
    if tidy in SINGLE:
        metric, stat, dimension = SINGLE[tidy]
        return Figure(metric, stat, dimension=dimension)
    metric, _, stat = tidy.partition("-")
    if metric not in DURATIONS:
        return Unknown(f"there is no metric {name!r}", _near(tidy))
    if not stat:
        return Unknown(f"{metric} is no number yet", f"say which one: {metric}-p99, {metric}-mean, {metric}-max")
    if stat in _STATS:
        return Figure(metric, stat, dimension="count" if stat == "count" else "time")
    if written := re.fullmatch(r"p(\d+(?:\.\d+)?)", stat):
        percent = float(written[1])
        if percent > 100:
            return Unknown(f"there is no percentile {written[1]}", "give 0 to 100, such as p99.9")
        return percentile(metric, percent)
    near = get_close_matches(stat, (*_STATS, "p50", "p95", "p99"), n=1, cutoff=0.5)
    meant = f"did you mean {metric}-{near[0]}?" if near else "there are p50, p99.9 (any), " + ", ".join(_STATS)
    return Unknown(f"{metric} has no {stat!r}", meant)


def _near(name: str) -> str:
    """What may have been meant."""
    metric, _, stat = name.partition("-")
    if re.fullmatch(r"p\d+(\.\d+)?|mean|max", name):  # as other tools write it
        near = [f"latency-{name}"]
    elif stat and (close := get_close_matches(metric, DURATIONS, n=1, cutoff=0.6)):
        near = [f"{close[0]}-{stat}"]
    else:
        near = get_close_matches(name, (*SINGLE, *_ALIASES, *DURATIONS), n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    return "there are " + ", ".join((*(f"{each}-p99" for each in DURATIONS), *SINGLE))

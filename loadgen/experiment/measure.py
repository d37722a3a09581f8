"""From the outcome of a load to metrics by Iter8's names: http/error-rate, http-ENDPOINT/latency-p99, grpc/latency.

Where no answer names a version everything belongs to one version without a name, as in Iter8. Otherwise each name is a
version, and what could not be attributed is one of its own, so that its errors do not flatter anybody.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from loadgen.experiment.metric import DISTRIBUTIONS, Measured, MetricInfo, Observed
from loadgen.histogram import Distribution, Histogram
from loadgen.outcome import UNATTRIBUTED, UNKNOWN, Outcome, Series

ALWAYS = (50.0, 75.0, 90.0, 95.0, 99.0, 99.9)
"""Percentiles that Iter8 always reports."""

_WORDS = {
    "latency": "from the intended start of a request",
    "service": "from the real start of a request",
    "connect": "to open a connection",
    "lag": "that the generator itself was late",
    "queue": "that a request waited for a connection",
    "ttft": "to the first token",
    "itl": "between two tokens",
    "tpot": "per output token",
}


def measured(
    task: Literal["http", "grpc"], outcome: Outcome, endpoints: Mapping[str, str], percentiles: Iterable[float]
) -> Measured:
    """`endpoints` gives the id of each scenario, "" for the only one."""
    info: dict[str, MetricInfo] = {}
    by_version: dict[str, dict[str, Observed]] = {}
    distrust = "; ".join(fault.what for fault in outcome.faults)
    wanted = sorted({*ALWAYS, *percentiles})
    for version, scenario, series in _by_version(outcome):
        endpoint = endpoints.get(scenario, "")
        prefix = f"{task}-{endpoint}" if endpoint else task
        account = next((one for one in outcome.accounts if one.scenario == scenario), None)
        seconds = account.duration if account is not None and account.duration else outcome.duration
        place = by_version.setdefault(version, {})
        _counts(prefix, series, seconds, distrust, info, place)
        for name in DISTRIBUTIONS:
            if (kept := _together(series, name)) is not None:
                _distribution(task, prefix, name, kept, wanted, distrust, info, place)
    return Measured(info, by_version)


def unnamed(outcome: Outcome) -> bool:
    """Whether no answer told which version it came from."""
    return all(one.version in (UNKNOWN, UNATTRIBUTED) for one in outcome.series)


def _by_version(outcome: Outcome) -> list[tuple[str, str, list[Series]]]:
    one_for_all = unnamed(outcome)
    found: dict[tuple[str, str], list[Series]] = {}
    for series in outcome.series:
        version = "" if one_for_all else series.version
        found.setdefault((version, series.scenario), []).append(series)
    return [(version, scenario, series) for (version, scenario), series in sorted(found.items())]


def _counts(
    prefix: str,
    series: list[Series],
    seconds: float,
    distrust: str,
    info: dict[str, MetricInfo],
    place: dict[str, Observed],
) -> None:
    ended = sum(one.ended for one in series)
    errors = sum(one.errors for one in series)

    def add(name: str, value: float, meta: MetricInfo) -> None:
        info[f"{prefix}/{name}"] = meta
        place[f"{prefix}/{name}"] = Observed((value,), samples=ended, distrust=distrust)

    add("request-count", float(ended), MetricInfo("Counter", "number of requests"))
    add("error-count", float(errors), MetricInfo("Counter", "number of responses that were errors"))
    add("error-rate", errors / ended if ended else 0.0, MetricInfo("Gauge", "fraction of responses that were errors"))
    good = [one.good for one in series if one.good is not None]
    if good:
        add("goodput", sum(good) / ended if ended else 0.0, MetricInfo("Gauge", "fraction of good responses"))
    tokens = [one.tokens for one in series if one.tokens is not None]
    if tokens and seconds:
        add("tokens-per-second", sum(tokens) / seconds, MetricInfo("Gauge", "output tokens per second", "1/s"))


def _distribution(
    task: str,
    prefix: str,
    name: str,
    kept: Distribution,
    percentiles: list[float],
    distrust: str,
    info: dict[str, MetricInfo],
    place: dict[str, Observed],
) -> None:
    words = f"time {_WORDS[name]}"
    # ghz tells all durations, a sample; fortio tells a histogram and its figures.
    info[f"{prefix}/{name}"] = MetricInfo("Sample" if task == "grpc" else "Histogram", words, "msec")
    place[f"{prefix}/{name}"] = Observed(distribution=kept, samples=kept.count, distrust=distrust)
    if task == "grpc" or not kept.count or name not in ("latency", "ttft", "tpot"):
        return
    histogram = kept.histogram()
    figures = {
        "mean": ("mean of the", histogram.mean),
        "stddev": ("standard deviation of the", histogram.stddev),
        "min": ("minimum of the", histogram.least),
        "max": ("maximum of the", histogram.greatest),
    } | {f"p{each:g}": (f"{each:g}-th percentile of the", histogram.percentile(each)) for each in percentiles}
    for aggregate, (word, value) in figures.items():
        info[f"{prefix}/{name}-{aggregate}"] = MetricInfo("Gauge", f"{word} {words}", "msec")
        place[f"{prefix}/{name}-{aggregate}"] = Observed((value * 1000,), samples=kept.count, distrust=distrust)


def _together(series: list[Series], name: str) -> Distribution | None:
    kept = [one.metrics[name] for one in series if name in one.metrics]
    if len(kept) < 2:
        return kept[0] if kept else None
    made = Histogram()
    for one in kept:
        made.add(Histogram.of(one))
    return made.rest()

"""An experiment by the names that Iter8 uses: for `if` expressions, templates of notifications, and dashboards."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from loadgen.experiment.metric import Observed
from loadgen.experiment.result import Insights, Result
from loadgen.experiment.spec import Experiment


def summary(experiment: Experiment, result: Result, now: float) -> dict[str, Any]:
    """`.Summary` of Iter8's templates."""
    return {
        "timeStamp": _time(now),
        "completed": result.completed(),
        "noTaskFailures": result.no_failure(),
        "numTasks": len(result.spec),
        "numCompletedTasks": result.completed_tasks,
        "numLoops": result.loops,
        "slosSatisfied": result.slos_hold(),
        "experiment": {"metadata": {"name": experiment.name, "namespace": experiment.namespace}},
    }


def document(experiment: Experiment, result: Result) -> dict[str, Any]:
    """metadata, spec and result."""
    return {
        "metadata": {"name": experiment.name, "namespace": experiment.namespace},
        "spec": [dict(one) for one in result.spec],
        "result": outcome(result),
    }


def outcome(result: Result) -> dict[str, Any]:
    """Iter8's ExperimentResult."""
    return {
        "name": result.name,
        "namespace": result.namespace,
        "revision": result.revision,
        "startTime": _time(result.started),
        "numLoops": result.loops,
        "numCompletedTasks": result.completed_tasks,
        "failure": result.failure,
        "insights": _insights(result.insights) if result.insights.versions else None,
        "iter8Version": result.version,
    }


def _insights(insights: Insights) -> dict[str, Any]:
    def matrix(upper: bool) -> list[list[bool]]:
        return [[each.state == "pass" for each in one.verdicts] for one in insights.slos if one.upper == upper]

    def limits(upper: bool) -> list[dict[str, Any]]:
        return [{"metric": one.metric, "limit": one.limit} for one in insights.slos if one.upper == upper]

    def winners(higher: bool) -> list[int]:
        found = [one.winner for one in insights.rewards if one.higher_is_better == higher]
        return [-1 if each is None else each for each in found]

    return {
        "numVersions": len(insights.versions),
        "versionNames": [{"version": one, "track": insights.tracks.get(one, "")} for one in insights.versions],
        "metricsInfo": {
            name: {"description": one.description, "units": one.units, "type": one.type}
            for name, one in insights.info.items()
        },
        "nonHistMetricValues": [
            {name: list(seen.values) for name, seen in known.items() if seen.values} for known in insights.observed
        ],
        "histMetricValues": [_histograms(known) for known in insights.observed],
        "SLOs": {"upper": limits(True), "lower": limits(False)},
        "SLOsSatisfied": {"upper": matrix(True), "lower": matrix(False)},
        "rewards": {
            "max": [one.metric for one in insights.rewards if one.higher_is_better],
            "min": [one.metric for one in insights.rewards if not one.higher_is_better],
        },
        "rewardsWinners": {"max": winners(True), "min": winners(False)},
        "rules": [dict(one) for one in insights.rules],
        "comparisons": [dict(one) for one in insights.comparisons],
    }


def _histograms(known: Mapping[str, Observed]) -> dict[str, list[dict[str, float]]]:
    """As lower and upper ends in milliseconds with counts; the ends are those of neighbouring buckets."""
    found = {}
    for name, seen in known.items():
        if seen.distribution is None or not name.endswith("/latency"):
            continue
        buckets = seen.distribution.histogram().buckets()
        lower, rows = 0.0, []
        for upper, count in buckets:
            rows.append({"lower": lower, "upper": upper * 1000, "count": count})
            lower = upper * 1000
        found[name] = rows
    return found


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def own_version() -> str:
    try:
        return version("headgate")
    except PackageNotFoundError:  # run from a tree that is not installed
        return "unknown"

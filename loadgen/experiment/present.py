"""An experiment's result as a report, in Iter8's sections."""

from __future__ import annotations

from collections.abc import Iterator

from loadgen.experiment.metric import MetricFault, read
from loadgen.experiment.result import Insights, LoadRun, Result
from loadgen.report.contents import Report
from loadgen.report.experiment import Condition, ExperimentReport, Metric
from loadgen.slo.judge import assess
from loadgen.slo.language import parse_all


def report(result: Result) -> ExperimentReport:
    insights = result.insights
    return ExperimentReport(
        name=result.name,
        namespace=result.namespace,
        completed=result.completed(),
        failed=result.failure,
        tasks=len(result.spec),
        completed_tasks=result.completed_tasks,
        loops=result.loops,
        versions=insights.labels(),
        conditions=tuple(_conditions(insights)),
        metrics=tuple(_metrics(insights)),
        runs=tuple(_run(one, result) for one in insights.loads),
        notes=tuple(_notes(result)),
    )


def _conditions(insights: Insights) -> Iterator[Condition]:
    for slo in insights.slos:
        info = insights.info.get(slo.metric) or insights.info.get(slo.metric.rpartition("/")[0])
        yield Condition(
            metric=slo.metric,
            satisfied=tuple(one.state == "pass" for one in slo.verdicts),
            states=tuple(one.state for one in slo.verdicts),
            upper=slo.limit if slo.upper else None,
            lower=None if slo.upper else slo.limit,
            units=info.units if info else "",
        )


def _metrics(insights: Insights) -> Iterator[Metric]:
    rewards = {one.metric: -1 if one.winner is None else one.winner for one in insights.rewards}
    names = {name for name, one in insights.info.items() if one.type in ("Counter", "Gauge")}
    names |= {one.metric for one in insights.slos} | set(rewards)
    for name in [name for name, one in insights.info.items() if one.type == "Sample"]:
        if name.endswith(("/latency", "/ttft", "/tpot")):
            names |= {f"{name}/{each}" for each in ("count", "mean", "stddev", "min", "max", "p50", "p95", "p99")}
    for name in sorted(names):
        info = insights.info.get(name) or insights.info.get(name.rpartition("/")[0])
        yield Metric(
            name=name,
            values=tuple(_value(insights, name, index) for index in range(len(insights.versions))),
            units=info.units if info else "",
            description=info.description if info else "",
            best=rewards.get(name),
        )


def _value(insights: Insights, name: str, index: int) -> float | None:
    try:
        return read(name, insights.observed[index]).value
    except MetricFault:
        return None


def _run(load: LoadRun, result: Result) -> Report:
    rules = tuple(dict.fromkeys(str(one["rule"]) for one in result.insights.rules))
    slos, _ = parse_all(rules, "rules")
    return Report(
        load.outcome,
        assess(load.outcome, slos),
        percentiles=load.percentiles,
        title=f"{load.task}: {', '.join(load.targets.values())}",
    )


def _doubts(insights: Insights) -> Iterator[str]:
    """Why SLOs are not satisfied that are not broken either: each reason once."""
    found: dict[tuple[str, str], list[str]] = {}
    for slo in insights.slos:
        for index, verdict in enumerate(slo.verdicts):
            if verdict.why:
                about = f"{slo.metric} of {insights.label(index)}"
                found.setdefault((verdict.state, verdict.why), []).append(about)
    for (state, why), names in found.items():
        who = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        yield f"{who}: {state}: {why}"


def _notes(result: Result) -> Iterator[str]:
    for one in result.tasks:
        if one.state in ("failed", "tolerated", "interrupted") or (one.message and one.state == "skipped"):
            yield f"{one.task}: {one.state}" + (f": {one.message}" if one.message else "")
    yield from _doubts(result.insights)
    for comparison in result.insights.comparisons:
        yield str(comparison["words"])
    if result.interrupted:
        yield "the run was interrupted: what is here was measured, the rest is missing"

"""An experiment's result as a report, in Iter8's sections."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import TypeAdapter

from loadgen.experiment.metric import MetricFault, MetricInfo, parse, read
from loadgen.experiment.result import Insights, LoadRun, Result
from loadgen.report.contents import Report
from loadgen.report.experiment import Condition, ExperimentReport, Metric
from loadgen.slo.compare import Comparison
from loadgen.slo.judge import assess
from loadgen.slo.language import parse_all

_MEANINGS = ("worse", "better", "too few samples", "no difference shown")
_COMPARISON = TypeAdapter(Comparison)


def report(result: Result) -> ExperimentReport:
    insights = result.insights
    return ExperimentReport(
        name=result.name,
        namespace=result.namespace,
        completed=result.completed(),
        failed=result.failure or bool(result.troubles),
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
        yield Condition(
            metric=slo.metric,
            satisfied=tuple(one.state == "pass" for one in slo.verdicts),
            states=tuple(one.state for one in slo.verdicts),
            upper=slo.limit if slo.upper else None,
            lower=None if slo.upper else slo.limit,
            units=_units(insights, slo.metric),
        )


def _metrics(insights: Insights) -> Iterator[Metric]:
    rewards = {one.metric: -1 if one.winner is None else one.winner for one in insights.rewards}
    names = {name for name, one in insights.info.items() if one.type in ("Counter", "Gauge")}
    names |= {one.metric for one in insights.slos} | set(rewards)
    for name in [name for name, one in insights.info.items() if one.type == "Sample"]:
        if name.endswith(("/latency", "/ttft", "/tpot")):
            names |= {f"{name}/{each}" for each in ("count", "mean", "stddev", "min", "max", "p50", "p95", "p99")}
    for name in sorted(names):
        info = _info(insights, name)
        yield Metric(
            name=name,
            values=tuple(_value(insights, name, index) for index in range(len(insights.versions))),
            units=_units(insights, name),
            description=info.description if info else "",
            best=rewards.get(name),
        )


def _info(insights: Insights, name: str) -> MetricInfo | None:
    """Of a metric, or of the distribution that it is a figure of."""
    try:
        return insights.info.get(name) or insights.info.get(parse(name).base)
    except MetricFault:
        return None


def _units(insights: Insights, name: str) -> str:
    info = _info(insights, name)
    counted = name not in insights.info and name.endswith(("/count", "-count"))
    return info.units if info is not None and not counted else ""


def _value(insights: Insights, name: str, index: int) -> float | None:
    try:
        return read(name, insights.observed[index]).value
    except MetricFault:
        return None


def _run(load: LoadRun, result: Result) -> Report:
    """As the tasks assess and compare looked at it; what they did not look at has no objectives."""
    rules = [one for one in result.insights.rules if one.get("started") == load.outcome.started]
    slos, _ = parse_all(tuple(dict.fromkeys(str(one["rule"]) for one in rules)), "rules")
    return Report(
        load.outcome,
        assess(load.outcome, slos, confidence=rules[0]["confidence"] if rules else None),
        plan=load.plan,
        comparison=_comparison(load, result.insights),
        percentiles=load.percentiles,
        title=f"{load.task}: {', '.join(load.targets.values())}",
    )


def _comparison(load: LoadRun, insights: Insights) -> Comparison | None:
    """Of several endpoints the one in which the candidate did worst."""
    kept = [one for one in insights.comparisons if one.get("started") == load.outcome.started]
    worst = min(kept, key=lambda one: _MEANINGS.index(one["meaning"]), default=None)
    return _COMPARISON.validate_python(worst) if worst is not None else None


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
    yield from result.troubles
    if result.interrupted:
        yield "the run was interrupted: what is here was measured, the rest is missing"

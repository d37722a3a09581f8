"""Task `assess`: hold the metrics of each version against their limits, and find the best version by its rewards.

A figure that a run measured which cannot be believed is invalid, one with too few samples inconclusive, one that was
not measured no data: none of them satisfies an SLO.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from loadgen.experiment.context import Context, Done, TaskFailure
from loadgen.experiment.metric import MetricFault, Observed, Reading, read
from loadgen.experiment.result import Insights, LoadRun, Reward, Satisfied, Slo, Verdict
from loadgen.experiment.tasks.settings import AssessSettings
from loadgen.outcome import UNATTRIBUTED, UNKNOWN
from loadgen.slo.judge import assess as judge
from loadgen.slo.language import parse_all
from loadgen.slo.verdict import ExitCode

_RULINGS: Mapping[str, Satisfied] = {
    "PASS": "pass",
    "FAIL": "fail",
    "INCONCLUSIVE": "inconclusive",
    "NO_DATA": "no data",
}


async def perform(settings: AssessSettings, context: Context) -> Done:
    insights = context.insights
    if not insights.versions:
        raise TaskFailure("nothing was measured", "uninitialized insights within experiment", code=ExitCode.NO_DATA)
    slos = tuple(_slos(settings, insights))
    assessed = replace(
        insights, slos=slos, rewards=tuple(_rewards(settings, insights)), rules=tuple(_rules(settings, insights))
    )
    broken = sum(one.state != "pass" for slo in slos for one in slo.verdicts)
    broken += sum(rule["state"] != "pass" for rule in assessed.rules)
    total = sum(len(slo.verdicts) for slo in slos) + len(assessed.rules)
    said = f"{total - broken} of {total} SLOs are satisfied" if total else ""
    winners = [
        f"best by {reward.metric}: {assessed.label(reward.winner)}"
        for reward in assessed.rewards
        if reward.winner is not None
    ]
    return Done("; ".join(filter(None, (said, *winners))), assessed)


def verdict(reading: Reading, limit: float, upper: bool) -> Verdict:
    if reading.value is None or math.isnan(reading.value):
        return Verdict("no data", None, reading.why or "there is no value")
    if reading.distrust:
        return Verdict("invalid", reading.value, reading.distrust)
    if needed := _needed(reading):
        why = f"{reading.samples} samples are too few for p{reading.percent:g}: at least {needed} are needed"
        return Verdict("inconclusive", reading.value, why)
    holds = reading.value <= limit if upper else reading.value >= limit
    return Verdict("pass" if holds else "fail", reading.value)


def exit_code(states: Sequence[str]) -> ExitCode:
    """Of all verdicts together, the worst first."""
    for state, code in (
        ("invalid", ExitCode.INVALID),
        ("fail", ExitCode.BROKEN),
        ("no data", ExitCode.NO_DATA),
        ("inconclusive", ExitCode.INCONCLUSIVE),
    ):
        if state in states:
            return code
    return ExitCode.HELD


def _needed(reading: Reading) -> int:
    """How many samples a percentile takes to be more than the largest one; 0 where there are enough."""
    if reading.percent is None or reading.samples is None or reading.percent >= 100:
        return 0
    needed = math.ceil(1 / (1 - reading.percent / 100) - 1e-9)
    return needed if reading.samples < needed else 0


def _slos(settings: AssessSettings, insights: Insights) -> list[Slo]:
    if settings.slos is None:
        return []
    found = []
    for upper, limits in ((True, settings.slos.upper), (False, settings.slos.lower)):
        for limit in limits:
            verdicts = tuple(
                verdict(_read(limit.metric, insights.versions[index], known, insights), limit.limit, upper)
                for index, known in enumerate(insights.observed)
            )
            found.append(Slo(limit.metric, limit.limit, upper, verdicts))
    return found


def _read(metric: str, version: str, known: Mapping[str, Observed], insights: Insights) -> Reading:
    try:
        return read(metric, known)
    except MetricFault as fault:  # from a provider's template: names that cannot be checked before
        return Reading(None, fault.what)


def _rewards(settings: AssessSettings, insights: Insights) -> list[Reward]:
    if settings.rewards is None:
        return []
    both = ((True, settings.rewards.max), (False, settings.rewards.min))
    return [Reward(metric, higher, _best(metric, higher, insights)) for higher, metrics in both for metric in metrics]


def _best(metric: str, higher: bool, insights: Insights) -> int | None:
    """The first of those with the best value; what no version answered for does not compete."""
    best: tuple[float, int] | None = None
    for index, known in enumerate(insights.observed):
        if insights.versions[index] in (UNKNOWN, UNATTRIBUTED):
            continue
        value = _read(metric, insights.versions[index], known, insights).value
        if value is None or math.isnan(value):
            continue
        if best is None or (value > best[0] if higher else value < best[0]):
            best = (value, index)
    return None if best is None else best[1]


def _rules(settings: AssessSettings, insights: Insights) -> list[dict[str, Any]]:
    """Objectives in the language of `headgate load --slo`, on the last run of each load task."""
    slos, problems = parse_all(settings.rules, "rules")
    if problems:
        raise TaskFailure("; ".join(problem.what for problem in problems), code=ExitCode.BAD_SPEC)
    found: list[dict[str, Any]] = []
    for load in _last(insights.loads) if slos else ():
        assessment = judge(load.outcome, slos, confidence=settings.confidence)
        where = {"confidence": settings.confidence, "started": load.outcome.started}
        for one in assessment.verdicts:
            state = "invalid" if assessment.faults else _RULINGS[one.ruling]
            found.append(
                {
                    "rule": one.slo.text,
                    "scenario": one.scenario,
                    "version": one.version,
                    "state": state,
                    "value": one.value,
                    "limit": one.limit,
                    "why": one.why,
                    **where,
                }
            )
        if not assessment.verdicts:
            found += [
                {
                    "rule": slo.text,
                    "scenario": "",
                    "version": "",
                    "state": "no data",
                    "value": None,
                    "limit": None,
                    "why": assessment.silent,
                    **where,
                }
                for slo in slos
            ]
    return found


def _last(loads: tuple[LoadRun, ...]) -> list[LoadRun]:
    return list({tuple(sorted(one.targets.items())): one for one in loads}.values())

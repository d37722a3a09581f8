"""Task `compare`: hold a candidate against the primary, figure by figure, with intervals of confidence."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from loadgen.experiment.context import Context, Done, TaskFailure
from loadgen.experiment.result import LoadRun
from loadgen.experiment.tasks.settings import CompareSettings
from loadgen.slo.compare import Comparison, compare
from loadgen.slo.verdict import ExitCode


async def perform(settings: CompareSettings, context: Context) -> Done:
    insights = context.insights
    found: list[Comparison] = []
    kept_as: list[dict[str, Any]] = []
    for load in insights.loads:
        for scenario in _scenarios(load, settings):
            weights = {name: float(share) for name, share in settings.weights.items()} or None
            one = compare(
                load.outcome,
                settings.primary,
                settings.candidate,
                scenario=scenario,
                confidence=settings.confidence,
                weights=weights,
            )
            found.append(one)
            kept_as.append({**asdict(one), "started": load.outcome.started})
    if not found:
        seen = ", ".join(insights.labels()) or "none"
        what = f"no run measured both {settings.primary} and {settings.candidate}"
        raise TaskFailure(what, f"versions seen: {seen}", code=ExitCode.NO_DATA)
    kept = replace(insights, comparisons=tuple(kept_as))
    worse = [one for one in found if one.meaning == "worse"]
    words = "; ".join(one.words for one in found)
    if worse and settings.fail_if_worse:
        raise TaskFailure(words, code=ExitCode.BROKEN, insights=kept)
    return Done(words, kept)


def _scenarios(load: LoadRun, settings: CompareSettings) -> list[str]:
    """Those in which both versions answered."""
    found = []
    for scenario in dict.fromkeys(one.scenario for one in load.outcome.series):
        versions = {one.version for one in load.outcome.series if one.scenario == scenario}
        if {settings.primary, settings.candidate} <= versions:
            found.append(scenario)
    return found

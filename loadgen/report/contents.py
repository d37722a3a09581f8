"""What a report is made of: a run's outcome, and what is known about it besides. Every format takes this."""

from __future__ import annotations

from dataclasses import dataclass

from loadgen.outcome import Outcome
from loadgen.plan import Plan
from loadgen.slo.compare import Comparison
from loadgen.slo.verdict import Assessment

PERCENTILES = (50.0, 75.0, 90.0, 95.0, 99.0, 99.9)


@dataclass(frozen=True, slots=True)
class Report:
    outcome: Outcome
    assessment: Assessment
    plan: Plan | None = None
    comparison: Comparison | None = None
    percentiles: tuple[float, ...] = PERCENTILES
    title: str = ""  # otherwise the run's name
    command: str = ""  # what was typed, for whoever wants to run it again

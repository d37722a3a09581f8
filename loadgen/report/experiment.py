"""An experiment's report in Iter8's sections, from plain data that the experiment fills in."""

from __future__ import annotations

from dataclasses import dataclass

from loadgen.report.contents import Report


@dataclass(frozen=True, slots=True)
class Condition:
    """An SLO of the `assess` task: `metric` below `upper` and above `lower`; `satisfied` for each version, in order."""

    metric: str
    satisfied: tuple[bool, ...]
    upper: float | None = None
    lower: float | None = None
    units: str = ""


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric's value for each version, in order; None is "unavailable". `best`: for rewards, a version's index or -1
    for insufficient data."""

    name: str
    values: tuple[float | None, ...]
    units: str = ""
    description: str = ""
    best: int | None = None


@dataclass(frozen=True, slots=True)
class ExperimentReport:
    """`tasks`: how many there are. `versions`: as they are shown, "candidate (v2)". `runs`: one for each load task."""

    name: str
    namespace: str = ""
    completed: bool = False
    failed: bool = False
    tasks: int = 0
    completed_tasks: int = 0
    loops: int = 0
    versions: tuple[str, ...] = ()
    conditions: tuple[Condition, ...] = ()
    metrics: tuple[Metric, ...] = ()
    runs: tuple[Report, ...] = ()
    notes: tuple[str, ...] = ()  # why a task failed, and the like

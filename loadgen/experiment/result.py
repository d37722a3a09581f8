"""What came of an experiment so far: how each task ended, and the insights: metrics per version, verdicts, comparisons.

Frozen values that are kept as JSON after every task. `document` shows them under the names that Iter8 uses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pydantic import TypeAdapter

from loadgen.experiment.metric import Measured, MetricInfo, Observed
from loadgen.experiment.secrets import bare
from loadgen.histogram import Distribution, Histogram
from loadgen.outcome import UNATTRIBUTED, UNKNOWN, Outcome
from loadgen.plan import Grpc, Plan, Scenario, Target

State = Literal["completed", "skipped", "failed", "tolerated", "interrupted"]
Satisfied = Literal["pass", "fail", "inconclusive", "invalid", "no data"]

_LAST = (UNKNOWN, UNATTRIBUTED)
MOST_VALUES, MOST_LOADS = 10_000, 50
"""What is kept of an experiment that goes on for months: values of a metric, and loads with all their figures."""


@dataclass(frozen=True, slots=True)
class TaskResult:
    """How one task ended. `tolerated`: it failed and the run went on. `code`: what a run that it stopped exits with."""

    task: str
    state: State
    started: float
    ended: float
    message: str = ""
    output: str = ""
    code: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of one SLO for one version. `value` in the metric's units."""

    state: Satisfied
    value: float | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Slo:
    """`upper`: the metric is to be at most the limit, else at least. `verdicts` go with the insights' versions."""

    metric: str
    limit: float
    upper: bool
    verdicts: tuple[Verdict, ...] = ()


@dataclass(frozen=True, slots=True)
class Reward:
    """`winner` is a place among the versions; None where no version has a value."""

    metric: str
    higher_is_better: bool
    winner: int | None = None


@dataclass(frozen=True, slots=True)
class LoadRun:
    """One run of the engine: of which task, and the endpoint that each scenario stands for ("" for the only one)."""

    task: Literal["http", "grpc"]
    loop: int
    endpoints: Mapping[str, str]
    targets: Mapping[str, str]
    percentiles: tuple[float, ...]
    outcome: Outcome
    plan: Plan | None = None
    """What was asked, as `outline` leaves it."""


def outline(plan: Plan) -> Plan:
    """What a report tells of a plan: without bodies, headers, certificates and descriptors."""

    def bare_of(scenario: Scenario) -> Scenario:
        asked = scenario.target
        grpc = Grpc(asked.grpc.method, b"", asked.grpc.kind) if asked.grpc is not None else None
        target = Target(bare(asked.url), asked.protocol, asked.method, grpc=grpc, timeout=asked.timeout)
        return Scenario(scenario.name, target, scenario.load)

    return replace(plan, scenarios=tuple(bare_of(one) for one in plan.scenarios))


@dataclass(frozen=True, slots=True)
class Insights:
    """`observed[i]` is what was seen of `versions[i]`; a version without a name is "". `rules`: SLOs as expressions."""

    versions: tuple[str, ...] = ()
    tracks: Mapping[str, str] = field(default_factory=dict)
    info: Mapping[str, MetricInfo] = field(default_factory=dict)
    observed: tuple[Mapping[str, Observed], ...] = ()
    slos: tuple[Slo, ...] = ()
    rewards: tuple[Reward, ...] = ()
    comparisons: tuple[Mapping[str, Any], ...] = ()
    rules: tuple[Mapping[str, Any], ...] = ()
    loads: tuple[LoadRun, ...] = ()

    def label(self, index: int) -> str:
        """track (version), track, version, or "version 0"."""
        return label(self.versions[index], self.tracks.get(self.versions[index], ""), index)

    def labels(self) -> tuple[str, ...]:
        return tuple(self.label(index) for index in range(len(self.versions)))

    def joined(self, measured: Measured) -> Insights:
        """With what a task measured. Raises InsightsFault where it contradicts what is there."""
        versions, observed = list(self.versions), [dict(one) for one in self.observed]
        for name, info in measured.info.items():
            known = self.info.get(name)
            if known is not None and known.type != info.type:
                raise InsightsFault(f"old and new metric meta for {name} differ: {known.type} and {info.type}")
        for version, metrics in measured.by_version.items():
            if version not in versions:
                versions.append(version)
                observed.append({})
            place = observed[versions.index(version)]
            for name, seen in metrics.items():
                place[name] = _appended(place.get(name), seen, measured.info.get(name) or self.info.get(name))
        order = sorted(range(len(versions)), key=lambda index: versions[index] in _LAST)
        return replace(
            self,
            versions=tuple(versions[index] for index in order),
            observed=tuple(observed[index] for index in order),
            info={**self.info, **measured.info},
        )

    def with_versions(self, names: tuple[str, ...]) -> Insights:
        """With as many versions as there are names, known or new. Raises InsightsFault when others are there."""
        if not self.versions:
            return replace(self, versions=names, observed=tuple({} for _ in names))
        if len(names) != len(self.versions):
            raise InsightsFault(f"inconsistent number for app versions; old ({len(self.versions)}); new ({len(names)})")
        return self

    def loaded(self, load: LoadRun) -> Insights:
        return replace(self, loads=(*self.loads, load)[-MOST_LOADS:])


class InsightsFault(Exception):
    """What a task measured does not go with what is known already."""


@dataclass(frozen=True, slots=True)
class Result:
    """One run of an experiment. Times are Unix times; `loops` counts those that began."""

    name: str
    namespace: str
    revision: int
    started: float
    spec: tuple[Mapping[str, Any], ...]
    updated: float = 0.0
    loops: int = 1
    tasks: tuple[TaskResult, ...] = ()
    failure: bool = False
    interrupted: bool = False
    ended: float | None = None
    insights: Insights = Insights()
    version: str = ""
    troubles: tuple[str, ...] = ()
    """What went wrong beside the tasks: traffic that could not be put back."""

    @property
    def completed_tasks(self) -> int:
        """Of the last loop. What was skipped, or failed and was tolerated, is done with."""
        return sum(one.state in ("completed", "skipped", "tolerated") for one in self.tasks)

    def completed(self) -> bool:
        return self.completed_tasks == len(self.spec)

    def no_failure(self) -> bool:
        return not self.failure

    def slos_hold(self) -> bool:
        """True where none is given, as in Iter8."""
        verdicts = [one.state for slo in self.insights.slos for one in slo.verdicts]
        verdicts += [rule["state"] for rule in self.insights.rules]
        return all(state == "pass" for state in verdicts)

    def to_json(self) -> bytes:
        return _RESULT.dump_json(self)

    @classmethod
    def from_json(cls, data: bytes | str) -> Result:
        """Raises pydantic.ValidationError."""
        return _RESULT.validate_json(data)


def label(version: str, track: str, index: int) -> str:
    if track and version:
        return f"{track} ({version})"
    return track or version or f"version {index}"


def _appended(known: Observed | None, new: Observed, info: MetricInfo | None) -> Observed:
    """Values follow one another; samples of all loops are one sample; of histograms the last one is kept."""
    if known is None or (info is not None and info.type == "Histogram"):
        return new
    distribution = new.distribution or known.distribution
    samples = new.samples
    if known.distribution is not None and new.distribution is not None:
        distribution = _together(known.distribution, new.distribution)
        samples = distribution.count
    values = (known.values + new.values)[-MOST_VALUES:]
    distrust = new.distrust or (known.distrust if samples != new.samples else "")
    return replace(new, values=values, distribution=distribution, samples=samples, distrust=distrust)


def _together(one: Distribution, other: Distribution) -> Distribution:
    made = Histogram.of(one)
    made.add(Histogram.of(other))
    return made.rest()


_RESULT = TypeAdapter(Result)

"""The numbers that every format shows, worked out once: per scenario and version, with intervals."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from loadgen.histogram import Histogram
from loadgen.outcome import UNATTRIBUTED, UNKNOWN, Sent, Series
from loadgen.plan import Load
from loadgen.report.contents import Report
from loadgen.slo.figures import DURATIONS, Figure, figure, percentile
from loadgen.slo.measure import Estimate, Measurements
from loadgen.slo.objective import ALL, Reference
from loadgen.slo.quantities import digits
from loadgen.slo.verdict import Verdict

_PASSWORD = re.compile(r"(?<=://)[^/@\s]+@")
_LABELS = {UNKNOWN: "no version named", UNATTRIBUTED: "no answer", ALL: "all"}
STREAM = ("ttft", "itl", "tpot")


@dataclass(frozen=True, slots=True)
class Row:
    """One version of one scenario, or ALL of them. Times are in seconds.

    `latency` and `service` are by percentile, in the report's order; `share` is of the scenario's requests.
    """

    scenario: str
    version: str
    ended: int
    ok: int
    failed: int
    timed_out: int
    rate: float
    share: float
    errors: Estimate | None
    latency: tuple[tuple[float, Estimate], ...]
    service: tuple[tuple[float, float], ...]
    codes: tuple[tuple[str, int], ...]
    failures: tuple[tuple[str, int, str], ...]  # kind, count, a message
    histograms: Mapping[str, Histogram]
    goodput: float | None = None
    tokens_per_second: float | None = None

    @property
    def label(self) -> str:
        return label(self.version)

    @property
    def streams(self) -> bool:
        return any(self.histograms[name].count for name in STREAM)


@dataclass(frozen=True, slots=True)
class Group:
    """One scenario: its account, and its versions. `total` is ALL of them, where there is more than one."""

    name: str
    account: Sent | None
    rows: tuple[Row, ...]
    total: Row | None
    series: tuple[Series, ...]


@dataclass(frozen=True, slots=True)
class Facts:
    groups: tuple[Group, ...]
    lag: Histogram
    measured: Measurements

    @property
    def ended(self) -> int:
        return sum(row.ended for group in self.groups for row in group.rows)

    @property
    def errors(self) -> int:
        return sum(row.failed + row.timed_out for group in self.groups for row in group.rows)


def label(version: str) -> str:
    """A version's name as people should see it."""
    return _LABELS.get(version, version)


def work_out(report: Report) -> Facts:
    measured = Measurements(report.outcome)
    accounts = {each.scenario: each for each in report.outcome.accounts}
    groups = []
    for name in measured.scenarios():
        series = measured.series(name, None)
        order = {version: place for place, version in enumerate(report.outcome.versions())}
        series = tuple(sorted(series, key=lambda each: order[each.version]))
        rows = tuple(_row(report, measured, name, each.version) for each in series)
        total = _row(report, measured, name, ALL) if len(rows) > 1 else None
        groups.append(Group(name, accounts.get(name), rows, total, series))
    return Facts(tuple(groups), measured.histogram(None, ALL, "lag"), measured)


def _row(report: Report, measured: Measurements, scenario: str, version: str) -> Row:
    series = measured.series(scenario, version)
    ended = sum(each.ended for each in series)
    everybody = sum(each.ended for each in measured.series(scenario, None))
    histograms = {metric: measured.histogram(scenario, version, metric) for metric in DURATIONS}
    duration = measured.duration(scenario)
    latency = []
    for percent in report.percentiles:
        estimate = measured.of(Reference(percentile("latency", percent), version, scenario))
        if estimate is not None:
            latency.append((percent, estimate))
    service = histograms["service"]
    served = service.percentiles(*report.percentiles) if service.count else []
    kinds: Counter[str] = Counter()
    codes: Counter[str] = Counter()
    messages: dict[str, str] = {}
    for each in series:
        kinds.update(each.failures)
        codes.update(each.codes)
        messages.update(each.samples)
    return Row(
        scenario,
        version,
        ended,
        sum(each.ok for each in series),
        sum(each.failed for each in series),
        sum(each.timed_out for each in series),
        ended / duration if duration > 0 else 0.0,
        ended / everybody if everybody else 0.0,
        _named(measured, "error-rate", scenario, version),
        tuple(latency),
        tuple(zip(report.percentiles, served, strict=bool(served))),
        tuple(sorted(codes.items())),
        tuple((kind, count, messages.get(kind, "")) for kind, count in kinds.most_common()),
        histograms,
        _value(_named(measured, "goodput", scenario, version)),
        _value(_named(measured, "tokens-per-second", scenario, version)),
    )


def _named(measured: Measurements, name: str, scenario: str, version: str) -> Estimate | None:
    found = figure(name)
    assert isinstance(found, Figure)
    return measured.of(Reference(found, version, scenario))


def _value(estimate: Estimate | None) -> float | None:
    return None if estimate is None else estimate.value


def codes_and_failures(row: Row) -> str:
    """Errors in a few words: "200 × status 503, 3 × timeout"."""
    return ", ".join(f"{count:,} × {kind}" for kind, count, _ in row.failures)


def urgent_first(verdicts: Sequence[Verdict], many: int = 20) -> list[Verdict]:
    """In their order; where there are many, those that do not hold come first."""
    if len(verdicts) <= many:
        return list(verdicts)
    order = ("FAIL", "NO_DATA", "INCONCLUSIVE", "PASS")
    return sorted(verdicts, key=lambda each: order.index(each.ruling))


def asked(report: Report) -> list[tuple[str, str]]:
    """What the plan asked of whom: (name, words) for each scenario; nothing without a plan."""
    found = []
    for scenario in report.plan.scenarios if report.plan is not None else ():
        target, load = scenario.target, scenario.load
        what = target.grpc.method if target.grpc is not None else target.method
        words = f"{what} {_PASSWORD.sub('', target.url)}, {_load(load)}"
        found.append((scenario.name, words))
    return found


def _load(load: Load) -> str:
    if load.executor == "users":
        words = f"{load.users:,} users, each waiting for its answers"
    elif load.executor == "max" or load.arrivals is None:
        words = f"as fast as {load.connections:,} connections go"
    elif load.arrivals.trace:
        words = f"a trace of {len(load.arrivals.trace):,} arrivals"
    else:
        rates = [rate for stage in load.arrivals.stages for rate in (stage.start, stage.end)]
        least, most = min(rates), max(rates)
        words = f"{digits(most)}/s" if least == most else f"{digits(least)}/s to {digits(most)}/s"
        words += f", {load.arrivals.spacing} arrivals"
    return words


def headline(report: Report) -> str:
    """What came of the run, in a sentence."""
    assessment = report.assessment
    verdicts = assessment.verdicts
    broken = sum(each.ruling == "FAIL" for each in verdicts)
    if not assessment.answered:
        return f"No usable data: {assessment.silent}."
    if assessment.faults:
        faults = "1 fault" if len(assessment.faults) == 1 else f"{len(assessment.faults)} faults"
        return f"This run is invalid: the generator did not do what was asked ({faults})."
    if broken:
        return f"{broken} of {len(verdicts)} objectives {'are' if broken > 1 else 'is'} broken."
    missing = sum(each.ruling == "NO_DATA" for each in verdicts)
    if missing:
        return f"There are no data for {missing} of {len(verdicts)} objectives."
    if assessment.silent:
        return f"No usable data: {assessment.silent}."
    unclear = sum(each.ruling == "INCONCLUSIVE" for each in verdicts)
    if unclear:
        return f"{unclear} of {len(verdicts)} objectives cannot be decided with so few samples."
    if verdicts:
        return "The objective holds." if len(verdicts) == 1 else f"All {len(verdicts)} objectives hold."
    return "No objectives were given."

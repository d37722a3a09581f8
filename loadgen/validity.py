"""Whether a run can be believed: what the generator measured of itself, against bounds, as faults."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from loadgen.outcome import UNATTRIBUTED, UNKNOWN, Fault, Sent, Series, Worker
from loadgen.plan import Bounds, Plan

NO_ROOM = "no room"  # a failure's kind: see loadgen/wire/call.py

CLOCK_JUMP = 0.5  # seconds that the wall clock may move against the steady one in a run
_LATE = 0.05  # seconds: a schedule that is less behind at its end has been kept


@dataclass(frozen=True, slots=True)
class Self:
    """What one process measured of itself. `late`: seconds behind the schedule at the end; `planned`: its length;
    `files`: most that were open, and how many may be; `whole`: it reported to the end."""

    name: str
    sent: int
    cpu: float
    lag_p99: float | None
    rate: float
    late: float = 0.0
    planned: float = 0.0
    jump: float = 0.0
    files: tuple[int, int] | None = None
    lost: str = ""
    troubles: tuple[str, ...] = ()

    def worker(self, bounds: Bounds) -> Worker:
        return Worker(self.name, self.sent, self.cpu, self.lag_p99, sustainable(self, bounds), bool(self.lost))


def sustainable(process: Self, bounds: Bounds) -> float | None:
    """Requests per second that this process can hold, reckoned from what they cost it; None where too few tell."""
    if process.cpu < 0.05 or process.rate <= 0:
        return None
    return two_digits(process.rate * 0.8 * bounds.cpu / process.cpu)


def two_digits(value: float) -> float:
    return float(f"{value:.2g}")


def faults(
    plan: Plan,
    processes: Sequence[Self],
    accounts: Sequence[Sent],
    series: Sequence[Series],
    lag_p99: float | None,
) -> tuple[Fault, ...]:
    """All of them, the gravest first."""
    found: list[Fault] = []
    for each in processes:
        found += [Fault("other", f"{each.name}: {trouble}") for trouble in each.troubles]
        if each.lost:
            found.append(
                Fault(
                    "worker",
                    f"{each.name} was lost ({each.lost}): what it sent after its last report is missing",
                    "the rate was not the one asked for from then on; run it again",
                )
            )
    found += _slow(plan, processes, lag_p99)
    found += _dropped(plan, accounts)
    found += _versions(plan.bounds, series)
    for each in processes:
        if abs(each.jump) > CLOCK_JUMP:
            found.append(
                Fault(
                    "clock",
                    f"{each.name}: the clock was set {each.jump:+.1f} s against the steady one during the run",
                    "was this machine suspended, or its time set? run it again",
                )
            )
    found += _used_up(processes, series)
    return tuple(found)


def _used_up(processes: Sequence[Self], series: Iterable[Series]) -> Iterable[Fault]:
    """Files and ports of this machine. What failed for lack of them is no failure of the target."""
    for each in processes:
        if each.files is not None and each.files[0] >= each.files[1]:
            yield Fault(
                "descriptors",
                f"{each.name}: all {each.files[1]} files that it may open were open",
                "raise `ulimit -n`, or lower the number of connections",
            )
    for one in series:
        if count := one.failures.get(NO_ROOM, 0):
            yield Fault(
                "descriptors",
                f"{one.scenario}: {count:,} requests had no connection, as this machine had none left: "
                f"{one.samples.get(NO_ROOM, NO_ROOM)}",
                "lower the number of connections, or let them be used again",
            )


def _slow(plan: Plan, processes: Sequence[Self], lag_p99: float | None) -> Iterable[Fault]:
    bounds = plan.bounds
    if lag_p99 is not None and lag_p99 > bounds.lag_p99:
        yield Fault(
            "lag",
            f"requests started {_milliseconds(lag_p99)} late at the 99th percentile, by this generator's own fault "
            f"(bound {_milliseconds(bounds.lag_p99)})",
            _remedy(processes, bounds),
        )
    for each in processes:
        if each.planned > 0 and each.late > max(_LATE, bounds.rate_error * each.planned):
            yield Fault(
                "rate",
                f"{each.name} was {each.late:.2f} s behind at the end of its {each.planned:g} s: "
                f"{each.late / (each.planned + each.late):.1%} less than the rate asked for",
                _remedy(processes, bounds),
            )
        if each.cpu > bounds.cpu:
            yield Fault(
                "cpu",
                f"{each.name} used {each.cpu:.0%} of a core (bound {bounds.cpu:.0%}): it measured itself",
                _remedy(processes, bounds),
            )


def _remedy(processes: Sequence[Self], bounds: Bounds) -> str:
    rates = [rate for each in processes if (rate := sustainable(each, bounds)) is not None]
    more = "use more --processes on idle cores, or more machines"
    busy = any(each.cpu > 0.7 for each in processes)
    if rates and busy:
        return f"this machine can hold about {two_digits(sum(rates)):,.0f} requests/s: lower the rate, or {more}"
    return f"something else kept this machine busy: leave a core to the generator, or {more}"


def _dropped(plan: Plan, accounts: Sequence[Sent]) -> Iterable[Fault]:
    for each in accounts:
        if each.asked and each.dropped / each.asked > plan.bounds.rate_error:
            yield Fault(
                "dropped",
                f"{each.scenario}: {each.dropped:,} of {each.asked:,} requests were dropped, as too many were in "
                "flight: the latency of the others flatters the target",
                "raise max_in_flight, or queue instead of dropping",
            )


def _versions(bounds: Bounds, series: Iterable[Series]) -> Iterable[Fault]:
    by_scenario: dict[str, list[Series]] = {}
    for each in series:
        by_scenario.setdefault(each.scenario, []).append(each)
    for scenario, all_ in by_scenario.items():
        if not any(each.version not in (UNKNOWN, UNATTRIBUTED) for each in all_):
            continue
        answers = sum(sum(each.codes.values()) for each in all_)
        unknown = sum(sum(each.codes.values()) for each in all_ if each.version == UNKNOWN)
        if answers and unknown / answers > bounds.unknown_versions:
            yield Fault(
                "version",
                f"{scenario}: {unknown:,} of {answers:,} answers name no version",
                "let every answer carry the header app-version, or pin the version",
            )


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms"

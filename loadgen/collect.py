"""Adds up what the processes of the engine tell, into progress while it goes on and an outcome at its end."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from loadgen.histogram import Histogram
from loadgen.outcome import Outcome, Progress, Row, Second, Sent, Series
from loadgen.parts import Report, SecondPart, SeriesPart
from loadgen.plan import Plan
from loadgen.validity import Self, faults

_OPEN = 15  # seconds that may still get late parts; older ones keep their percentiles and not their counts
_TOLD = (50, 90, 99)


@dataclass(slots=True)
class _Second:
    ended: int = 0
    failed: int = 0
    latency: Histogram | None = field(default_factory=Histogram)
    told: tuple[float, float, float, float] | None = None

    def add(self, part: SecondPart) -> None:
        self.ended += part.ended
        self.failed += part.failed
        if part.latency is not None and self.latency is not None:
            self.latency.add_part(part.latency)
        if part.told is not None:
            self.latency, self.told = None, part.told

    def tell(self) -> None:
        if self.latency is not None:
            p50, p90, p99 = self.latency.percentiles(*_TOLD)
            self.told = (p50, p90, p99, self.latency.greatest)

    def second(self, at: int) -> Second:
        self.tell()
        return Second(at, self.ended, self.failed, *(self.told or ()))


@dataclass(slots=True)
class _Series:
    scenario: int
    version: str
    ok: int = 0
    failed: int = 0
    timed_out: int = 0
    good: int | None = None
    tokens: int | None = None
    bytes_sent: int = 0
    bytes_received: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    samples: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, Histogram] = field(default_factory=dict)
    seconds: dict[int, _Second] = field(default_factory=dict)
    latest: int = 0
    news: int = 0  # ended since the last progress

    @property
    def ended(self) -> int:
        return self.ok + self.failed + self.timed_out

    def add(self, part: SeriesPart) -> None:
        self.ok += part.ok
        self.failed += part.failed
        self.timed_out += part.timed_out
        self.news += part.ok + part.failed + part.timed_out
        self.good = _sum(self.good, part.good)
        self.tokens = _sum(self.tokens, part.tokens)
        self.bytes_sent += part.bytes_sent
        self.bytes_received += part.bytes_received
        self.codes.update(part.codes)
        self.failures.update(part.failures)
        self.samples = {**part.samples, **self.samples}
        for name, counted in part.metrics.items():
            self.metrics.setdefault(name, Histogram()).add_part(counted)
        for each in part.seconds:
            self.seconds.setdefault(each.at, _Second()).add(each)
            self.latest = max(self.latest, each.at)
            if each.latency is not None:
                self.metrics.setdefault("latency", Histogram()).add_part(each.latency)

    def settle(self) -> None:
        """Let go of the counts of seconds that are long over."""
        for at in range(self.latest - _OPEN, -1, -1):
            second = self.seconds.get(at)
            if second is not None:
                if second.latency is None:
                    break
                second.tell()
                second.latency = None

    def part(self) -> SeriesPart:
        """All of it as one part. The latency goes as a metric here; no second carries its counts."""
        seconds = []
        for at, each in self.seconds.items():
            each.tell()
            seconds.append(SecondPart(at, each.ended, each.failed, told=each.told))
        return SeriesPart(
            self.scenario,
            self.version,
            self.ok,
            self.failed,
            self.timed_out,
            self.good,
            self.tokens,
            self.bytes_sent,
            self.bytes_received,
            dict(self.codes),
            dict(self.failures),
            self.samples,
            {name: each.part() for name, each in self.metrics.items()},
            tuple(seconds),
        )

    def rest(self, scenario: str) -> Series:
        return Series(
            scenario,
            self.version,
            self.ok,
            self.failed,
            self.timed_out,
            self.good,
            self.tokens,
            self.bytes_sent,
            self.bytes_received,
            dict(self.codes),
            dict(self.failures),
            self.samples,
            {name: each.rest() for name, each in sorted(self.metrics.items()) if each.count},
            tuple(self.seconds[at].second(at) for at in sorted(self.seconds)),
        )


@dataclass(slots=True)
class _Process:
    """The latest that a process told, and its own lag."""

    latest: Report
    lag: Histogram = field(default_factory=Histogram)
    lost: str = ""


class Collector:
    """One run."""

    def __init__(self, plan: Plan, started: float, engine: str = "") -> None:
        """`started`: Unix time."""
        self.plan = plan
        self.started = started
        self._engine = engine
        self._processes: dict[str, _Process] = {}
        self._series: dict[tuple[int, str], _Series] = {}
        self._sent = 0

    def add(self, report: Report) -> None:
        process = self._processes.setdefault(report.worker, _Process(report))
        process.latest = replace(report, series=())
        for part in report.series:
            key = (part.scenario, part.version)
            series = self._series.get(key)
            if series is None:
                series = self._series[key] = _Series(*key)
            series.add(part)
            series.settle()
            if "lag" in part.metrics:
                process.lag.add_part(part.metrics["lag"])

    def lose(self, worker: str, why: str) -> None:
        """It died, or its reports stopped. Telling it twice keeps the first reason."""
        process = self._processes.setdefault(worker, _Process(Report(worker, ())))
        process.lost = process.lost or why

    def is_lost(self, worker: str) -> bool:
        return worker in self._processes and bool(self._processes[worker].lost)

    @property
    def workers(self) -> int:
        return sum(1 for each in self._processes.values() if not each.lost)

    def progress(self, phase: str, at: float, total: float | None, asked: float | None, note: str = "") -> Progress:
        """Rates are of what is new since the last time, which is a second ago."""
        books = [book for each in self._processes.values() for book in each.latest.books]
        sent = sum(book.sent + book.warmup for book in books)
        rate, self._sent = float(sent - self._sent), sent
        rows = [self._row(each) for each in self._ordered()]
        for each in self._series.values():
            each.news = 0
        return Progress(
            phase,  # type: ignore[arg-type]
            round(at, 3),
            total,
            asked,
            sent,
            rate,
            sum(book.in_flight for book in books),
            _number(self._lag().percentile(99)),
            self.workers,
            tuple(rows),
            note,
        )

    def _ordered(self) -> list[_Series]:
        return [self._series[key] for key in sorted(self._series)]

    def _row(self, series: _Series) -> Row:
        latency, ttft = series.metrics.get("latency"), series.metrics.get("ttft")
        p50, p99 = latency.percentiles(50, 99) if latency is not None else (math.nan, math.nan)
        return Row(
            self.plan.scenarios[series.scenario].name,
            series.version,
            series.ended,
            series.failed + series.timed_out,
            float(series.news),
            _number(p50),
            _number(p99),
            None if ttft is None else _number(ttft.percentile(50)),
        )

    def _lag(self) -> Histogram:
        lag = Histogram()
        for each in self._processes.values():
            lag.add(each.lag)
        return lag

    def outcome(self, interrupted: bool = False) -> Outcome:
        """What is known by now."""
        series = tuple(each.rest(self.plan.scenarios[each.scenario].name) for each in self._ordered())
        accounts = tuple(self._account(index) for index in range(len(self.plan.scenarios)))
        lag = self._lag()
        processes = [self._self(name, each) for name, each in sorted(self._processes.items())]
        return Outcome(
            self.plan.name,
            self.started,
            max((each.duration for each in accounts), default=0.0),
            accounts,
            series,
            tuple(each.worker(self.plan.bounds) for each in processes),
            faults(self.plan, processes, accounts, series, _number(lag.percentile(99))),
            interrupted,
            lag.rest(),
            self._engine,
        )

    def _account(self, index: int) -> Sent:
        books = [each.latest.books[index] for each in self._processes.values() if index < len(each.latest.books)]
        scenario = self.plan.scenarios[index]
        planned = max((book.planned for book in books), default=0.0)
        asked, sent = sum(book.asked for book in books), sum(book.sent for book in books)
        span = max((book.span for book in books), default=0.0)
        return Sent(
            scenario.name,
            asked,
            sent,
            sum(book.in_flight for book in books),
            sum(book.dropped for book in books),
            sum(book.warmup for book in books),
            sum(book.connections for book in books),
            sum(book.retried for book in books),
            asked / planned if scenario.load.executor == "arrivals" and planned > 0 else None,
            sent / span if span > 0 else 0.0,
            span,
        )

    def _self(self, name: str, process: _Process) -> Self:
        told = process.latest
        spans = [book for book in told.books if book.span > 0]
        return Self(
            name,
            sum(book.sent for book in told.books),
            told.cpu,
            _number(process.lag.percentile(99)),
            sum(book.sent / book.span for book in spans),
            max((book.late for book in told.books), default=0.0),
            max((book.planned for book in told.books), default=0.0),
            told.jump,
            told.files,
            process.lost,
            told.troubles,
        )

    def reports(self) -> Iterable[Report]:
        """All that is known, as reports that another collector may add: nothing is lost on the way but who lagged."""
        parts = tuple(each.part() for each in self._ordered())
        for index, each in enumerate(self._processes.values()):
            yield replace(each.latest, series=parts if index == 0 else ())


def _sum(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else one + other


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value

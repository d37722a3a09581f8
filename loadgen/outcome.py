"""What came of a run: every request accounted for, per scenario and version, and whether the run can be believed.

The engine writes it, everything else reads it: verdicts, reports, experiments. Times are in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import TypeAdapter

from loadgen.histogram import Distribution

UNKNOWN = "unknown"  # an answer that names no version
UNATTRIBUTED = "unattributed"  # no answer at all, and no version pinned

# Metrics of a series, all durations but the last. `latency` counts from the intended start (coordinated omission
# corrected), `service` from the real one; `lag` lies between the two as far as it is our own fault, and `queue` the
# rest (no connection was free). `ttft`, `itl`, `tpot`: time to first token, gaps between tokens, time per output token.
METRICS = ("latency", "service", "connect", "lag", "queue", "ttft", "itl", "tpot")


@dataclass(frozen=True, slots=True)
class Second:
    """One second of a series' run, by the time at which requests ended; percentiles are of `latency`."""

    at: int  # whole seconds since the recorded part began
    ended: int
    failed: int
    p50: float | None = None
    p90: float | None = None
    p99: float | None = None
    greatest: float | None = None


@dataclass(frozen=True, slots=True)
class Series:
    """What one version answered to one scenario.

    `codes`: answers by HTTP status, or by gRPC status name. `failures`: why requests failed, by kind ("status 503",
    "connection refused", "timeout", ...), with `samples` of messages. Failed ones count in `metrics` too, timed out
    ones with the time that they were waited for. `good`: those within the goodput limits. `tokens`: output tokens.
    """

    scenario: str
    version: str
    ok: int = 0
    failed: int = 0
    timed_out: int = 0
    good: int | None = None
    tokens: int | None = None
    bytes_sent: int = 0
    bytes_received: int = 0
    codes: Mapping[str, int] = field(default_factory=dict)
    failures: Mapping[str, int] = field(default_factory=dict)
    samples: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, Distribution] = field(default_factory=dict)
    timeline: tuple[Second, ...] = ()

    @property
    def ended(self) -> int:
        return self.ok + self.failed + self.timed_out

    @property
    def errors(self) -> int:
        return self.failed + self.timed_out


@dataclass(frozen=True, slots=True)
class Sent:
    """The account of one scenario: sent = ok + failed + timed out + in flight at the end. Warm-up and drops apart."""

    scenario: str
    asked: int  # how many the schedule held up to the end; for closed loops as many as were sent
    sent: int
    in_flight: int  # at the end of the grace time
    dropped: int = 0
    warmup: int = 0
    connections: int = 0  # opened
    retried: int = 0  # sent again as the server had closed an idle connection; the only retry there is
    rate_asked: float | None = None  # per second, over the recorded part
    rate: float = 0.0
    duration: float = 0.0


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a run cannot be believed: what was measured against which bound, and what to do."""

    kind: Literal["lag", "rate", "cpu", "worker", "dropped", "version", "clock", "descriptors", "other"]
    what: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Worker:
    """One process of the engine. `cpu` is the share of a core that it used; `sustainable` what rate it can hold."""

    name: str
    sent: int
    cpu: float
    lag_p99: float | None = None
    sustainable: float | None = None
    lost: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run. No `faults`: it can be believed. `interrupted`: the user ended it early; what is here is true."""

    name: str
    started: float  # Unix time
    duration: float
    accounts: tuple[Sent, ...]
    series: tuple[Series, ...]
    workers: tuple[Worker, ...] = ()
    faults: tuple[Fault, ...] = ()
    interrupted: bool = False
    lag: Distribution | None = None
    engine: str = ""  # versions of headgate and locust

    @property
    def valid(self) -> bool:
        return not self.faults

    def versions(self) -> tuple[str, ...]:
        """In the order of their names, the unknown last."""
        last = (UNKNOWN, UNATTRIBUTED)
        return tuple(sorted({each.version for each in self.series}, key=lambda name: (name in last, name)))

    def to_json(self) -> bytes:
        return _OUTCOME.dump_json(self)

    @classmethod
    def from_json(cls, data: bytes | str) -> Outcome:
        """Raises pydantic.ValidationError."""
        return _OUTCOME.validate_json(data)


@dataclass(frozen=True, slots=True)
class Row:
    """A version in the live view: figures since the recorded part began, `rate` over the last second."""

    scenario: str
    version: str
    ended: int
    errors: int
    rate: float
    p50: float | None
    p99: float | None
    ttft_p50: float | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """What the engine tells once a second while it runs; one JSON document a line on its standard output."""

    phase: Literal["starting", "warm-up", "running", "draining"]
    at: float  # seconds since the phase "running" began, or since the start before it
    total: float | None  # how long it is meant to last
    asked: float | None  # requests per second that the schedule wants now
    sent: int
    rate: float  # requests sent in the last second
    in_flight: int
    lag_p99: float | None
    workers: int
    rows: tuple[Row, ...] = ()
    note: str = ""  # something worth telling: "worker 2 is lost"

    def to_json(self) -> bytes:
        return _PROGRESS.dump_json(self)

    @classmethod
    def from_json(cls, data: bytes | str) -> Progress:
        """Raises pydantic.ValidationError."""
        return _PROGRESS.validate_json(data)


_OUTCOME = TypeAdapter(Outcome)
_PROGRESS = TypeAdapter(Progress)

"""What processes of the engine tell about themselves once a second: values that add up, and travel as msgpack.

Series are what is new since the last report; books and the rest are as they stand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from loadgen.counts import Part


@dataclass(frozen=True, slots=True)
class SecondPart:
    """Requests that ended in one second. `latency` as long as more may come, then `told`: p50, p90, p99, greatest."""

    at: int
    ended: int
    failed: int
    latency: Part | None = None
    told: tuple[float, float, float, float] | None = None


@dataclass(frozen=True, slots=True)
class SeriesPart:
    """As outcome.Series. The latencies are in `seconds`, except for those of seconds that are told."""

    scenario: int
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
    metrics: Mapping[str, Part] = field(default_factory=dict)
    seconds: tuple[SecondPart, ...] = ()


@dataclass(frozen=True, slots=True)
class BookPart:
    """One scenario's account in one process so far.

    `planned`: seconds of the recorded part that have been planned and have passed; `span`: those in which it sent;
    `late`: how far the executor was behind its schedule at its last arrival.
    """

    asked: int = 0
    sent: int = 0
    in_flight: int = 0
    dropped: int = 0
    warmup: int = 0
    connections: int = 0
    retried: int = 0
    planned: float = 0.0
    span: float = 0.0
    late: float = 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """One process. `cpu`: the share of a core that it used in the recorded part; `jump`: how far the wall clock has
    moved against the steady one; `files`: most that were open, and how many may be."""

    worker: str
    books: tuple[BookPart, ...]
    series: tuple[SeriesPart, ...] = ()
    phase: str = "running"
    final: bool = False
    cpu: float = 0.0
    jump: float = 0.0
    files: tuple[int, int] | None = None
    troubles: tuple[str, ...] = ()  # our own mistakes: what stopped this process from doing its part

    def to_plain(self) -> dict[str, Any]:
        """For msgpack."""
        plain: dict[str, Any] = _REPORT.dump_python(self)
        return plain

    @classmethod
    def from_plain(cls, data: object) -> Report:
        """Raises pydantic.ValidationError."""
        return _REPORT.validate_python(data)


_REPORT = TypeAdapter(Report)

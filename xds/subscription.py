"""What one client has, wants and was sent of one type: the state that a Stream decides on."""

from __future__ import annotations

from dataclasses import dataclass, field

from xds.cache import Gone, Rejection
from xds.resources import Resource, Type


@dataclass(frozen=True, slots=True)
class Response:
    """One message for the client; `body` has its nonce already."""

    type: Type
    nonce: str
    body: bytes
    names: tuple[str, ...]


@dataclass(slots=True)
class Sent:
    """A response in flight: what it carried, and what the client held before."""

    nonce: str
    at: float
    before: dict[str, Resource | None]
    removed: dict[str, Gone | None]
    carried: int
    lapsed: set[str] = field(default_factory=set)
    """Carried names that the client has unsubscribed from, before or after it took this response."""


@dataclass(slots=True)
class Subscription:
    """One type on one stream."""

    type: Type
    wildcard: bool = False
    named_once: bool = False
    names: set[str] = field(default_factory=set)
    held: dict[str, Resource] = field(default_factory=dict)
    want: dict[str, Gone | None] = field(default_factory=dict)
    forced: set[str] = field(default_factory=set)
    parts: list[tuple[str, ...]] = field(default_factory=list)
    rejected: dict[str, Rejection] = field(default_factory=dict)
    blocked: dict[str, float] = field(default_factory=dict)
    unsure: set[str] = field(default_factory=set)
    """Names whose value at the client is not known: kept from an earlier stream, or part of a NACKed response."""
    leaving: dict[str, Gone] = field(default_factory=dict)
    """Clusters that were gone and came back before the client could let go of them, with their former users."""
    refusals: int = 0
    rests_until: float = 0.0
    owed_since: float | None = None
    in_flight: Sent | None = None
    nonce: str = ""
    owes_answer: bool = False
    proved: bool = False
    """The client has ACKed something of this type, or came with what it ACKed on an earlier stream."""

    def covers(self, resource: Resource) -> bool:
        return resource.name in self.names or (self.wildcard and not resource.named_only)

    def waits_for_ack(self, name: str) -> bool:
        return self.in_flight is not None and name in self.in_flight.before

    def is_due(self) -> bool:
        return self.in_flight is None and bool(self.want or self.parts or self.owes_answer)

    def is_new(self, name: str) -> bool:
        """Sent for the first time, and not yet ACKed."""
        return self.in_flight is not None and self.in_flight.before.get(name, self) is None

    def was_empty(self, name: str) -> bool:
        """What the client held before the response in flight had no endpoints."""
        before = self.in_flight.before.get(name) if self.in_flight is not None else None
        return before is not None and before.late

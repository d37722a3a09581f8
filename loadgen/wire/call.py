"""A call: one request and what became of it; and what every client of the wire does with calls.

Stamps are time.perf_counter() seconds of this process, 0.0 where the moment has not come.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

# Kinds of failure: stable words that reports and thresholds use. Beside them are "status NNN" and "grpc NAME".
REFUSED = "connection refused"
RESET = "connection reset"
CLOSED_EARLY = "closed early"  # the connection ended within an answer, or before it
NOT_RESOLVED = "name not resolved"
UNREACHABLE = "unreachable"  # no route to the address
TLS = "tls"
TIMEOUT = "timeout"
CONNECT_TIMEOUT = "connect timeout"
PROTOCOL = "protocol"  # the answer breaks the rules of HTTP, HTTP/2 or gRPC
STREAM_ERROR = "stream error"  # an error event inside a stream that began well
NO_ROOM = "no room"  # this machine has no file descriptor, port or connection left for it
NOT_SENT = "not sent"  # no connection got free for it until the end of the run: the executor's word
CANCELLED = "cancelled"  # still in flight when the client was closed

Fields = Sequence[tuple[bytes, bytes]]  # header fields or metadata, names in lower case


class Call:
    """One request, filled in as it goes along; after `done` it belongs to whoever made it.

    `sent`: when the client took it: its bytes went to the socket, or its connection began to be made. `connected`: when
    that connection was ready, 0.0 where the call found an open one. `first` and `ended`: when the first and the last
    byte of the answer were read from the socket, or when it failed. `code`: the HTTP status or the gRPC status' name,
    "" without an answer. `version`: which model version answered, None where nothing tells. `failure`: its kind, None
    for success. `tokens`: when each token (or streamed message) arrived, None where the answer is not a stream.
    `output_tokens`: how many the server says it made, or else how many arrived.
    """

    __slots__ = (
        "code",
        "connected",
        "due",
        "ended",
        "failure",
        "first",
        "intended",
        "message",
        "output_tokens",
        "received",
        "recorded",
        "scenario",
        "sent",
        "seq",
        "tokens",
        "user",
        "version",
        "written",
    )

    def __init__(self, scenario: int = 0, intended: float = 0.0, seq: int = 0, user: int = 0, recorded: bool = True):
        self.scenario = scenario
        self.intended = intended
        self.seq = seq
        self.user = user
        self.recorded = recorded
        self.due = 0.0
        self.sent = 0.0
        self.connected = 0.0
        self.first = 0.0
        self.ended = 0.0
        self.code = ""
        self.version: str | None = None
        self.failure: str | None = None
        self.message = ""
        self.written = 0  # bytes, before TLS
        self.received = 0
        self.tokens: list[float] | None = None
        self.output_tokens: int | None = None

    def __repr__(self) -> str:
        return (
            f"Call({self.seq}, {self.code or '-'}, {self.failure or 'ok'}{': ' + self.message if self.message else ''})"
        )


Done = Callable[[Call], None]


class Client(Protocol):
    """Sends the calls of one scenario over its own connections, on the hub's loop of the thread that made it.

    Everything happens in callbacks of that loop: `done` runs in the hub and must not block. It is called once for each
    call that was sent, whatever happens, never from inside `send`; and it may send the next call itself.
    """

    in_flight: int  # calls sent and not done
    opened: int  # connections opened so far
    retried: int  # calls sent again, as the server had closed an idle connection under them

    def has_room(self) -> bool:
        """Whether `send` would find a free connection, or may open one."""

    def send(self, call: Call, body: bytes, headers: Fields = ()) -> None:
        """Start it now. `headers` come on top of those of the target that hold no template."""

    def close(self) -> None:
        """Close all connections. What is in flight, and what is sent from now on, is done as cancelled."""

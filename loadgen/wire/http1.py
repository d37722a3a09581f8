"""HTTP/1.1 in callbacks: a pool of connections, each with at most one call, and answers that may be event streams."""

from __future__ import annotations

from time import perf_counter

import gevent

from loadgen.attribution import Attribution
from loadgen.plan import Scenario, Target
from loadgen.wire.call import (
    CANCELLED,
    CLOSED_EARLY,
    NO_ROOM,
    PROTOCOL,
    RESET,
    STREAM_ERROR,
    TIMEOUT,
    Call,
    Done,
    Fields,
)
from loadgen.wire.connection import Closed, Connection, connect
from loadgen.wire.deadlines import Deadlines
from loadgen.wire.endpoint import Endpoint
from loadgen.wire.events import Tokens
from loadgen.wire.http1_head import Head, Heads, ProtocolError
from loadgen.wire.http1_reader import Reader
from loadgen.wire.http1_request import Requests

_CODES = {status: str(status) for status in range(100, 1000)}
_EVENTS = "text/event-stream"
_ENDED = "the run ended"


class Http1Client:
    """See loadgen.wire.call.Client. The connection used last is used first, so that a small load needs few of them."""

    def __init__(self, scenario: Scenario, done: Done) -> None:
        """Raises ValueError: what of the target cannot be used."""
        target, load = scenario.target, scenario.load
        self.in_flight = self.opened = self.retried = 0
        self.done = done
        self.target = target
        self.endpoint = Endpoint.of(target, ("http/1.1",))
        self.attribution = Attribution.of(target)
        names = (*self.attribution.headers, "content-type") if target.stream else self.attribution.headers
        self.heads = Heads(names, self.attribution.leading_headers)
        self.per_request = load.reuse == "per-request"
        self.failing = _failing(target)
        self.bodiless = target.method == "HEAD"
        self.idle: list[_Lane] = []
        self._requests = Requests(target, self.per_request)
        self._lanes: set[_Lane] = set()
        self._most = load.connections or 1 << 30
        self._kind = _StreamLane if target.stream else _Lane
        self.loop = gevent.get_hub().loop
        self._deadlines: Deadlines[_Lane] = Deadlines(self.loop, target.timeout, _Lane.expire)

    def has_room(self) -> bool:
        return bool(self.idle) or len(self._lanes) < self._most

    def send(self, call: Call, body: bytes, headers: Fields = ()) -> None:
        call.sent = now = perf_counter()
        self.in_flight += 1
        try:
            data = self._requests.render(body, headers)
        except ValueError as error:
            self.loop.run_callback(self.fail, call, PROTOCOL, str(error))
            return
        if self.idle:
            lane = self.idle.pop()
        elif len(self._lanes) < self._most:
            lane = self._kind(self)
            self._lanes.add(lane)
        else:
            why = (NO_ROOM, f"all {self._most} connections are taken") if self._most else (CANCELLED, _ENDED)
            self.loop.run_callback(self.fail, call, *why)
            return
        self._deadlines.add(lane, now)
        lane.start(call, data)

    def close(self) -> None:
        self._most = 0
        for lane in list(self.idle):  # before any call that ends may send the next one
            self.drop(lane)
        for lane in list(self._lanes):
            lane.fail(CANCELLED, _ENDED)
        self._deadlines.close()

    # ------------------------------------------------------------------ for lanes

    def release(self, lane: _Lane) -> None:
        """Its call has ended, and another may follow."""
        self._deadlines.discard(lane)
        self.idle.append(lane)

    def drop(self, lane: _Lane) -> None:
        if lane in self._lanes:
            self._lanes.remove(lane)
            self._deadlines.discard(lane)
            if lane in self.idle:
                self.idle.remove(lane)
            lane.connection.close()

    def fail(self, call: Call, kind: str, message: str) -> None:
        call.ended = perf_counter()
        call.failure, call.message = kind, message
        call.version = call.version or self.attribution.pinned
        self.finish(call)

    def finish(self, call: Call) -> None:
        self.in_flight -= 1
        self.done(call)


class _Lane:
    """A connection and the call that it carries, if any."""

    __slots__ = ("call", "client", "connection", "data", "reader", "used")

    def __init__(self, client: Http1Client) -> None:
        self.client = client
        self.call: Call | None = None
        self.data = b""
        self.used = False  # whether the connection has carried a whole answer
        self.reader = Reader(client.heads, client.attribution.reads_body, client.target.stream)
        self.connection = self.connect()

    def connect(self) -> Connection:
        client = self.client
        return connect(client.endpoint, client.target.connect_timeout, self.on_open, self.on_bytes, self.on_closed)

    def start(self, call: Call, data: bytes) -> None:
        self.call = call
        self.data = data
        call.written = len(data)
        self.reader.expect(self.client.bodiless)
        if self.connection.opened:
            self.connection.write(data)

    def on_open(self) -> None:
        self.client.opened += 1
        if self.call is not None:
            self.call.connected = perf_counter()
            self.connection.write(self.data)

    def on_bytes(self, data: bytes) -> None:
        self.receive(data, perf_counter())

    def receive(self, data: bytes, now: float) -> None:
        """`now`: when the data were read from the socket."""
        call = self.call
        if call is None:
            self.client.drop(self)  # whatever the server says without being asked, it answers nothing
            return
        if not call.received:
            call.first = now
        call.received += len(data)
        try:
            complete = self.read(data, now)
        except ProtocolError as error:
            self.fail(PROTOCOL, f"{self.client.endpoint.label}: {error}")
            return
        if complete:
            self.complete(call, now)

    def read(self, data: bytes, now: float) -> bool:
        return self.reader.feed(data)

    def on_closed(self, why: Closed) -> None:
        call = self.call
        if call is None:
            self.client.drop(self)
        elif why.finished and self.reader.end():
            self.complete(call, perf_counter())
        elif self.used and not call.received and why.kind in (CLOSED_EARLY, RESET):
            self.client.retried += 1
            self.used = False
            self.connection = self.connect()  # a new one; the other idle ones may be just as dead
        elif why.kind == CLOSED_EARLY:
            when = f"after {call.received} bytes of its answer" if call.received else "before it answered"
            self.fail(why.kind, f"{why.message} {when}")
        else:
            self.fail(why.kind, why.message)

    def expire(self) -> None:
        call = self.call
        if call is not None:
            what = f"only {call.received} bytes of the answer" if call.received else "no answer"
            self.fail(TIMEOUT, f"{self.client.endpoint.label}: {what} within {self.client.target.timeout:g} s")

    def fail(self, kind: str, message: str) -> None:
        """The connection goes with the call: what would come of it cannot be told from the next answer."""
        call, head = self.call, self.reader.head
        self.call = None
        self.client.drop(self)
        if call is None:
            return
        if head is not None:
            call.code = _CODES[head.status]
            call.version = head.version or self.version(head)
        self.client.fail(call, kind, message)

    def complete(self, call: Call, now: float) -> None:
        client, reader = self.client, self.reader
        head = reader.head
        assert head is not None
        call.ended = now
        call.code = _CODES[head.status]
        call.version = head.version or self.version(head)
        if head.status in client.failing:
            call.failure = f"status {call.code}"
            call.message = b"".join(reader.body)[:200].decode(errors="replace")
        self.call = None
        if head.reusable and self.connection.free and not (reader.surplus or client.per_request):
            self.used = True
            client.release(self)
        else:
            client.drop(self)
        client.finish(call)

    def version(self, head: Head) -> str | None:
        reader = self.reader
        fields = {**head.fields, **reader.trailers} if reader.trailers else head.fields
        return self.client.attribution.version(fields, b"".join(reader.body))


class _StreamLane(_Lane):
    """Takes the times of all that has arrived, on whichever connection, before any of it is read."""

    __slots__ = ("arrived", "more", "streams", "tokens")

    def start(self, call: Call, data: bytes) -> None:
        self.arrived: list[tuple[float, bytes]] = []
        self.tokens = Tokens(self.client.target.dialect)
        self.streams: bool | None = None  # whether the answer is what it should be, once that is known
        self.more = False  # whether more has arrived than what is being read
        super().start(call, data)

    def on_bytes(self, data: bytes) -> None:
        self.arrived.append((perf_counter(), data))
        if len(self.arrived) == 1:
            self.client.loop.run_callback(self.catch_up)  # once the loop has read from all sockets that are ready

    def catch_up(self) -> None:
        arrived, self.arrived = self.arrived, []
        for now, data in arrived:
            self.more = now is not arrived[-1][0]
            self.receive(data, now)
            if self.call is None or not self.call.received:  # it ended: the rest is no part of it
                break

    def read(self, data: bytes, now: float) -> bool:
        try:
            return self.reader.feed(data)
        finally:  # what came before a fault counts
            parts = self.reader.body
            if parts:
                if self.streams is None:
                    self.streams = self.reader.head is not None and _is_stream(self.reader.head)
                if self.streams:
                    self.tokens.feed(parts[0] if len(parts) == 1 else b"".join(parts), now)
                    parts.clear()

    def on_closed(self, why: Closed) -> None:
        self.catch_up()
        super().on_closed(why)

    def expire(self) -> None:
        self.catch_up()
        super().expire()

    def fail(self, kind: str, message: str) -> None:
        if self.call is not None:
            self.tell_tokens(self.call)
        super().fail(kind, message)

    def complete(self, call: Call, now: float) -> None:
        head = self.reader.head
        assert head is not None
        if head.status < 300 and not _is_stream(head):
            call.failure = STREAM_ERROR
            call.message = f"the answer is {head.fields['content-type']} and not a stream of events"
        elif head.status < 300:
            self.tokens.end()
            if self.tokens.trouble is not None:
                call.failure, call.message = STREAM_ERROR, self.tokens.trouble
        self.tell_tokens(call)
        self.reader.surplus = self.reader.surplus or self.more
        super().complete(call, now)

    def tell_tokens(self, call: Call) -> None:
        call.tokens = self.tokens.stamps
        call.output_tokens = len(self.tokens.stamps) if self.tokens.output is None else self.tokens.output

    def version(self, head: Head) -> str | None:
        return self.client.attribution.version(head.fields, self.tokens.first)


def _is_stream(head: Head) -> bool:
    kind = head.fields.get("content-type", _EVENTS)
    return head.status < 300 and kind.partition(";")[0].strip().lower() == _EVENTS


def _failing(target: Target) -> frozenset[int]:
    return frozenset(status for status in _CODES if any(status in errors for errors in target.errors))

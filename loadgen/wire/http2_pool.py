"""Connections that carry many calls at a time: which call goes where, and what becomes of it when one goes away.

    call -> Http2Pool -> Lane (a socket and an HTTP/2 machine) -> Exchange (a stream that knows its call)

A call goes to a connection without calls (the one used last comes first), or to a new one, or, when there may be no
more of them, to one of the others in turn. Only what a server has certainly not touched is sent again: what it says so
of in a GOAWAY, and, once, what was under way when it closed an idle connection.
"""

from __future__ import annotations

from collections import deque
from time import perf_counter

import gevent

from loadgen.attribution import Attribution
from loadgen.plan import Scenario
from loadgen.target_fields import Pairs, fields_of, host_of
from loadgen.wire.call import (
    CANCELLED,
    CLOSED_EARLY,
    NO_ROOM,
    PROTOCOL,
    RESET,
    STREAM_ERROR,
    TIMEOUT,
    TLS,
    Call,
    Done,
    Fields,
)
from loadgen.wire.connection import Closed, connect
from loadgen.wire.deadlines import Deadlines
from loadgen.wire.endpoint import Endpoint
from loadgen.wire.header_blocks import Blocks, encode, encode_bytes
from loadgen.wire.http2 import Connection, Loss, Stream

_MOST_MOVES = 8  # a server may take few calls on each connection, and must take some
_NOT_IN_HTTP2 = ("keep-alive", "proxy-connection", "upgrade", "host")


class Exchange(Stream):
    """A call on its way. Subclasses read the answer: they set what the call is to say and call `complete` or `fail`."""

    __slots__ = ("block", "body", "call", "lane", "moves", "pool", "reads")

    lane: Lane
    reads: int  # of the lane's socket when this went into an idle connection that had been used; -1 otherwise

    def __init__(self, pool: Http2Pool, call: Call, block: bytes, body: bytes) -> None:
        self.live = False
        self.pool = pool
        self.call = call
        self.block = block
        self.body = body
        self.moves = 0  # how often it has gone to another connection

    def begin(self, machine: Connection) -> None:
        """The connection is ready for it."""
        machine.open(self, self.block, self.body)

    def failed(self, loss: Loss) -> None:
        unheard = loss.kind in (CLOSED_EARLY, RESET) and self.reads == self.lane.reads
        if self.moves < (_MOST_MOVES if loss.untouched else unheard):
            self.pool.retried += 1
            self.pool.place(self)
        else:
            self.fail(loss.kind, f"{self.pool.endpoint.label}: {loss.message}")

    def complete(self) -> None:
        """The answer is there; the call says what it was."""
        self.call.ended = self.lane.now
        self.pool.finish(self)

    def fail(self, kind: str, message: str) -> None:
        """It ends here, by our own decision or the server's."""
        call = self.call
        if self.live:
            self.connection.reset(self)
        call.ended = perf_counter()
        call.failure, call.message = kind, message
        self.settle()
        self.pool.finish(self)

    def settle(self) -> None:
        """A call without a complete answer: note what is known all the same."""
        self.call.version = self.call.version or self.pool.attribution.pinned


class Http2Pool:
    """See loadgen.wire.call.Client. Subclasses make exchanges."""

    def __init__(self, scenario: Scenario, done: Done, head: Pairs, defaults: Pairs) -> None:
        """`head`: the pseudo-headers but :scheme and :authority. Raises ValueError: what cannot be used."""
        target, load = scenario.target, scenario.load
        self.in_flight = self.opened = self.retried = 0
        self.done = done
        self.target = target
        self.endpoint = Endpoint.of(target, ("h2",))
        self.attribution = Attribution.of(target)
        self.blocks = Blocks()
        self.loop = gevent.get_hub().loop
        self.per_request = load.reuse == "per-request"
        self.streams = 1 if self.per_request else load.streams_per_connection
        self._bounded = load.connections > 0
        self._most = load.connections or 1 << 30
        self._lanes: list[Lane] = []  # those that take calls; others live on until theirs have ended
        self._all: set[Lane] = set()
        self._idle: list[Lane] = []
        self._turn = 0
        self._lane = StreamLane if self._stamps() else Lane
        self._deadlines: Deadlines[Exchange] = Deadlines(self.loop, target.timeout, self._expired)
        fields = [(name.lower(), value) for name, value in fields_of(target, defaults)]
        authority = next((value for name, value in fields if name == "host"), host_of(target))
        scheme = "https" if self.endpoint.tls else "http"
        kept = [(name, value) for name, value in fields if name not in _NOT_IN_HTTP2]
        self._block = encode([*head, (":scheme", scheme), (":authority", authority), *kept])

    def has_room(self) -> bool:
        if self._idle or len(self._lanes) < self._most:
            return True
        return any(lane.room() > 0 for lane in self._lanes)

    def send(self, call: Call, body: bytes, headers: Fields = ()) -> None:
        call.sent = now = perf_counter()
        self.in_flight += 1
        block = self._block
        if headers:
            block += encode_bytes(headers)
        exchange = self.make(call, block, body)
        self._deadlines.add(exchange, now)
        if headers and any(b"\n" in value or b"\r" in value or b"\0" in value for _, value in headers):
            self.loop.run_callback(exchange.fail, PROTOCOL, "a header's value holds a line break or a NUL")
            return
        lane = self._pick()
        if lane is None:
            self.loop.run_callback(exchange.fail, NO_ROOM, f"all {len(self._lanes)} connections are taken")
        else:
            lane.begin(exchange)

    def close(self) -> None:
        self._most = 0
        self._idle.clear()
        lanes, self._lanes = list(self._all), []
        for lane in lanes:
            for exchange in lane.exchanges():
                exchange.fail(CANCELLED, "the run ended")
        for lane in lanes:
            lane.machine.close()
            lane.flush()
            self.drop(lane)
        self._deadlines.close()

    # ------------------------------------------------------------------ for subclasses

    def make(self, call: Call, block: bytes, body: bytes) -> Exchange:
        raise NotImplementedError

    def _stamps(self) -> bool:
        """Whether the time at which each part of an answer came is of interest."""
        return False

    # ------------------------------------------------------------------ for lanes and exchanges

    def place(self, exchange: Exchange) -> None:
        """It was on a connection that does not want it: to another one, which may mean waiting there."""
        exchange.moves += 1
        self.retire(exchange.lane)
        lane = self._pick()
        if lane is None and self._lanes:
            lane = min(self._lanes, key=Lane.load)
        if lane is None:
            self.loop.run_callback(exchange.fail, CANCELLED, "the run ended")
        else:
            lane.begin(exchange)

    def finish(self, exchange: Exchange) -> None:
        self._deadlines.discard(exchange)
        self.in_flight -= 1
        lane = getattr(exchange, "lane", None)
        if lane is not None and not lane.load():
            if self.per_request or lane.machine.draining:
                self.retire(lane)
            else:
                self.idle(lane)
        self.done(exchange.call)

    def idle(self, lane: Lane) -> None:
        """It has no calls any more."""
        if lane.machine.room() > 0 and lane in self._all:
            self._idle.append(lane)

    def retire(self, lane: Lane) -> None:
        """It gets no more calls."""
        if lane in self._lanes:
            self._lanes.remove(lane)
        if lane in self._idle:
            self._idle.remove(lane)

    def drop(self, lane: Lane) -> None:
        self.retire(lane)
        self._all.discard(lane)
        lane.connection.close()

    def _pick(self) -> Lane | None:
        if self._idle:
            return self._idle.pop()
        lanes = self._lanes
        if self._bounded and len(lanes) < self._most:
            return self._new()
        for _ in range(len(lanes)):
            self._turn = (self._turn + 1) % len(lanes)
            if lanes[self._turn].room() > 0:
                return lanes[self._turn]
        return self._new() if len(lanes) < self._most else None

    def _new(self) -> Lane:
        lane = self._lane(self)
        self._lanes.append(lane)
        self._all.add(lane)
        return lane

    def _expired(self, exchange: Exchange) -> None:
        exchange.lane.catch_up()
        if exchange.call.ended:
            return  # the answer was there, and nobody had looked
        what = f"only {exchange.call.received} bytes of the answer" if exchange.call.received else "no answer"
        exchange.lane.forget(exchange)
        exchange.fail(TIMEOUT, f"{self.endpoint.label}: {what} within {self.target.timeout:g} s")
        exchange.lane.after()


class Lane:
    """A connection: a socket, the HTTP/2 on it, and the calls that wait for it to be ready."""

    __slots__ = ("_flushing", "_new", "_receiving", "_waiting", "connection", "machine", "now", "pool", "reads")

    def __init__(self, pool: Http2Pool) -> None:
        self.pool = pool
        self.machine = Connection(pool.blocks, pool.streams)
        self.now = 0.0  # when the last data were read from the socket
        self.reads = 0
        self._waiting: deque[Exchange] = deque()
        self._new = True  # until the server's settings are here
        self._receiving = self._flushing = False
        target = pool.target
        self.connection = connect(pool.endpoint, target.connect_timeout, self.on_open, self.on_bytes, self.on_closed)

    def load(self) -> int:
        return len(self.machine.streams) + len(self._waiting)

    def room(self) -> int:
        machine = self.machine
        if machine.draining or machine.closed:
            return 0
        return (machine.room() if machine.ready else self.pool.streams) - len(self._waiting)

    def exchanges(self) -> list[Exchange]:
        opened = [stream for stream in self.machine.streams.values() if isinstance(stream, Exchange)]
        waiting = list(self._waiting)
        self._waiting.clear()
        return opened + waiting

    def begin(self, exchange: Exchange) -> None:
        exchange.lane = self
        machine = self.machine
        if machine.room() > 0 and not self._waiting:
            self._open(exchange)
            self.flush_soon()
        else:
            self._waiting.append(exchange)

    def _open(self, exchange: Exchange) -> None:
        machine = self.machine
        exchange.reads = self.reads if machine.used and not machine.streams else -1
        exchange.begin(machine)

    def forget(self, exchange: Exchange) -> None:
        if exchange in self._waiting:
            self._waiting.remove(exchange)

    def flush_soon(self) -> None:
        """When all that is due in this turn of the loop has been added, so that it costs one system call."""
        if not self._flushing and not self._receiving:
            self._flushing = True
            self.pool.loop.run_callback(self.flush)

    def flush(self) -> None:
        self._flushing = False
        if self.connection.opened:
            data = self.machine.take()
            if data:
                self.connection.write(data)

    def catch_up(self) -> None:
        """Deal with what has been read."""

    def on_open(self) -> None:
        self.pool.opened += 1
        chosen = self.connection.alpn
        if self.pool.endpoint.tls is not None and chosen != "h2":
            self._give_up(TLS, f"{self.pool.endpoint.label} chose {chosen or 'nothing'} by ALPN, where h2 was offered")
        else:
            self.flush()

    def on_bytes(self, data: bytes) -> None:
        self.receive(data, perf_counter())

    def receive(self, data: bytes, now: float) -> None:
        """`now`: when the data were read from the socket."""
        self.now = now
        self.reads += 1
        self._receiving = True
        self.machine.receive(data)
        self._receiving = False
        if self._new and self.machine.ready:
            self._new = False
            for exchange in self._waiting:
                exchange.call.connected = now
            if not self._waiting:
                self.pool.idle(self)  # the call that it was made for has not waited
        self.after()

    def after(self) -> None:
        """The machine has changed: let it send, and let those begin that wait for it."""
        machine = self.machine
        while self._waiting and machine.room() > 0:
            self._open(self._waiting.popleft())
        self.flush()
        if machine.draining or machine.closed:
            self.pool.retire(self)
            self._leave()
        elif self.pool.per_request and not machine.streams and not self._waiting and not self._new:
            machine.close()
            self.flush()
            self.pool.drop(self)

    def on_closed(self, why: Closed) -> None:
        message = why.message
        self.pool.retire(self)
        self.machine.lost(why.kind, message.removeprefix(f"{self.pool.endpoint.label}: "))
        if self._new:
            self._give_up(why.kind, message + (" before it sent its settings" if self.connection.opened else ""))
        else:
            self._leave()
        self.pool.drop(self)

    def _leave(self) -> None:
        """The server takes no more calls here."""
        waiting, self._waiting = self._waiting, deque()
        for exchange in waiting:
            if self.machine.fault:
                exchange.fail(PROTOCOL, f"{self.pool.endpoint.label}: {self.machine.fault}")
            elif exchange.moves >= _MOST_MOVES:
                exchange.fail(STREAM_ERROR, f"{self.pool.endpoint.label}: the server goes away again and again")
            else:
                self.pool.place(exchange)
        if self.machine.closed:
            self.pool.drop(self)

    def _give_up(self, kind: str, message: str) -> None:
        waiting, self._waiting = self._waiting, deque()
        self.pool.drop(self)
        for exchange in waiting:
            exchange.fail(kind, message)


class StreamLane(Lane):
    """Takes the times of all that has arrived, on whichever connection, before any of it is read."""

    __slots__ = ("_arrived",)

    def __init__(self, pool: Http2Pool) -> None:
        self._arrived: list[tuple[float, bytes]] = []
        super().__init__(pool)

    def on_bytes(self, data: bytes) -> None:
        self._arrived.append((perf_counter(), data))
        if len(self._arrived) == 1:
            self.pool.loop.run_callback(self.catch_up)

    def catch_up(self) -> None:
        arrived, self._arrived = self._arrived, []
        for now, data in arrived:
            self.receive(data, now)

    def on_closed(self, why: Closed) -> None:
        self.catch_up()
        super().on_closed(why)

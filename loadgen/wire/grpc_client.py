"""gRPC over our own HTTP/2, calls of all four kinds. Answers are counted, stamped and, but for the version, not read.

Bodies are messages with their five bytes each (loadgen/payload/messages.py). Compression is neither offered nor taken.
"""

from __future__ import annotations

import re
from collections import deque
from typing import Any
from urllib.parse import unquote

from loadgen.plan import Grpc, Scenario
from loadgen.target_fields import default_fields
from loadgen.wire.call import PROTOCOL, TIMEOUT, Call, Done
from loadgen.wire.grpc_status import status_name, status_of_http
from loadgen.wire.header_blocks import Block
from loadgen.wire.http2 import Connection
from loadgen.wire.http2_pool import Exchange, Http2Pool

_KEPT = 1 << 16  # bytes of a message in which a version may be found
_METHOD = re.compile(r"[\w.]+/\w+")


class GrpcClient(Http2Pool):
    """See loadgen.wire.call.Client."""

    def __init__(self, scenario: Scenario, done: Done) -> None:
        """Raises ValueError: what of the target cannot be used."""
        target = scenario.target
        self.grpc = grpc_of(scenario)
        defaults = {"te": "trailers", "content-type": "application/grpc", **dict(default_fields(target))}
        defaults["grpc-timeout"] = timeout_text(target.timeout)
        del defaults["accept"]
        head = [(":method", "POST"), (":path", f"/{self.grpc.method}")]
        self.streaming = self.grpc.kind in ("server-stream", "bidi-stream")
        super().__init__(scenario, done, head, list(defaults.items()))
        rules = self.attribution.rules
        self.body_first = bool(rules) and rules[0].source == "body"
        paced = self.grpc.kind in ("client-stream", "bidi-stream") and self.grpc.stream_interval > 0
        self._kind = _PacedAnswer if paced else _Answer

    def make(self, call: Call, block: bytes, body: bytes) -> Exchange:
        call.written = len(block) + len(body)
        return self._kind(self, call, block, body)

    def _stamps(self) -> bool:
        return self.streaming


def grpc_of(scenario: Scenario) -> Grpc:
    """What of gRPC a scenario asks for. Raises ValueError where that is nothing, or no method."""
    grpc = scenario.target.grpc
    if grpc is None:
        raise ValueError(f"{scenario.name}: a gRPC target needs a method")
    if not _METHOD.fullmatch(grpc.method):
        raise ValueError(f"{scenario.name}: {grpc.method!r} is no method: it is written pkg.Service/Method")
    return grpc


def timeout_text(seconds: float) -> str:
    """As the header grpc-timeout has it: at most eight digits and a unit."""
    milliseconds = max(1, round(seconds * 1000))
    return f"{milliseconds}m" if milliseconds < 10**8 else f"{min(round(seconds), 10**8 - 1)}S"


class _Told:
    """What a block of headers or trailers says, for this client. `wrong`: why it begins no gRPC answer."""

    __slots__ = ("fields", "message", "name", "version", "wrong")

    def __init__(self, block: Block, client: GrpcClient) -> None:
        rules = client.attribution
        self.fields = {name: value for name in rules.headers if (value := block.get(name))}
        self.version = rules.version(self.fields)
        status = block.get("grpc-status")
        self.name = None if status is None else status_name(status.strip())
        self.message = unquote(block.get("grpc-message") or "", errors="replace")
        self.wrong = ""
        kind = block.get("content-type") or ""
        if block.status not in (0, 200) and status is None:
            self.name = status_of_http(block.status)
            self.message = f"HTTP status {block.status} without a gRPC status"
        elif status is not None and self.name is None:
            self.wrong = f"the grpc-status {status!r} is none"
        elif block.status and status is None and not kind.startswith("application/grpc"):
            self.wrong = f"the answer is {kind or 'of no type'} and not gRPC"


class _Answer(Exchange):
    __slots__ = ("_count", "_first", "_head", "_left", "_prefix", "_wanted")

    pool: GrpcClient

    def __init__(self, pool: GrpcClient, call: Call, block: bytes, body: bytes) -> None:
        self.live = False
        self.pool = pool
        self.call = call
        self.block = block
        self.body = body
        self.moves = 0
        self._head: _Told | None = None
        self._count = 0  # messages
        self._wanted = pool.attribution.reads_body
        self._first = b""  # message, or its beginning, if a version may be found in it
        self._left = 0  # bytes of the message that is coming
        self._prefix = b""  # a beginning of a message's first five bytes
        if pool.streaming:
            call.tokens = []

    def headed(self, block: Block) -> None:
        told = block.memo
        if told.__class__ is not _Told:
            told = block.memo = _Told(block, self.pool)
        self._head = told
        call = self.call
        call.first = self.lane.now
        call.received = block.size

    def data(self, data: bytes) -> None:
        size = len(data) - 5
        self.call.received += size + 5
        if (
            size >= 0
            and not (self._left or self._prefix or data[0])
            and int.from_bytes(data[1:5], "big") == size <= self.pool.grpc.max_message
        ):
            if self._wanted:
                self._first = data[5:]
            self._message()
        else:
            self._pieces(data)

    def _pieces(self, data: bytes) -> None:
        """A piece of a message, or several messages."""
        at, end = 0, len(data)
        while at < end:
            if not self._left:
                begin = self._prefix + data[at : at + 5 - len(self._prefix)]
                at += len(begin) - len(self._prefix)
                self._prefix = b""
                if len(begin) < 5:
                    self._prefix = begin
                elif not self._takes(begin):
                    return
                continue
            size = min(self._left, end - at)
            if self._wanted and len(self._first) < _KEPT:
                self._first += data[at : at + size]
            self._left -= size
            at += size
            if not self._left:
                self._message()

    def _takes(self, begin: bytes) -> bool:
        """A message begins with these five bytes."""
        size, most = int.from_bytes(begin[1:], "big"), self.pool.grpc.max_message
        if begin[0]:
            self.fail(PROTOCOL, f"{self._label}: a compressed message, though we take none")
        elif size > most:
            self.call.code = "RESOURCE_EXHAUSTED"
            self.fail("grpc RESOURCE_EXHAUSTED", f"a message of {size} bytes is larger than {most}, the most we take")
        else:
            self._left = size
            if not size:
                self._message()
            return True
        return False

    def _message(self) -> None:
        self._count += 1
        self._wanted = False
        if self.call.tokens is not None:
            self.call.tokens.append(self.lane.now)

    def ended(self, trailers: Block | None) -> None:
        head, call = self._head, self.call
        assert head is not None
        told: Any = head
        if trailers is not None:
            told = trailers.memo
            if told.__class__ is not _Told:
                told = trailers.memo = _Told(trailers, self.pool)
        call.version = self._version(head, told)
        if self.pool.streaming:
            call.output_tokens = self._count
        name = told.name
        if name == "OK" and not head.wrong:
            call.code = "OK"
            wrong = "" if self._count == 1 and not (self._left or self._prefix) else self._miscounted()
        else:
            wrong = head.wrong or told.wrong
            if not wrong and name is None:
                name, told = head.name, head  # of HTTP
                wrong = "" if name else "the answer ends without a grpc-status"
            if not wrong:
                call.code, call.failure, call.message = name, f"grpc {name}", told.message
                if name == "DEADLINE_EXCEEDED" and self.lane.now - call.sent >= 0.9 * self.pool.target.timeout:
                    call.failure = TIMEOUT  # the server's clock for our deadline has only been a little faster
        if wrong:
            call.failure, call.message = PROTOCOL, f"{self._label}: {wrong}"
        self.complete()

    def settle(self) -> None:
        if self._head is not None:
            self.call.version = self._version(self._head, self._head)
        if self.pool.streaming:
            self.call.output_tokens = self._count
        super().settle()

    @property
    def _label(self) -> str:
        return self.pool.endpoint.label

    def _version(self, head: _Told, told: _Told) -> str | None:
        pool = self.pool
        if not pool.body_first:
            found = head.version or told.version
            if found is not None or not self._first:
                return found
        return pool.attribution.version({**told.fields, **head.fields}, self._first, protobuf=True)

    def _miscounted(self) -> str:
        if self._left or self._prefix:
            return "the answer ends within a message"
        if self.pool.streaming:
            return ""
        return f"the status is OK, and there are {self._count} messages where one was due"


class _PacedAnswer(_Answer):
    """Sends its messages one after another, some time apart."""

    __slots__ = ("_rest", "_timer")

    def __init__(self, pool: GrpcClient, call: Call, block: bytes, body: bytes) -> None:
        super().__init__(pool, call, block, body)
        self._rest = deque(split(body))
        self._timer: Any = None

    def begin(self, machine: Connection) -> None:
        machine.open(self, self.block, self._rest.popleft() if self._rest else b"", end=not self._rest)
        self._wait()

    def complete(self) -> None:
        self._stop()
        super().complete()

    def settle(self) -> None:
        self._stop()
        super().settle()

    def _wait(self) -> None:
        self._stop()
        if self._rest:
            self._timer = self.pool.loop.timer(self.pool.grpc.stream_interval)
            self._timer.start(self._next)

    def _next(self) -> None:
        if self.live:
            message = self._rest.popleft()
            self.connection.send(self, message, end=not self._rest)
            self.lane.flush_soon()
            self._wait()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.close()
            self._timer = None


def split(body: bytes) -> list[bytes]:
    """Framed messages, one by one."""
    found, at = [], 0
    while at < len(body):
        end = at + 5 + int.from_bytes(body[at + 1 : at + 5], "big")
        found.append(body[at:end])
        at = end
    return found

"""Plain HTTP over HTTP/2, with prior knowledge or by ALPN; answers may be event streams."""

from __future__ import annotations

from loadgen.plan import Scenario
from loadgen.target_fields import default_fields, path_of
from loadgen.wire.call import PROTOCOL, STREAM_ERROR, Call, Done
from loadgen.wire.events import Tokens
from loadgen.wire.header_blocks import Block, encode
from loadgen.wire.http2_pool import Exchange, Http2Pool

_CODES = {status: str(status) for status in range(1000)}
_EVENTS = "text/event-stream"
_KEPT = 1 << 20  # bytes of a body in which a version may be found
_MAY_HAVE_BODY = ("POST", "PUT", "PATCH")


class Http2Client(Http2Pool):
    """See loadgen.wire.call.Client."""

    def __init__(self, scenario: Scenario, done: Done) -> None:
        """Raises ValueError: what of the target cannot be used."""
        target = scenario.target
        head = [(":method", target.method), (":path", path_of(target))]
        super().__init__(scenario, done, head, default_fields(target))
        self.failing = frozenset(code for code in _CODES if any(code in errors for errors in target.errors))
        self.bodiless = target.method == "HEAD"
        self._lengths = target.method in _MAY_HAVE_BODY
        self._last: tuple[bytes, bytes] = (b"", encode([("content-length", "0")]) if self._lengths else b"")
        self._kind = _StreamAnswer if target.stream else _Answer

    def make(self, call: Call, block: bytes, body: bytes) -> Exchange:
        if body is not self._last[0] and (body or self._lengths):
            self._last = body, encode([("content-length", str(len(body)))])
        block += self._last[1]
        call.written = len(block) + len(body)
        return self._kind(self, call, block, body)

    def _stamps(self) -> bool:
        return self.target.stream


class _Head:
    """What a block of headers says, for this client."""

    __slots__ = ("code", "events", "failing", "fields", "kind", "length", "version")

    def __init__(self, block: Block, client: Http2Client) -> None:
        rules = client.attribution
        self.fields = {name: value for name in rules.headers if (value := block.get(name))}
        self.version = rules.version(self.fields)
        self.code = _CODES[block.status]
        self.failing = block.status in client.failing
        self.kind = block.get("content-type")
        self.events = (self.kind or _EVENTS).partition(";")[0].strip().lower() == _EVENTS
        length = block.get("content-length")
        has_body = not client.bodiless and block.status not in (204, 304)
        self.length = int(length) if has_body and length and length.isascii() and length.isdigit() else None


class _Answer(Exchange):
    __slots__ = ("_head", "_parts", "_size")

    pool: Http2Client
    _head: _Head | None

    def __init__(self, pool: Http2Client, call: Call, block: bytes, body: bytes) -> None:
        super().__init__(pool, call, block, body)
        self._head = None
        self._size = 0
        self._parts: list[bytes] = []

    def headed(self, block: Block) -> None:
        head = block.memo
        if head.__class__ is not _Head:
            head = block.memo = _Head(block, self.pool)
        assert isinstance(head, _Head)
        self._head = head
        call = self.call
        call.first = self.lane.now
        call.received = block.size
        call.code = head.code

    def data(self, data: bytes) -> None:
        self.call.received += len(data)
        self._size += len(data)
        if self._size <= _KEPT:
            self._parts.append(data)

    def ended(self, trailers: Block | None) -> None:
        head, call = self._head, self.call
        assert head is not None
        call.version = self.version(head)
        if head.failing:
            call.failure, call.message = f"status {call.code}", b"".join(self._parts)[:200].decode(errors="replace")
        elif head.length is not None and head.length != self._size:
            said = f"the body has {self._size} bytes, and content-length says {head.length}"
            call.failure, call.message = PROTOCOL, f"{self.pool.endpoint.label}: {said}"
        self.judge(head)
        self.complete()

    def settle(self) -> None:
        if self._head is not None:
            self.call.version = self._head.version
        super().settle()

    def version(self, head: _Head) -> str | None:
        rules = self.pool.attribution
        if rules.reads_body and (head.version is None or rules.rules[0].source == "body"):
            return rules.version(head.fields, b"".join(self._parts))
        return head.version

    def judge(self, head: _Head) -> None:
        """Say of an answer that came well what is wrong in it."""


class _StreamAnswer(_Answer):
    __slots__ = ("_tokens",)

    def __init__(self, pool: Http2Client, call: Call, block: bytes, body: bytes) -> None:
        super().__init__(pool, call, block, body)
        self._tokens = Tokens(pool.target.dialect)

    def data(self, data: bytes) -> None:
        head = self._head
        assert head is not None
        if head.events and int(head.code) < 300:
            self.call.received += len(data)
            self._size += len(data)
            self._tokens.feed(data, self.lane.now)
        else:
            super().data(data)

    def version(self, head: _Head) -> str | None:
        return self.pool.attribution.version(head.fields, self._tokens.first)

    def judge(self, head: _Head) -> None:
        self._note()
        call = self.call
        if call.failure is not None:
            return
        if not head.events:
            call.failure, call.message = STREAM_ERROR, f"the answer is {head.kind} and not a stream of events"
            return
        self._tokens.end()
        if self._tokens.trouble is not None:
            call.failure, call.message = STREAM_ERROR, self._tokens.trouble

    def settle(self) -> None:
        self._note()
        super().settle()

    def _note(self) -> None:
        self.call.tokens = self._tokens.stamps
        self.call.output_tokens = len(self._tokens.stamps) if self._tokens.output is None else self._tokens.output

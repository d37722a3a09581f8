"""One request of Envoy's as the chain of plugins sees it: Envoy's questions in, our answers out.

    Envoy ── request_headers ──► Exchange.message ──► Chain ──► plugins
          ◄── changes, a body, an answer for the client ──

Envoy waits for the answer to each question, in each direction in order. A chain that keeps the headers until it has
the body lets Envoy go on with an answer that changes nothing; the changes then come with the body (`BUFFERED`).
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from sidecar import cluster_name, route_name
from sidecar.chain import Chain, Out
from sidecar.ext_proc import wire
from sidecar.ext_proc.choice import REQUEST, RESPONSE, Chosen
from sidecar.ext_proc.header_map import WireHeaders
from sidecar.ext_proc.http2 import INTERNAL, INVALID_ARGUMENT, Stream
from sidecar.headers import HeaderList, Headers
from sidecar.health import Fault
from sidecar.host import Host
from sidecar.lean import untie
from sidecar.plugin import Entry, HttpRequest, HttpResponse, Reply, Value

if TYPE_CHECKING:
    from asyncio import TimerHandle

    from sidecar.ext_proc.application import Application

ATTRIBUTES: Final = {
    "route": "xds.route_name",
    "cluster": "xds.cluster_name",
    "source_address": "source.address",
    "protocol": "request.protocol",
}
LOGGED: Final = ("route", "cluster", "source_address")  # go into the entry of a log
_GRACE = 0.5  # seconds that Envoy waits longer than a plugin may pause
_NO_LENGTH: Final[wire.Changes] = (("content-length", ()),)
_log = logging.getLogger("headgate.plugins")


class Exchange(Host):
    """The handler of one stream, and the host of its chain."""

    chain: Chain | None = None
    _metadata: dict[str, dict[str, Value]] | None = None
    _timer: TimerHandle | None = None
    _attributes: tuple[Any, ...] = ()  # messages with attributes, or what was read of them
    _observing = False
    _over = False  # nothing more is to be answered
    _first = True

    def __init__(self, application: Application, plugins: Chosen, stream: Stream, flush: Callable[[], None]) -> None:
        self.application = application
        self._plugins = plugins
        self._pipeline = plugins.pipeline
        self._stream = stream
        self._flush = flush
        self._since = time.time()
        self._prepare()

    # What the stream calls

    def message(self, data: bytes) -> None:
        """A question of Envoy's."""
        if self._over:
            return
        try:
            question, what, request = wire.parse(data)
            if request.attributes:
                self._attributes = (*self._attributes, request)
            self._asked_for(question, what, request)
        except wire.Malformed as error:
            self.application.malformed += 1
            _log.warning("a message of Envoy's was refused: %s", error)
            self._over = True
            self._stream.finish(INVALID_ARGUMENT, str(error))
        except Exception:
            self._failed()

    def _failed(self) -> None:
        """A fault of our own, which is being handled."""
        _log.exception("a request could not be given to the plugins")
        self._over = True
        self._stream.finish(INTERNAL, "see the log of the plugins' server")

    def half_closed(self) -> None:
        """Envoy has asked all it wanted to."""
        self._stream.finish()

    def gone(self) -> None:
        """The stream is over: all is over, or Envoy needs us no more."""
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        chain = self.chain
        if chain is not None:
            chain.finish(self._entry(chain) if self._pipeline.loggers else None)
            untie(chain)
            self.chain = None

    # What the chain asks

    def property(self, name: str) -> Value:
        if name in ATTRIBUTES:
            value = self._attribute(ATTRIBUTES[name])
            if name == "cluster" and value is None:
                return self._plugins.cluster or None
            if name == "source_address" and isinstance(value, str):
                host, colon, _ = value.rpartition(":")
                return (host if colon else value).strip("[]")
            return route_name.read(value).name if name == "route" and isinstance(value, str) else value
        if name in ("model", "version", "namespace"):
            cluster = str(self.property("cluster") or "")
            return cluster_name.told(
                name, cluster, lambda: str(self._attribute(ATTRIBUTES["route"]) or ""), self._answered
            )
        return self._since if name == "request_time" else None

    def _answered(self) -> Headers:
        """The headers of the response, none as long as there are none."""
        return HeaderList() if self.chain is None else self.chain.response_headers_seen

    def set_metadata(self, namespace: str, key: str, value: Value) -> None:
        if self._metadata is None:
            self._metadata = {}
        self._metadata.setdefault(namespace, {})[key] = value

    def start_call(self, chain: Chain, token: int, request: HttpRequest) -> None:
        self.application.calls.start(token, request, self._called)

    def cancel_call(self, token: int) -> None:
        self.application.calls.cancel(token)

    def wake(self, chain: Chain) -> None:
        self.application.soon(self._woken)

    # Questions

    def _prepare(self) -> None:
        modes = self._plugins.modes
        self._ways = (_Way(modes[0]), _Way(modes[1]))

    def _asked_for(self, question: int, what: Any, request: Any) -> None:
        at = RESPONSE if question & 1 else REQUEST
        way = self._ways[at]
        if question <= wire.RESPONSE_HEADERS:
            if way.state:
                raise wire.Malformed("headers for the second time")
            headers = WireHeaders(what.headers)
            if self._first:
                self._begin(request)
            chain = self.chain
            if chain is None:
                chain = self.chain = self._pipeline.open(self)
                if at == RESPONSE:  # something before us answered
                    chain.request_headers(HeaderList(), True)
            way.state = 2 if what.end_of_stream else 1
            way.seen = headers
            if at == REQUEST:
                out = chain.request_headers(headers, what.end_of_stream)
            else:
                out = chain.response_headers(headers, what.end_of_stream)
            if self._gone_on(question, way, headers, out):
                return
        else:
            if way.state != 1:
                raise wire.Malformed("a body or trailers before the headers, or after the end")
            chain = self.chain
            assert chain is not None
            if question <= wire.RESPONSE_BODY:
                out = self._body(chain, at, way, what.body, what.end_of_stream)
            else:
                way.state = 2
                trailers = way.seen_trailers = WireHeaders(what.trailers)
                if way.unseen:
                    way.trailers = trailers
                    out = Out()
                elif at == REQUEST:
                    out = chain.request_trailers(trailers)
                else:
                    out = chain.response_trailers(trailers)
        self._given(at, way, question, out)

    def _gone_on(self, question: int, way: _Way, headers: WireHeaders, out: Out) -> bool:
        """Whether the headers go on and there is nothing else to tell: most end here."""
        if out.headers is not headers or self._observing or way.extra or self._metadata is not None:
            return False
        way.headers, way.ended = headers, out.end
        if out.data:
            way.data.append(out.data)
        changes = headers.changes()
        self._stream.send(wire.headers_or_body(question, changes, clear_route=question == wire.REQUEST_HEADERS))
        if self._plugins.last == question:
            self._over = True
            self._stream.finish()  # rather than wait for Envoy to end it: a turn less for both
        return True

    def _given(self, at: int, way: _Way, question: int, out: Out) -> None:
        """This came out of the chain when Envoy asked."""
        chain = self.chain
        assert chain is not None
        way.owed.append(question)
        self._settle(at, way, out)
        other = RESPONSE - at
        if self._ways[other].owed and not self._over:  # what went wrong here may have freed what was held there
            self._settle(other, self._ways[other], self._take(chain, other))

    def _begin(self, request: Any) -> None:
        """The first message: what Envoy is going to send, and whether it has to be told to send something else."""
        self._first = False
        self._observing = request.observability_mode
        if self._observing:
            for way in self._ways:
                way.mode = min(way.mode, wire.STREAMED)
        elif request.HasField("protocol_config"):
            if not self._plugins.expects(request.protocol_config):
                self._ways[0].extra = self._ways[1].extra = self._plugins.mode_override
            for way in self._ways:
                way.body_first = request.protocol_config.send_body_without_waiting_for_header_response

    def _body(self, chain: Chain, at: int, way: _Way, data: bytes, end: bool) -> Out:
        push = chain.response_body if at else chain.request_body
        way.last = data
        if end:
            way.state = 2
        if way.unseen:
            return Out()
        if end or way.mode < wire.BUFFERED:
            return push(data, end)
        # All of it, and trailers follow; or as much as Envoy keeps.
        if len(data) > self._plugins.limits[at]:
            self._too_long(at, way)
            return Out()
        out = push(data, False)
        way.take(out)
        if out.reply is not None or out.abort:
            return out
        way.whole = True
        return chain.body_over(at == RESPONSE)

    def _too_long(self, at: int, way: _Way) -> None:
        """A body that plugins wanted whole does not fit: it goes by unseen."""
        way.unseen = True
        now = self.now()
        for one in self._pipeline.response if at else self._pipeline.request:
            direction = one.response if at else one.request
            if direction.body:
                limit = self._plugins.limits[at]
                one.fault(Fault(one.name, direction.body, "body-too-large", f"a body longer than {limit} bytes"), now)

    # Answers

    def _settle(self, at: int, way: _Way, out: Out) -> None:
        """Answer what can be answered with what came out of the chain."""
        if self._over:
            return
        if out.reply is not None or out.abort:
            self._over = True
            reply = out.reply if out.reply is not None else Reply(502, b"a plugin failed\n")
            if not self._observing:
                self._stream.send(wire.immediate(reply, extra=self._extra()))
            return
        way.take(out)
        owed = way.owed
        while owed and not self._over:
            answer = self._answer(at, way, owed[0])
            if answer is None:
                self._ask_for_time(at, way)
                return
            owed.popleft()
            if not self._observing:
                self._stream.send(answer)

    def _answer(self, at: int, way: _Way, question: int) -> bytes | None:
        """The answer to the oldest question, None while it has to wait."""
        if question <= wire.RESPONSE_HEADERS:
            if way.headers is None:
                if self._blocked(at) or (way.mode < wire.BUFFERED and way.body_first):
                    return None
                if way.mode >= wire.BUFFERED:
                    # Where Envoy was configured to send the body, it does this itself; else it would refuse a body of
                    # another length.
                    changes: wire.Changes = _NO_LENGTH if way.extra else ()
                    return wire.headers_or_body(question, changes, extra=self._extra(way))
                way.headers = way.seen  # or the body would never come
                assert way.headers is not None
            return wire.headers_or_body(
                question, way.headers.changes(), clear_route=at == REQUEST, extra=self._extra(way)
            )
        if question <= wire.RESPONSE_BODY:
            if way.unseen:
                changes = way.seen.changes() if way.seen is not None else ()
                return wire.headers_or_body(question, changes, clear_route=at == REQUEST, extra=self._extra())
            if way.mode >= wire.BUFFERED:
                if not way.ended and (not way.whole or self._blocked(at)):
                    return None
                changes = way.headers.changes() if way.headers is not None else ()
            elif self._blocked(at) or (way.state == 2 and len(way.owed) == 1 and not way.ended):
                return None
            else:
                changes = ()
            body = way.data[0] if len(way.data) == 1 else b"".join(way.data)
            way.data.clear()
            if len(way.owed) == 1 and (body is way.last or body == way.last):
                return wire.headers_or_body(question, changes, clear_route=at == REQUEST, extra=self._extra())
            return wire.headers_or_body(question, changes, body, clear_route=at == REQUEST, extra=self._extra())
        if way.trailers is None:
            return None
        if way.data and not self._observing:
            self._over = True
            _log.error("a plugin kept a piece of a body until its trailers: Envoy takes none any more")
            return wire.immediate(Reply(502, b"a plugin kept the end of the body\n"))
        return wire.trailers(question, way.trailers.changes(), extra=self._extra())

    def _extra(self, way: _Way | None = None) -> bytes:
        """What an answer tells besides."""
        extra = b""
        if self._metadata:
            extra, self._metadata = wire.metadata(self._metadata), None
        if way is not None and way.extra:
            extra += way.extra
        return extra

    # Waiting

    def _blocked(self, at: int) -> bool:
        assert self.chain is not None
        return self.chain.response_blocked if at else self.chain.request_blocked

    def _ask_for_time(self, at: int, way: _Way) -> None:
        """Envoy would give up after its message_timeout: tell it how long a plugin may take."""
        chain = self.chain
        assert chain is not None
        if not self._blocked(at):
            return
        self._stream.pause()
        deadline = chain.deadline
        rest = max(0.001, deadline - self.now())
        if way.patience != deadline:
            way.patience = deadline
            if not self._observing:
                self._stream.send(wire.more_time(min(rest + _GRACE, self.application.longest)))
        if self._timer is None:
            self._timer = self.application.later(rest, self._checked)

    def _checked(self) -> None:
        self._timer = None
        chain = self.chain
        if chain is not None and not self._over:
            chain.check(self.now())
            self._collect(chain)
            if self._timer is None and not self._over and (chain.request_blocked or chain.response_blocked):
                self._timer = self.application.later(max(0.001, chain.deadline - self.now()), self._checked)

    def _woken(self) -> None:
        if self.chain is not None and not self._over:
            self.chain.wake()
            self._collect(self.chain)

    def _called(self, token: int, response: HttpResponse) -> None:
        if self.chain is not None and not self._over:
            self.chain.answer(token, response)
            self._collect(self.chain)

    def _collect(self, chain: Chain) -> None:
        """After something that was waited for: what can be answered now."""
        for at in (REQUEST, RESPONSE):
            self._settle(at, self._ways[at], self._take(chain, at))
        if not self._over and not chain.request_blocked and not chain.response_blocked:
            self._stream.resume()
        self._flush()

    def _take(self, chain: Chain, at: int) -> Out:
        return chain.take_response() if at else chain.take_request()

    # What is known

    def _attribute(self, name: str) -> Value:
        found: Value = None
        self._attributes = tuple(one if type(one) is dict else wire.attributes(one) for one in self._attributes)
        for one in self._attributes:
            found = one.get(name, found)  # the later one knows better
        return found

    def _entry(self, chain: Chain) -> Entry:
        seen = chain.request_headers_seen
        status = chain.response_headers_seen.get(":status")
        return {
            "method": seen.get(":method"),
            "path": seen.get(":path"),
            "authority": seen.get(":authority"),
            "status": int(status) if status.isdecimal() else 0,
            "duration": time.time() - self._since,
            **{name: self.property(name) for name in LOGGED},
        }


class _Way:
    """One direction: what Envoy has asked and what the chain has given."""

    state = 0  # 1: the headers have come, 2: the end
    seen: WireHeaders | None = None
    seen_trailers: WireHeaders | None = None
    headers: HeaderList | None = None  # as the chain has let them go
    last = b""  # the newest piece of the body, as it came
    trailers: HeaderList | None = None
    ended = False
    unseen = False  # the body goes by unseen
    whole = False  # the body has come whole, and trailers follow
    extra = b""
    body_first = False  # Envoy sends the body before the headers are answered
    patience = 0.0

    def __init__(self, mode: int) -> None:
        self.mode = mode
        self.owed: deque[int] = deque()
        self.data: list[bytes] = []

    def take(self, out: Out) -> None:
        """Note what came out of the chain."""
        if out.headers is not None:
            self.headers = _known(out.headers)
        if out.data:
            self.data.append(out.data)
        if out.end:
            self.ended = True
            if out.trailers is not None and out.trailers is self.seen_trailers:
                self.trailers = self.seen_trailers


def _known(headers: Headers) -> HeaderList:
    assert isinstance(headers, HeaderList)
    return headers

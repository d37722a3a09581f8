"""A request whose plugins look at headers only, as nearly all do: Envoy's one or two questions, answered at once.

What is unusual (a reply, a wait, a fault, metadata, an Envoy that was configured otherwise) is the whole `Exchange`'s,
which then takes over in the state in which it would be.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import get_ident
from typing import TYPE_CHECKING, Any

from sidecar.chain import Out
from sidecar.ext_proc import wire
from sidecar.ext_proc.choice import REQUEST, RESPONSE, Chosen
from sidecar.ext_proc.header_map import WireHeaders
from sidecar.ext_proc.host import Exchange
from sidecar.ext_proc.http2 import Stream
from sidecar.lean import Lane, Lean
from sidecar.plugin import HttpContext

if TYPE_CHECKING:
    from sidecar.ext_proc.application import Application


# After the headers come metadata, none, and at first how bodies are sent: not at all.
_PLAIN = frozenset((b"", b"\x42\x00"))
_PLAIN_FIRST = frozenset((b"\x5a\x00", b"\x42\x00\x5a\x00"))


class LeanExchange(Lean, Exchange):
    """To be made when `plugins.lane` is there."""

    contexts: list[HttpContext[Any] | None] | None = None
    _request: WireHeaders | None = None  # its headers when they have been answered; and whether it ended with them
    _request_end = False
    _brief = True  # nothing unusual has come

    def __init__(
        self, application: Application, plugins: Chosen, lane: Lane, stream: Stream, flush: Callable[[], None]
    ) -> None:
        self.application = application
        self.lane = lane
        self._plugins = plugins
        self._pipeline = plugins.pipeline
        self._stream = stream
        self._flush = flush
        self._since = time.time()

    def gone(self) -> None:
        if self.contexts is not None and self.chain is None and self._pipeline.loggers:
            self.whole()
        self.contexts = None  # which have us
        super().gone()

    def message(self, data: bytes) -> None:
        """The usual questions as Envoy usually puts them are read by no more than is needed."""
        told = wire.usual(data) if self._brief and not self._over else None
        if told is None or not self._is_plain(told):
            super().message(data)
            return
        try:
            self._answer_headers(told[0], WireHeaders(told[1]), told[2])
        except Exception:
            self._failed()

    def _is_plain(self, told: tuple[int, Any, bool, bytes]) -> bool:
        """Whether it is the question that usually comes next, and tells nothing besides."""
        if self._request is not None:
            return told[0] == wire.RESPONSE_HEADERS and told[3] in _PLAIN
        return told[0] == wire.REQUEST_HEADERS and (
            told[3] in _PLAIN or (told[3] in _PLAIN_FIRST and not self._plugins.always)
        )

    def _asked_for(self, question: int, what: Any, request: Any) -> None:
        if not self._brief or question > wire.RESPONSE_HEADERS or not self._is_next(question, request):
            self._go_on_whole()
            super()._asked_for(question, what, request)
            return
        self._answer_headers(question, WireHeaders(what.headers), what.end_of_stream)

    def _answer_headers(self, question: int, headers: WireHeaders, end: bool) -> None:
        if question == wire.REQUEST_HEADERS:
            out = self.quick_request(headers, end, get_ident())
        else:
            out = self.quick_response(headers, end, get_ident())
        if out is not None or self._metadata is not None:
            self._unusual(question, headers, end, out)
            return
        if question == wire.REQUEST_HEADERS:
            self._request, self._request_end = headers, end
        changed = headers.mutation()
        last = self._over = self._plugins.last == question  # rather than wait for Envoy to end it: a turn less for both
        self._stream.answer((wire.short if len(changed) <= wire.SHORT else wire.framed)(question, changed), last)

    def _is_next(self, question: int, request: Any) -> bool:
        """Whether this is the question that usually comes next, and all that there is to it."""
        if self._request is not None:
            return question == wire.RESPONSE_HEADERS
        if question != wire.REQUEST_HEADERS or request.observability_mode:
            return False
        return not request.HasField("protocol_config") or self._plugins.expects(request.protocol_config)

    def _go_on_whole(self) -> None:
        """Leave the rest to the whole Exchange."""
        if not self._brief:
            return
        self._brief = False
        self._prepare()
        if self._request is not None:
            self._first = False
            self.whole()
            way = self._ways[REQUEST]
            way.seen = way.headers = self._request
            way.state, way.ended = (2, True) if self._request_end else (1, False)

    def _unusual(self, question: int, headers: WireHeaders, end: bool, out: Out | None) -> None:
        """Something else than that the headers go on."""
        self._go_on_whole()
        self._first = False
        self.whole()
        if out is None:
            out = Out()
            out.headers, out.end = headers, end
        at = RESPONSE if question & 1 else REQUEST
        way = self._ways[at]
        way.state, way.seen = (2 if end else 1), headers
        if not self._gone_on(question, way, headers, out):
            self._given(at, way, question, out)

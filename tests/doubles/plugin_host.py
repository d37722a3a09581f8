"""A host for chains of plugins in tests: a clock to be set, calls answered by hand, all that was sent on collected."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from sidecar.chain import Chain, Out
from sidecar.headers import HeaderList, Pairs
from sidecar.host import Host
from sidecar.pipeline import Pipeline
from sidecar.plugin import Entry, HttpRequest, HttpResponse, Reply, Value

REQUEST: Pairs = ((":method", "POST"), (":path", "/v2/models/iris/infer"), (":authority", "iris.example"))


class TestHost(Host):
    """Everything in memory."""

    __test__ = False
    wants_log = True

    def __init__(self, **properties: Value) -> None:
        self.time = 0.0
        self.properties = properties
        self.metadata: dict[tuple[str, str], Value] = {}
        self.calls: dict[int, HttpRequest] = {}
        self.cancelled: list[int] = []
        self.entries: list[Entry] = []
        self.woken = 0

    def now(self) -> float:
        return self.time

    def property(self, name: str) -> Value:
        return self.properties.get(name)

    def set_metadata(self, namespace: str, key: str, value: Value) -> None:
        self.metadata[namespace, key] = value

    def start_call(self, chain: Chain, token: int, request: HttpRequest) -> None:
        self.calls[token] = request

    def cancel_call(self, token: int) -> None:
        self.cancelled.append(token)

    def wake(self, chain: Chain) -> None:
        self.woken += 1

    def access_log(self, entry: Entry) -> None:
        self.entries.append(entry)


class Sent:
    """What came out of one direction."""

    def __init__(self) -> None:
        self.headers: HeaderList | None = None
        self.body = b""
        self.trailers: Any = None
        self.end = False

    def take(self, out: Out) -> None:
        assert not (self.end and out), f"{out} after the end"
        if out.headers is not None:
            assert self.headers is None, "headers twice"
            assert isinstance(out.headers, HeaderList)
            self.headers = out.headers
        assert not out.data or self.headers is not None, "a body before the headers"
        self.body += out.data
        self.trailers = out.trailers or self.trailers
        self.end = self.end or out.end


class Exchange:
    """Drives one chain as a host does."""

    def __init__(self, pipeline: Pipeline, host: TestHost | None = None) -> None:
        self.host = host or TestHost()
        self.chain = pipeline.open(self.host)
        self.request = Sent()
        self.response = Sent()
        self.reply: Reply | None = None
        self.aborted = False

    def send(self, headers: Pairs = REQUEST, body: Iterable[bytes] = (), trailers: Pairs = ()) -> Exchange:
        """The client's request."""
        chain = self.chain
        self._push(chain.request_headers, chain.request_body, chain.request_trailers, headers, list(body), trailers)
        return self

    def answer(
        self, status: int = 200, headers: Pairs = (), body: Iterable[bytes] = (), trailers: Pairs = ()
    ) -> Exchange:
        """The model server's response."""
        chain = self.chain
        pairs = ((":status", str(status)), *headers)
        self._push(chain.response_headers, chain.response_body, chain.response_trailers, pairs, list(body), trailers)
        return self

    def called(self, status: int = 200, body: bytes = b"", headers: Pairs = ()) -> Exchange:
        """The oldest call of a plugin comes back."""
        token = min(self.host.calls)
        del self.host.calls[token]
        self.chain.answer(token, HttpResponse(status, headers, body))
        return self.collect()

    def later(self, seconds: float) -> Exchange:
        """Time passes."""
        self.host.time += seconds
        if self.chain.deadline <= self.host.time:
            self.chain.check(self.host.time)
        return self.collect()

    def collect(self) -> Exchange:
        self._take(self.chain.take_request())
        self._take(self.chain.take_response(), response=True)
        return self

    def finish(self) -> Entry:
        self.chain.finish({"path": "/v2/models/iris/infer"})
        return self.host.entries[-1]

    def _push(
        self,
        push_headers: Callable[[HeaderList, bool], Out],
        push_body: Callable[[bytes, bool], Out],
        push_trailers: Callable[[HeaderList], Out],
        headers: Pairs,
        body: list[bytes],
        trailers: Pairs,
    ) -> None:
        response = push_headers == self.chain.response_headers
        self._take(push_headers(HeaderList(headers), not body and not trailers), response)
        for at, piece in enumerate(body):
            self._take(push_body(piece, at == len(body) - 1 and not trailers), response)
        if trailers:
            self._take(push_trailers(HeaderList(trailers)), response)

    def _take(self, out: Out, response: bool = False) -> None:
        if out.reply is not None:
            assert self.reply is None, "two replies"
            assert self.response.headers is None, "a reply after the response"
            self.reply = out.reply
        elif out.abort:
            self.aborted = True
        else:
            (self.response if response else self.request).take(out)

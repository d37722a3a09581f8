"""Try plugins against a recorded exchange: what they changed, what they said, what they counted. No network."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from sidecar.chain import Chain, Out
from sidecar.headers import HeaderList, Pairs
from sidecar.host import Host
from sidecar.instruments import Family
from sidecar.pipeline import Pipeline
from sidecar.plugin import Entry, HttpRequest, HttpResponse, Value


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Message(_Strict):
    """Headers (a list of values for a repeated one), and a body: text, JSON, base64, or the pieces in which it came."""

    headers: dict[str, str | list[str]] = {}
    body: str | None = None
    data: Any = Field(default=None, alias="json", description="Instead of body: is written as JSON.")
    base64: str | None = Field(default=None, description="Instead of body: bytes.")
    pieces: list[str] | None = Field(default=None, description="Instead of body: the pieces of a stream.")
    trailers: dict[str, str] = {}

    def chunks(self) -> list[bytes]:
        if self.pieces is not None:
            return [one.encode() for one in self.pieces]
        if self.base64 is not None:
            return [base64.b64decode(self.base64)]
        if self.data is not None:
            return [json.dumps(self.data).encode()]
        return [self.body.encode()] if self.body else []

    def pairs(self) -> Pairs:
        return tuple(
            (name, one)
            for name, value in self.headers.items()
            for one in (value if isinstance(value, list) else [value])
        )


class Request(Message):
    """As the client sent it."""

    method: str = "POST"
    path: str = "/"
    host: str = "model.example"


class Response(Message):
    """As the model server, or somebody called by a plugin, answered it."""

    status: int = Field(default=200, ge=200, le=599)


class Recorded(_Strict):
    """The file that `headgate plugin run` reads."""

    request: Request = Request()
    response: Response = Response()
    properties: dict[str, str | int | float | bool] = Field(default={}, description="model, version, route, ...")
    calls: dict[str, Response] = Field(default={}, description="Answers to what plugins call, by URL.")


@dataclass(slots=True)
class Seen:
    """One message before and after, as text."""

    headers: list[str] = field(default_factory=list)
    body: bytes = b""
    trailers: list[str] = field(default_factory=list)
    end: bool = False


@dataclass(slots=True)
class Tried:
    """What became of the exchange."""

    request_before: Seen
    request: Seen
    response_before: Seen
    response: Seen
    reply: bool = False  # the response is a plugin's own
    aborted: bool = False
    metadata: dict[str, Value] = field(default_factory=dict)
    entry: Entry = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    metrics: tuple[Family, ...] = ()


class _Replay(Host):
    wants_log = True

    def __init__(self, recorded: Recorded) -> None:
        self.recorded = recorded
        self.waiting: list[tuple[int, HttpRequest]] = []
        self.metadata: dict[str, Value] = {}
        self.entry: Entry = {}
        self.time = 0.0
        self.wakes = 0

    def now(self) -> float:
        return self.time

    def property(self, name: str) -> Value:
        return self.recorded.properties.get(name)

    def set_metadata(self, namespace: str, key: str, value: Value) -> None:
        self.metadata[f"{namespace}.{key}"] = value

    def start_call(self, chain: Chain, token: int, request: HttpRequest) -> None:
        self.waiting.append((token, request))

    def wake(self, chain: Chain) -> None:
        self.wakes += 1

    def access_log(self, entry: Entry) -> None:
        self.entry = entry


def try_on(pipeline: Pipeline, recorded: Recorded) -> Tried:
    """Send the recorded request and, unless a plugin replied, the recorded response through the plugins."""
    host = _Replay(recorded)
    chain = pipeline.open(host)
    request, response = recorded.request, recorded.response
    first: Pairs = ((":method", request.method), (":path", request.path), (":authority", request.host))
    before, answered = (
        _before((*first, *request.pairs()), request),
        _before(((":status", str(response.status)), *response.pairs()), response),
    )
    tried = Tried(before, Seen(), answered, Seen())

    def push(message: Message, pairs: Pairs, way: str) -> None:
        seen = tried.request if way == "request" else tried.response
        chunks = message.chunks()
        last = bool(message.trailers)
        _take(tried, seen, getattr(chain, f"{way}_headers")(HeaderList(pairs), not chunks and not last))
        for at, chunk in enumerate(chunks):
            _take(tried, seen, getattr(chain, f"{way}_body")(chunk, at == len(chunks) - 1 and not last))
        if last:
            _take(tried, seen, getattr(chain, f"{way}_trailers")(HeaderList(message.trailers.items())))
        _wait(host, chain, tried)

    push(request, (*first, *request.pairs()), "request")
    if not tried.reply and not tried.aborted and tried.request.end:
        push(response, ((":status", str(response.status)), *response.pairs()), "response")
    status = next((one.split(" ", 1)[1] for one in tried.response.headers if one.startswith(":status")), "")
    chain.finish({"method": request.method, "path": request.path, "status": status})
    tried.metadata, tried.entry = host.metadata, host.entry
    tried.faults = [str(one.health.last) for one in pipeline.plugins if one.health.last is not None]
    tried.metrics = pipeline.families(host.now())
    return tried


def _before(pairs: Pairs, message: Message) -> Seen:
    trailers = [f"{name}: {value}" for name, value in message.trailers.items()]
    return Seen(_lines(HeaderList(pairs).items()), b"".join(message.chunks()), trailers, True)


def _wait(host: _Replay, chain: Chain, tried: Tried) -> None:
    """Answer calls, and let time pass when something is paused."""
    while host.waiting or host.wakes or chain.deadline != float("inf"):
        if host.waiting:
            token, request = host.waiting.pop(0)
            tried.calls.append(f"{request.method} {request.url}")
            answer = host.recorded.calls.get(request.url)
            if answer is None:
                chain.answer(token, HttpResponse(0, error="the recording has no answer for this URL"))
            else:
                chain.answer(token, HttpResponse(answer.status, answer.pairs(), b"".join(answer.chunks())))
        elif host.wakes:
            host.wakes = 0
            chain.wake()
        else:
            host.time = chain.deadline
            chain.check(host.time)
        _take(tried, tried.request, chain.take_request())
        _take(tried, tried.response, chain.take_response())


def _take(tried: Tried, seen: Seen, out: Out) -> None:
    if out.reply is not None:
        tried.reply = True
        pairs = ((":status", str(out.reply.status)), *out.reply.headers)
        tried.response = Seen(_lines(pairs), out.reply.body, [], True)
        return
    tried.aborted = tried.aborted or out.abort
    if out.headers is not None:
        seen.headers = _lines(out.headers.items())
    seen.body += out.data
    if out.trailers is not None:
        seen.trailers = _lines(out.trailers.items())
    seen.end = seen.end or out.end


def _lines(pairs: Pairs) -> list[str]:
    return [f"{name} {value}" if name[0] == ":" else f"{name}: {value}" for name, value in pairs]

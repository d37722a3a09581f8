"""Answers to inference requests that were asked before, by model, version and body: bounded in bytes and time.

Only for models whose answer depends on the request alone, and only where the version is known before it is asked (at
the backends, and in the proxy in front of one model server), or one version would answer for another. Kept are
answers with status 200 to POST and GET, unless the request carries credentials or either side says
`cache-control: no-store`.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from sidecar.headers import Pairs
from sidecar.plugin import CONTINUE, Body, Buffered, Headers, HttpContext, Plugin, Reply, Result

_NOT_KEPT = frozenset({"connection", "content-length", "date", "keep-alive", "set-cookie", "transfer-encoding"})
_PRIVATE = ("authorization", "cookie")
_CHOOSES = ("accept", "accept-encoding", "content-type", "content-encoding")  # of which an answer may depend


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid")

    seconds: float = Field(default=60.0, gt=0)
    bytes: int = Field(default=64 << 20, ge=1)


@dataclass(frozen=True, slots=True)
class Kept:
    reply: Reply
    until: float
    size: int


class Caching(HttpContext["Cache"]):
    key = b""
    headers: Pairs = ()

    def on_request_headers(self, headers: Headers) -> Result:
        private = any(name in headers for name in _PRIVATE) or "no-store" in headers.get("cache-control")
        is_grpc = headers.get("content-type").startswith("application/grpc")  # its answers end in trailers
        self.allowed = headers.get(":method") in ("GET", "POST") and not private and not is_grpc
        self.allowed = self.allowed and bool(self.get_property("version"))
        return self._look_up(b"") if self.allowed and self.end_of_stream else CONTINUE

    def on_request_body(self, body: Body) -> Result:
        return self._look_up(body.data) if self.allowed else CONTINUE

    def _look_up(self, body: bytes) -> Result:
        headers = self.request_headers
        parts = [str(self.get_property(name) or "") for name in ("namespace", "model", "version")]
        parts += [headers.get(name) for name in (":method", ":authority", ":path", *_CHOOSES)]
        digest = hashlib.sha256("\0".join(parts).encode())
        digest.update(b"\0" + body)
        self.key = digest.digest()
        kept = self.root.get(self.key, self.now())
        self.root.lookups.add(result="hit" if kept else "miss")
        return kept if kept else CONTINUE

    def on_response_headers(self, headers: Headers) -> Result:
        if headers.get(":status") != "200" or "no-store" in headers.get("cache-control") or "set-cookie" in headers:
            self.key = b""
        self.headers = tuple(one for one in headers.items() if one[0][0] != ":" and one[0] not in _NOT_KEPT)
        return CONTINUE

    def on_response_body(self, body: Body) -> Result:
        if self.key:
            self.root.put(self.key, Reply(200, body.data, (*self.headers, ("x-cache", "hit"))), self.now())
        return CONTINUE


class Cache(Plugin):
    name = "cache"
    context = Caching
    places = ("backend", "proxy")
    elsewhere = "the version that will answer is not known there when the request comes"
    properties = ("namespace", "model", "version")
    request_body = Buffered(1 << 20)
    response_body = Buffered(1 << 20)
    config_model = Config

    def on_configure(self, config: Config) -> None:
        self.settings = config
        self.memory = config.bytes * 5 // 4 + (32 << 20)
        self.kept: OrderedDict[bytes, Kept] = OrderedDict()  # the one not used longest is first
        self.size = 0
        self.lookups = self.metrics.counter("lookups", "Requests looked up in the cache.", ["result"])

    def get(self, key: bytes, now: float) -> Reply | None:
        kept = self.kept.get(key)
        if kept is None:
            return None
        if now >= kept.until:
            self._drop(key)
            return None
        self.kept.move_to_end(key)
        return kept.reply

    def put(self, key: bytes, reply: Reply, now: float) -> None:
        self._drop(key)
        size = len(reply.body) + sum(len(name) + len(value) + 200 for name, value in reply.headers) + 800
        self.kept[key] = Kept(reply, now + self.settings.seconds, size)
        self.size += size
        while self.size > self.settings.bytes:
            self._drop(next(iter(self.kept)))

    def _drop(self, key: bytes) -> None:
        kept = self.kept.pop(key, None)
        if kept is not None:
            self.size -= kept.size

"""Plugins for the tests of the host inside Envoy. What they are told by headers, they do."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, Self

from sidecar.plugin import (
    CONTINUE,
    PAUSE,
    Body,
    Buffered,
    Entry,
    Headers,
    HttpContext,
    HttpRequest,
    Plugin,
    Reply,
    Result,
    Streamed,
)


class EveryHeaderCall(HttpContext["HeaderPlugin"]):
    def on_request_headers(self, headers: Headers) -> Result:
        seen = [
            headers.get("X-Twice"),
            ",".join(headers.get_all("x-twice")),
            headers.get("x-absent", "none"),
            str("x-twice" in headers) + str("x-absent" in headers),
            str(len([name for name, _ in headers.items() if name == "x-twice"])),
            str(isinstance(headers, Headers)),
        ]
        wrong = [("a b", "1"), ("x-a", "1\r\nx-b: 2"), ("", "1"), (":status2", "1"), ("x-a", 1)]
        for name, value in wrong:
            try:
                headers.set(name, value)  # type: ignore[arg-type]
                seen.append("set")
            except (ValueError, TypeError) as error:
                seen.append(type(error).__name__)
        headers.remove("x-gone")
        headers.add("x-more", "1")
        headers.add("X-More", "2")
        headers.set("x-seen", "|".join(seen))
        headers.set("x-umlaut", "grün")
        self.set_metadata("headgate.test", "colour", "green")
        self.set_metadata("headgate.test", "number", 2.5)
        return CONTINUE

    def on_response_headers(self, headers: Headers) -> Result:
        headers.set("x-told", f"{headers.get(':status')} for {self.request_headers.get(':path')}")
        for name in ("route", "cluster", "model", "version", "namespace", "protocol", "nonsense"):
            headers.set(f"x-{name}", str(self.get_property(name)))
        headers.set("x-age", str(time.time() - float(self.get_property("request_time") or 0)))
        headers.set("x-source", str(self.get_property("source_address")).partition(":")[0])
        return CONTINUE


class HeaderPlugin(Plugin):
    context = EveryHeaderCall


class Replies(HttpContext["ReplyPlugin"]):
    def on_request_headers(self, headers: Headers) -> Result:
        if headers.get("x-do") == "reply":
            return Reply(418, b"short and stout", (("x-from", "plugin"),))
        return CONTINUE

    def on_response_headers(self, headers: Headers) -> Result:
        if self.request_headers.get("x-do") == "replace":
            return Reply(502, b"not that answer", (("x-from", "response"),))
        return CONTINUE


class ReplyPlugin(Plugin):
    context = Replies


class Reroutes(HttpContext["ReroutePlugin"]):
    def on_request_body(self, body: Body) -> Result:
        self.request_headers.set("x-version", body.data.decode())
        return CONTINUE


class ReroutePlugin(Plugin):
    context = Reroutes
    request_body = Buffered(100)


class Prepared(HttpContext["PreparedPlugin"]):
    def __new__(cls, *given: object) -> Self:
        made = super().__new__(cls)
        made.words = ["new"]
        return made

    def __init__(self, root: PreparedPlugin) -> None:
        super().__init__(root)
        self.words: list[str]
        self.words.append("prepared")

    def on_request_headers(self, headers: Headers) -> Result:
        headers.set("x-words", " ".join((*self.words, self.root.word)))
        return CONTINUE


class PreparedPlugin(Plugin):
    context = Prepared
    word = "root"


class Shouts(HttpContext["BodyPlugin"]):
    def on_request_body(self, body: Body) -> Result:
        body.replace(b"<" + body.data.upper() + b">")
        return CONTINUE

    def on_response_body(self, body: Body) -> Result:
        body.replace(b"[" + body.data + b"]")
        return CONTINUE


class BodyPlugin(Plugin):
    context = Shouts
    request_body = Buffered(2_000_000)
    response_body = Buffered(2_000_000)


class ShortBodyPlugin(Plugin):
    context = Shouts
    request_body = Buffered(1000)
    response_body = Buffered(2_000_000)


class Pieces(HttpContext["StreamPlugin"]):
    def on_request_body(self, body: Body) -> Result:
        body.replace(body.data.upper())
        return CONTINUE

    def on_response_body(self, body: Body) -> Result:
        if not body.end and len(body.data) < 50_000:
            return PAUSE
        body.replace(body.data.swapcase())
        return CONTINUE


class StreamPlugin(Plugin):
    context = Pieces
    request_body = Streamed(rewrites=True)
    response_body = Streamed(rewrites=True)


class Breaks(HttpContext["BrokenPlugin"]):
    def _break(self, hook: str) -> Result:
        how = self.root.how
        if self.request_headers.get("x-break") == hook:
            if how == "exit":
                sys.exit(3)
            if how == "type":
                return "nonsense"  # type: ignore[return-value]
            if how == "loop":
                while True:
                    pass
            raise RuntimeError(f"broken {hook}")
        return CONTINUE

    def on_request_headers(self, headers: Headers) -> Result:
        return self._break("on_request_headers")

    def on_request_body(self, body: Body) -> Result:
        return self._break("on_request_body")

    def on_response_headers(self, headers: Headers) -> Result:
        return self._break("on_response_headers")

    def on_response_body(self, body: Body) -> Result:
        return self._break("on_response_body")

    def on_log(self, entry: Entry) -> None:
        self._break("on_log")


class BrokenPlugin(Plugin):
    context = Breaks
    request_body = Buffered()
    response_body = Buffered()

    def on_configure(self, config: Mapping[str, Any]) -> None:
        self.how = config.get("how", "raise")


class Loops(HttpContext["LoopPlugin"]):
    def on_request_headers(self, headers: Headers) -> Result:
        while headers.get("x-do") == "loop":
            pass
        headers.set("x-seen", "yes")
        return CONTINUE


class LoopPlugin(Plugin):
    context = Loops


class Asks(HttpContext["CallPlugin"]):
    async def on_request_headers(self, headers: Headers) -> Result:
        url = headers.get("x-ask")
        if url:
            answer = await self.call(HttpRequest(url, "POST", (("x-from", "plugin"),), b"who?", timeout=2.0))
            headers.set("x-answer", f"{answer.status} {answer.body.decode()} {answer.error}".strip())
        return CONTINUE


class CallPlugin(Plugin):
    context = Asks


class AsksWithBody(HttpContext["CallBodyPlugin"]):
    async def on_request_body(self, body: Body) -> Result:
        answer = await self.call(HttpRequest(self.root.url, "POST", (), body.data))
        body.replace(answer.body)
        return CONTINUE


class CallBodyPlugin(Plugin):
    context = AsksWithBody
    request_body = Buffered()

    def on_configure(self, config: Mapping[str, Any]) -> None:
        self.url = str(config["url"])


class Waits(HttpContext["PausePlugin"]):
    def on_request_headers(self, headers: Headers) -> Result:
        how = headers.get("x-do")
        if how == "thread":
            threading.Timer(0.02, self.resume).start()
        return PAUSE if how else CONTINUE


class PausePlugin(Plugin):
    context = Waits
    patience = 0.3


class Counts(HttpContext["CountPlugin"]):
    def on_request_headers(self, headers: Headers) -> Result:
        root = self.root
        while True:
            value, mark = root.shared.get("requests")
            if root.shared.set("requests", str(int(value or b"0") + 1).encode(), mark):
                break
        with root.lock:
            root.threads.add(threading.get_ident())
        return CONTINUE

    def on_response_headers(self, headers: Headers) -> Result:
        headers.set("x-count", self.root.shared.get("requests")[0].decode())
        headers.set("x-workers", str(len(self.root.threads)))
        return CONTINUE


class CountPlugin(Plugin):
    context = Counts

    def on_configure(self, config: Mapping[str, Any]) -> None:
        self.lock = threading.Lock()
        self.threads: set[int] = set()


class Trails(HttpContext["TrailerPlugin"]):
    def on_response_trailers(self, trailers: Headers) -> Result:
        trailers.set("x-trailer", trailers.get("grpc-status"))
        return CONTINUE


class TrailerPlugin(Plugin):
    context = Trails


class TrailedBody(HttpContext["TrailedBodyPlugin"]):
    def on_response_body(self, body: Body) -> Result:
        size = len(body.data) + 1  # a gRPC frame: one byte longer
        body.replace(b"\0" + (size - 5).to_bytes(4, "big") + body.data[5:] + b"!")
        return CONTINUE

    def on_response_trailers(self, trailers: Headers) -> Result:
        trailers.set("x-trailer", "after the body")
        return CONTINUE


class TrailedBodyPlugin(Plugin):
    context = TrailedBody
    response_body = Buffered()


class Keeps(HttpContext["KeepingPlugin"]):
    """Uses a request's headers after the request."""

    def on_request_headers(self, headers: Headers) -> Result:
        told = "nothing"
        if self.root.kept is not None:
            try:
                told = self.root.kept.get(":path")
            except RuntimeError as error:
                told = str(error)
        self.root.kept = headers
        headers.set("x-kept", told)
        return CONTINUE


class KeepingPlugin(Plugin):
    context = Keeps
    kept: Headers | None = None


class Tells(HttpContext["WordPlugin"]):
    def on_response_headers(self, headers: Headers) -> Result:
        headers.set("x-told", self.root.word)
        return CONTINUE


class WordPlugin(Plugin):
    context = Tells

    def on_configure(self, config: Mapping[str, Any]) -> None:
        self.word = str(config["word"])


class LeavingPlugin(Plugin):
    """Leaves a thread behind that would keep an interpreter from ending."""

    context = Counts

    def on_configure(self, config: Mapping[str, Any]) -> None:
        self.lock = threading.Lock()
        self.threads: set[int] = set()
        threading.Thread(target=threading.Event().wait, name="left-behind").start()


class EndingPlugin(Plugin):
    """Cannot be configured."""

    context = Counts

    def on_configure(self, config: Mapping[str, Any]) -> None:
        raise ValueError(f"colour {config.get('colour')!r} is not one of red, green (process {os.getpid() > 0})")


class Leaks(HttpContext["LeakPlugin"]):
    """Keeps some 3 MB of small objects for each request that says so."""

    def on_request_headers(self, headers: Headers) -> Result:
        if "x-leak" in headers:
            self.root.seen.append({str(at): [f"{at:0100}"] for at in range(10_000)})
        headers.set("x-asked", self.root.word)
        return CONTINUE


class LeakPlugin(Plugin):
    context = Leaks

    def on_configure(self, config: Mapping[str, Any]) -> None:
        self.word = str(config.get("word", "yes"))
        self.seen: list[dict[str, list[str]]] = []

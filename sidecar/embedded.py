"""Plugins inside Envoy: from the hooks of the C module to the chain and back.

    Envoy's worker ──► headgate_python.c ──► Handler.request_headers ──► Chain ──► plugins
                                   ◄── None: go on; HOLD, BLOCK: wait; bytes: go on with this body

Each request has one handler, which is the chain's host too. Several workers share one interpreter; each request stays
with its worker. Importable inside Envoy only.
"""

from __future__ import annotations

import gc
import json
import logging
import sys
import threading
import time
from collections.abc import Mapping
from heapq import heappop, heappush
from itertools import count
from pathlib import Path
from threading import get_ident
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

from pydantic import BaseModel, ConfigDict, Field

from sidecar import cluster_name, route_name
from sidecar.chain import Chain, Out
from sidecar.headers import Headers, Pairs
from sidecar.host import Host
from sidecar.lean import Lane, Lean, untie
from sidecar.loading import PluginSpec
from sidecar.memory import Lookout, LookoutThread
from sidecar.native import inside
from sidecar.native.inside import Stream, log
from sidecar.pipeline import Pipeline
from sidecar.plugin import Buffered, Entry, HeadersOnly, HttpRequest, HttpResponse, Need, Value
from sidecar.plugin_figures import document, folder_named, own_file, write
from sidecar.reload import Plugins
from sidecar.shared import SharedData
from sidecar.watch import WATCH

HOLD, BLOCK = 1, 2  # what a hook answers when nothing may go on yet; BLOCK: and Envoy should read no more
REQUEST, RESPONSE = 0, 1
_WANTS_HEADERS, _WANTS_BODY, _WANTS_TRAILERS, _WANTS_END = 1, 2, 4, 64
_PIECE = 1 << 20  # a piece of a body is not longer: room for the one that shows that a body is too long
_GARBAGE = (20_000, 20, 100)  # requests leave none: it is for what plugins tie into circles
_SWITCH = 0.001  # seconds until a worker that waits for the interpreter gets it from one that does not give it up

# Numbers of Envoy's attributes.
_STRINGS = {"route": 61, "cluster": 57, "source_address": 24, "protocol": 10}
_STATUS = 15


class EmbeddedSpec(BaseModel):
    """The filter's configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    plugins: tuple[PluginSpec, ...] = ()
    folder: Path | None = Field(None, description="Where relative files of plugins are.")
    at: Literal["gateway", "backend"] = Field("gateway", description="At a listener, or at a cluster.")
    reload: bool = Field(False, description="Load plugins again when their files change.")
    calls: dict[str, str] = Field(default_factory=dict, description="Cluster by scheme://host:port, for calls.")
    health: Path | None = Field(None, description="A file for the plugins' health and metrics, written each second.")


class Handler(Stream, Host):
    """One request. The C module makes it, calls the hooks and, at its end, lets go of `chain`."""

    application: ClassVar[Application]
    _ways: tuple[_Way, _Way] | None = None
    _refused: tuple[tuple[int, str], ...] = ()

    # Hooks, called by the C module

    def request_headers(self, headers: Headers, end: bool) -> int | None:
        self.began = time.monotonic()
        chain = self.chain = self.application.pipeline.open(self)
        out = chain.request_headers(headers, end)
        if out.headers is not None:
            return None
        return self._begin(REQUEST, out, end)

    def response_headers(self, headers: Headers, end: bool) -> int | None:
        chain = self.chain or self._late()
        out = chain.response_headers(headers, end)
        if out.headers is not None:
            return None
        return self._begin(RESPONSE, out, end)

    def over(self) -> None:
        """Nothing more comes: leave nothing for the garbage collector."""
        chain, self.chain = self.chain, None
        if chain is not None:
            untie(chain)

    def request_body(self, data: bytes, end: bool) -> int | bytes | None:
        return self._pass(REQUEST, (self.chain or self._late()).request_body(data, end), data, end)

    def response_body(self, data: bytes, end: bool) -> int | bytes | None:
        return self._pass(RESPONSE, (self.chain or self._late()).response_body(data, end), data, end)

    def request_trailers(self, trailers: Headers) -> int | bytes | None:
        return self._pass(REQUEST, (self.chain or self._late()).request_trailers(trailers), b"", True)

    def response_trailers(self, trailers: Headers) -> int | bytes | None:
        return self._pass(RESPONSE, (self.chain or self._late()).response_trailers(trailers), b"", True)

    def resumed(self) -> None:
        """After `wake_up`: a plugin wishes it, or its patience is at an end, or a call could not be made."""
        chain = self.chain
        refused, self._refused = self._refused, ()
        for token, why in refused:
            chain.answer(token, HttpResponse(0, error=why))
        chain.wake()
        now = self.now()
        if chain.deadline <= now:
            chain.check(now)
        self._take()

    def answered(self, token: int, status: int, headers: Pairs, body: bytes, error: str) -> None:
        """A call is over."""
        rest = tuple(pair for pair in headers if pair[0][0] != ":")
        self.chain.answer(token, HttpResponse(status, rest, body, error))
        self._take()

    def refused(self, token: int, why: str) -> None:
        """A call could not be made."""
        self._refused += ((token, why),)
        self.wake_up()

    def completed(self) -> None:
        """The request is over, however it ended."""
        chain = self.chain or self._late()
        if not self.application.pipeline.loggers:
            chain.finish()
            return
        seen = chain.request_headers_seen
        entry: Entry = {
            "method": seen.get(":method"),
            "path": seen.get(":path"),
            "authority": seen.get(":authority"),
            "status": self.number(_STATUS),
            "duration": time.monotonic() - self.began,
            **{name: self.property(name) for name in ("route", "cluster", "source_address")},
        }
        chain.finish(entry)

    # What the chain asks

    def property(self, name: str) -> Value:
        if name == "route":
            told = self.string(_STRINGS[name])
            return None if told is None else route_name.read(told).name
        if name in _STRINGS:
            return self.string(_STRINGS[name])
        if name in ("model", "version", "namespace"):
            cluster = self.string(_STRINGS["cluster"]) or ""
            return cluster_name.told(name, cluster, lambda: self.string(_STRINGS["route"]) or "", self._answered)
        if name == "request_time":
            return time.time() - (time.monotonic() - self.began)
        return None

    def _answered(self) -> Headers:
        """The headers of the response, none as long as there are none."""
        return (self.chain or self._late()).response_headers_seen

    def set_metadata(self, namespace: str, key: str, value: Value) -> None:
        if value is not None:
            self.write_metadata(namespace, key, value.decode("latin-1") if isinstance(value, bytes) else value)

    def start_call(self, chain: Chain, token: int, request: HttpRequest) -> None:
        url = urlsplit(request.url)
        cluster = self.application.spec.calls.get(f"{url.scheme}://{url.netloc}")
        if cluster is None:
            raise ValueError(f"calls to {url.scheme}://{url.netloc} are not allowed: name its cluster in `calls`")
        path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        begin = ((":method", request.method), (":path", path), (":authority", url.netloc), (":scheme", url.scheme))
        self.make_call(token, cluster, (*begin, *request.headers), request.body, max(1, int(request.timeout * 1000)))

    def wake(self, chain: Chain) -> None:
        self.wake_up()

    # What may go on

    def _late(self) -> Chain:
        """A response without our having seen its request: something before us answered, or nobody wants requests."""
        self.began = time.monotonic()
        chain = self.chain = self.application.pipeline.open(self)
        chain.request_headers(self.headers(0), True)
        return chain

    def _begin(self, way: int, out: Out, end: bool) -> int:
        """Headers do not go on yet."""
        if out.reply is not None or out.abort:
            return self._end(out)
        if self._ways is None:
            self._ways = (_Way(), _Way())
        one = self._ways[way]
        one.waits, one.end = True, end
        return self._wait(way)

    def _pass(self, way: int, out: Out, data: bytes, end: bool) -> int | bytes | None:
        """A piece of a body, or trailers with the last of it."""
        if self._ways is None:
            if out.data is data and out.end == end and out.reply is None:
                return None
            self._ways = (_Way(), _Way())
        one = self._ways[way]
        if out.reply is not None or out.abort:
            return self._end(out)
        one.end = end
        if one.take(out):
            return one.given()
        if not one.waits and not end and not out.data:
            return HOLD if not self._blocked(way) else self._wait(way)
        one.waits = True
        return self._wait(way)

    def _take(self) -> None:
        """After something that was waited for: what may go on now."""
        chain = self.chain
        if self._ways is None:
            return
        for way, one in enumerate(self._ways):
            out = chain.take_request() if way == REQUEST else chain.take_response()
            if out.reply is not None or out.abort:
                self._end(out)
                return
            if not one.waits:
                continue
            if one.take(out):
                self.go(way, one.given())
            elif self._blocked(way):
                self._wait(way)

    def _blocked(self, way: int) -> bool:
        chain: Chain = self.chain
        return chain.request_blocked if way == REQUEST else chain.response_blocked

    def _wait(self, way: int) -> int:
        if not self._blocked(way):
            return HOLD
        self.application.clock.at(self.chain.deadline, self)
        return BLOCK

    def _end(self, out: Out) -> int:
        if out.reply is not None:
            reply = out.reply
            headers = reply.headers
            if reply.grpc_status is not None:
                headers = (*headers, ("grpc-status", str(reply.grpc_status)))
            self.reply(reply.status, headers, reply.body)
        else:
            self.abort()
        return HOLD


class LeanHandler(Lean, Handler):
    """One request of which no plugin wants more than headers."""

    def request_headers(self, headers: Headers, end: bool) -> int | None:
        out = self.quick_request(headers, end, get_ident())
        return None if out is None or out.headers is not None else self._begin(REQUEST, out, end)

    def response_headers(self, headers: Headers, end: bool) -> int | None:
        if self.contexts is None and self.chain is None:
            self._late()
        out = self.quick_response(headers, end, get_ident())
        return None if out is None or out.headers is not None else self._begin(RESPONSE, out, end)

    def failed(self, place: Any, headers: Headers, error: BaseException) -> Any:
        return self._told(super().failed(place, headers, error), place)

    def took(self, place: Any, headers: Headers, result: Any) -> Any:
        return self._told(super().took(place, headers, result), place)

    def _told(self, out: Out, place: Any) -> int | None:
        return None if out.headers is not None else self._begin(RESPONSE if place.response else REQUEST, out, place.end)

    def over(self) -> None:
        self.contexts = None
        super().over()

    def _late(self) -> Chain:
        return super()._late() if self.contexts is None else self.whole()


class _Way:
    """One direction that the chain held back: what it has given us meanwhile."""

    __slots__ = ("data", "end", "ended", "headers", "waits")

    def __init__(self) -> None:
        self.waits = False  # Envoy does not go on before we say so
        self.headers = False  # whether the chain has given the headers, when Envoy waits for them
        self.end = False  # Envoy has told that nothing more comes
        self.ended = False  # the chain has
        self.data: list[bytes] = []

    def take(self, out: Out) -> bool:
        """Note what came out. True when Envoy may go on with it: to the end if it has told the end."""
        self.headers = self.headers or out.headers is not None
        self.ended = self.ended or out.end
        if out.data:
            self.data.append(out.data)
        if self.end:
            return self.ended
        return bool(self.data) or (self.waits and self.headers)

    def given(self) -> bytes:
        data = b"".join(self.data)
        self.data.clear()
        self.waits = False
        return data


class Application:
    """One configuration of the filter: its plugins and the class of its handlers."""

    def __init__(self, name: str, spec: EmbeddedSpec, clock: Clock) -> None:
        self.name = name
        self.spec = spec
        self.clock = clock
        self.plugins = Plugins(spec.plugins, spec.folder, _shared.setdefault(name, SharedData()), spec.at)
        if self.plugins.faults:
            raise ValueError("; ".join(map(str, self.plugins.faults)))
        self.pipeline = self.plugins.pipeline
        lean = not spec.reload and Lane.fits(self.pipeline)
        kind, lane = (LeanHandler, Lane(self.pipeline)) if lean else (Handler, None)
        self.handler = type("Handler", (kind,), {"application": self, "lane": lane})
        self.lane = lane.spoken if lane is not None else None
        self._count = lane.count if lane is not None else lambda: None
        self._times = self._read_times()
        self._users = 1
        folder = folder_named()
        self._figures = None if folder is None else own_file(folder)
        clock.add(self)

    @property
    def needs(self) -> tuple[int, int, int]:
        """Which hooks are to be called, and how much of a body is kept back in each direction."""
        pipeline = self.pipeline
        if self.spec.reload:  # the next plugins may want more
            return 63 | _WANTS_END, _limit(pipeline.request_need), _limit(pipeline.response_need)
        request = _wants(bool(pipeline.request), pipeline.request_need, pipeline.wants_request_trailers)
        response = _wants(bool(pipeline.response), pipeline.response_need, pipeline.wants_response_trailers)
        wants = request | response << 3 | (_WANTS_END if pipeline.loggers else 0)
        return wants, _limit(pipeline.request_need), _limit(pipeline.response_need)

    def second(self, now: float) -> None:
        """Called once a second by the clock's thread."""
        if self.spec.reload and (times := self._read_times()) != self._times:
            self._times = times
            if self.plugins.reload():
                self.pipeline = self.plugins.pipeline
                self._times = self._read_times()
        if self.spec.health is not None:
            write(self.spec.health, self._health(now))
        if self._figures is not None:
            try:
                write(self._figures, self._health(now))
            except OSError as error:
                _log.warning("the sidecar gets no metrics of plugins: %s", error)
                self._figures = None

    def join(self) -> bool:
        """Serve one more configuration that says the same. Not if files have changed that nobody follows."""
        with _joining:
            if not self._users or (not self.spec.reload and self._read_times() != self._times):
                return False
            self._users += 1
            return True

    def close(self) -> None:
        """A configuration is gone."""
        with _joining:
            self._users -= 1
            if self._users:
                return
        self.clock.remove(self)
        if self._figures is not None:
            self._figures.unlink(missing_ok=True)

    def _read_times(self) -> tuple[tuple[str, int], ...]:
        return tuple((str(path), _changed(path)) for path in self.plugins.files)

    def _health(self, now: float) -> dict[str, Any]:
        self._count()
        return document(
            self.pipeline.families(now),
            filter=self.name,
            reloads=self.plugins.reloads,
            failed_reloads=self.plugins.failed_reloads,
            faults=[str(one) for one in self.plugins.faults],
        )


class Clock:
    """A thread for what has its time: ticks of plugins, the end of their patience, files."""

    def __init__(self) -> None:
        self.applications: tuple[Application, ...] = ()
        self._waiting: list[tuple[float, int, Handler]] = []
        self._numbers = count()
        self._news = threading.Condition()
        self._ended = False
        self._thread: threading.Thread | None = None

    def add(self, application: Application) -> None:
        with self._news:
            self.applications += (application,)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="headgate-plugin-clock", daemon=True)
                self._thread.start()
            self._news.notify()

    def remove(self, application: Application) -> None:
        with self._news:
            self.applications = tuple(one for one in self.applications if one is not application)

    def at(self, when: float, handler: Handler) -> None:
        """Wake a handler then, if it still waits."""
        with self._news:
            heappush(self._waiting, (when, next(self._numbers), handler))
            self._news.notify()

    def close(self) -> None:
        with self._news:
            self._ended = True
            self._waiting.clear()
            self._news.notify()
        if self._thread is not None:
            self._thread.join(2)

    def _run(self) -> None:
        second = time.monotonic()
        while True:
            with self._news:
                now = time.monotonic()
                ticks = min((one.pipeline.next_tick() for one in self.applications), default=second)
                first = self._waiting[0][0] if self._waiting else second
                rest = min(second, first, ticks) - now
                if rest > 0 and not self._ended:
                    self._news.wait(rest)
                if self._ended:
                    return
                now = time.monotonic()
                due = []
                while self._waiting and self._waiting[0][0] <= now:
                    due.append(heappop(self._waiting)[2])
                applications = self.applications
            for handler in due:
                handler.wake_up()
            for application in applications:
                application.pipeline.tick(now)
            if now >= second:
                second = now + 1
                for application in applications:
                    try:
                        application.second(now)
                    except Exception:
                        _log.exception("the plugins of %s could not be looked after", application.name)


class EnvoyLog(logging.Handler):
    """What Python logs goes into Envoy's log."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            level = min(4, max(0, record.levelno // 10))
            log(level, f"{record.name}: {self.format(record)}")
        except Exception:
            self.handleError(record)


_log = logging.getLogger("headgate.plugins")
_clock: Clock | None = None
_lookout: LookoutThread | None = None
_joining = threading.Lock()
_running: WeakValueDictionary[tuple[str, str], Application] = WeakValueDictionary()
_shared: dict[str, SharedData] = {}  # by filter: a new configuration finds what the old one has left


def load(name: str, config: str) -> Application:
    """Called by the C module for each configuration of the filter. What it raises refuses the configuration.

    Envoy makes a route's anew with whatever changes in the routes, and many routes say the same: they share their
    plugins, which so keep what they know.
    """
    global _clock, _lookout
    running = _running.get((name, config))
    if running is not None and running.join():
        return running
    if _clock is None:
        logging.basicConfig(handlers=[EnvoyLog()], level=logging.INFO, format="%(message)s")
        sys.setswitchinterval(_SWITCH)
        WATCH.look_at(inside)
        clock = _clock = Clock()
        _lookout = LookoutThread(Lookout(lambda: [one.pipeline for one in clock.applications]))
        _lookout.start()
    application = Application(name, EmbeddedSpec.model_validate(_object(config)), _clock)
    _running[name, config] = application
    gc.collect()
    gc.set_threshold(*_GARBAGE)
    gc.freeze()  # what is loaded stays: no collection needs to look through it again
    return application


def shut_down() -> bool:
    """Envoy ends. False when plugins have left threads that would keep Python, and so Envoy, from ending."""
    if _lookout is not None:
        _lookout.close()
    if _clock is not None:
        _clock.close()
    WATCH.close()
    here = threading.current_thread()
    left = [one.name for one in threading.enumerate() if one is not here and not one.daemon and one.ident != here.ident]
    left = [name for name in left if name != threading.main_thread().name]
    if left:
        _log.warning("plugins left threads behind: %s", ", ".join(left))
    return not left


def _object(text: str) -> Mapping[str, Any]:
    found = json.loads(text or "{}")
    if not isinstance(found, dict):
        raise ValueError("the filter's configuration has to be a JSON object")
    return found


def _wants(any_hook: bool, need: Need, trailers: bool) -> int:
    body = not isinstance(need, HeadersOnly)
    wants = _WANTS_HEADERS if any_hook else 0
    return wants | (_WANTS_BODY if body else 0) | (_WANTS_TRAILERS if trailers or body else 0)


def _limit(need: Need) -> int:
    return need.limit + _PIECE if isinstance(need, Buffered) else 0


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


__all__ = ["Application", "EmbeddedSpec", "Handler", "Pipeline", "load", "shut_down"]

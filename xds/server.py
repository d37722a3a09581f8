"""ADS and load reports on one gRPC port; for ADS the thin rim around `Stream`, one reader and one writer per client.

Traps of grpc.aio that are met here (each has a test): a second process would silently share the port unless
so_reuseport is off; more than max_pending_requests streams at once are refused; two concurrent writes kill a stream.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import suppress
from time import monotonic
from typing import Any

import grpc

from xds.cache import Cache, Rejection
from xds.delta import DeltaStream
from xds.door import Context, Door, TurnedAway, nonsense, peer
from xds.fleet import Fleet, Member
from xds.load_stream import LRS_SERVICE, serve_loads
from xds.loads import Loads
from xds.metrics import XdsMetrics
from xds.resources import Type
from xds.sotw import SotwStream
from xds.stream import PATIENCE, Refused, Stream, by_url
from xds.subscription import Response, Subscription
from xds.tls import ServerTls, server_credentials
from xds.wire import Framer, Garbage, Request, read_delta, read_sotw

log = logging.getLogger(__name__)

SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
SETTLE = 0.25
"""Seconds that other clients have to accept what one rejected, before newcomers get the last good version."""

LAST_WRITE = 1.0
"""Seconds that the last write to a client that is turned away may take."""

_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_concurrent_streams", 2**31 - 1),
    ("grpc.server.max_pending_requests", 100_000),
    ("grpc.server.max_pending_requests_hard_limit", 100_000),
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
)

_METRIC_NAMES = {kind: kind.name.lower() for kind in Type}
Progress = Callable[[str, frozenset[str]], None]


class XdsServer:
    """Serves every gateway's cache to the clients whose `node.cluster` names it.

    `on_progress(gateway, owners)` is called when clients come, go, ACK or NACK; an empty set means any owner.
    """

    def __init__(
        self,
        caches: Mapping[str, Cache],
        *,
        address: str = "127.0.0.1",
        port: int = 0,
        tls: ServerTls | None = None,
        keepalive: float = 30.0,
        metrics: XdsMetrics | None = None,
        on_progress: Progress | None = None,
    ) -> None:
        self._caches = caches
        self._address, self._wanted_port, self._tls, self._keepalive = address, port, tls, keepalive
        self._metrics = metrics or XdsMetrics()
        self._on_progress = on_progress or (lambda gateway, owners: None)
        self._framer = Framer()
        self._server: Any = None
        self._door = Door(caches.keys(), tls, self._metrics)
        self._calls: set[asyncio.Task[Any]] = set()
        self.fleet = Fleet(caches)
        self.loads = Loads(caches)
        self.port = 0

    async def start(self) -> None:
        """Open the port; raises OSError when it is taken."""
        options = (*_OPTIONS, ("grpc.keepalive_time_ms", int(self._keepalive * 1000)))
        self._server = grpc.aio.server(options=options)
        methods = {
            "DeltaAggregatedResources": grpc.stream_stream_rpc_method_handler(self._delta),
            "StreamAggregatedResources": grpc.stream_stream_rpc_method_handler(self._sotw),
        }
        loads = {"StreamLoadStats": grpc.stream_stream_rpc_method_handler(self._load_stats)}
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(SERVICE, methods),
                grpc.method_handlers_generic_handler(LRS_SERVICE, loads),
            )
        )
        host = f"[{self._address}]" if ":" in self._address else self._address
        where = f"{host}:{self._wanted_port}"
        try:
            if self._tls is None:
                self.port = self._server.add_insecure_port(where)
            else:
                self.port = self._server.add_secure_port(where, server_credentials(self._tls))
        except RuntimeError as error:
            raise OSError(f"cannot listen on {where}: {error}") from error
        if self.port == 0:
            raise OSError(f"cannot listen on {where}: the port is taken or the address is not ours")
        await self._server.start()

    async def stop(self, grace: float = 0.0) -> None:
        """Close all streams; Envoys keep their routes and reconnect elsewhere."""
        if self._server is not None:
            await self._server.stop(grace)
        if self._calls:  # gRPC does not wait for what it has cancelled, and complains when the loop is gone
            await asyncio.wait(self._calls, timeout=LAST_WRITE)

    # One stream

    async def _delta(self, requests: AsyncIterator[bytes], context: Context) -> None:
        await self._call(context, self._serve(DeltaStream, read_delta, requests, context))

    async def _sotw(self, requests: AsyncIterator[bytes], context: Context) -> None:
        await self._call(context, self._serve(SotwStream, read_sotw, requests, context))

    async def _load_stats(self, requests: AsyncIterator[bytes], context: Context) -> None:
        await self._call(context, serve_loads(requests, context, self.loads, self._door, self._metrics))

    async def _call(self, context: Context, serving: Coroutine[Any, Any, None]) -> None:
        """Serve until the client leaves; one that makes no sense, or has no place here, is told why it must go."""
        call = asyncio.current_task()
        if call is not None:
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
        try:
            await serving
        except TurnedAway as away:
            await self._door.turn_away(context, away)

    async def _serve(
        self, variant: type[Stream], read: Callable[[bytes], Request], requests: AsyncIterator[bytes], context: Context
    ) -> None:
        connection: _Connection | None = None
        try:
            try:
                async for raw in requests:
                    request = read(raw)
                    if connection is None:
                        connection = self._open(variant, request, context)
                    connection.receive(request)
            except (Garbage, Refused) as error:
                if connection is not None:
                    await connection.finish()
                raise nonsense(error, connection.member.id if connection else "") from error
            if connection is not None:
                await connection.finish()
        finally:
            if connection is not None:
                await connection.close()

    def _open(self, variant: type[Stream], request: Request, context: Context) -> _Connection:
        node = self._door.admit(request.node, context)
        cache = self._caches[node.cluster]
        stream = variant(cache, self._framer)
        member = Member(stream, node.cluster, peer(context), time.time())
        connection = _Connection(member, cache, context, self._metrics, self._on_progress)
        self.fleet.join(member)
        connection.on_close = lambda: self.fleet.leave(member)
        log.info("%s: %s connected (%s, %s)", node.cluster, node.id, variant.variant, node.version or "unknown client")
        return connection


class _Connection:
    """Joins one stream with its gRPC call. Only the writer task writes; it takes the newest state, never a queue."""

    def __init__(
        self, member: Member, cache: Cache, context: Context, metrics: XdsMetrics, on_progress: Progress
    ) -> None:
        self.member = member
        self.on_close: Callable[[], None] = lambda: None
        self._stream = member.stream
        self._cache, self._context, self._metrics, self._on_progress = cache, context, metrics, on_progress
        self._wake = asyncio.Event()
        self._finishing = False
        self._loop = asyncio.get_running_loop()
        self._connected = metrics.connected.labels(member.gateway, member.stream.variant)
        self._ack_seconds = metrics.ack_seconds.labels(member.gateway)
        self._timer: asyncio.TimerHandle | None = None
        self._reader = asyncio.current_task()
        self._connected.inc()
        cache.watch(self)
        self._writer = self._loop.create_task(self._write())

    def changed(self, changes: Any) -> None:
        self._stream.changed(changes)
        self._wake.set()

    def receive(self, request: Request) -> None:
        kind, now, stream = by_url(request.type_url), monotonic(), self._stream
        before = stream.subscriptions.get(kind) if kind else None
        sent = before.in_flight if before is not None else None
        known = stream.last_rejection
        stream.receive(request, now)
        if stream.is_due():
            self._wake.set()
        if kind is None:
            return
        if before is None:
            self._on_progress(self.member.gateway, frozenset())
        elif sent is not None and before.in_flight is not sent:
            if request.error is None:
                self._ack_seconds.observe(now - sent.at)
            else:
                self._metrics.rejections.labels(self.member.gateway, _METRIC_NAMES[kind]).inc()
                if stream.last_rejection is not None and stream.last_rejection is not known:
                    self._rejected(before, stream.last_rejection)
            owners = self._cache.owners_of(kind, next(iter(sent.before))) if len(sent.before) == 1 else None
            if owners is None:
                owners = frozenset(o for name in sent.before for o in self._cache.owners_of(kind, name))
            self._on_progress(self.member.gateway, owners)

    def _rejected(self, subscription: Subscription, rejection: Rejection) -> None:
        """Believe a client that takes something, too; one that takes nothing has a trouble of its own."""
        owners = self._cache.owners_of(rejection.type, rejection.name)
        if subscription.refusals == PATIENCE:
            log.warning("%s: %s rejects whatever it is sent", self.member.gateway, self.member.id)
        if subscription.refusals >= PATIENCE:
            return
        if not subscription.proved and all(self._cache.is_accepted(owner) for owner in owners):
            return
        if self._cache.reject(rejection):
            told = (rejection.type.name, rejection.name, rejection.message)
            log.warning("%s: %s rejected %s %s: %s", self.member.gateway, self.member.id, *told)
            if subscription.proved:
                for owner in owners:
                    self._loop.call_later(SETTLE, self._quarantine, owner, rejection.name)

    def _quarantine(self, owner: str, name: str) -> None:
        if self._cache.quarantine(owner):
            log.warning("%s: newcomers get the last good version until %s changes", owner, name)
            self._on_progress(self.member.gateway, frozenset((owner,)))

    async def finish(self) -> None:
        """Let the write that is under way end: a status beside it would kill the call without a word to the client."""
        self._finishing = True
        self._wake.set()
        await asyncio.wait((self._writer,), timeout=LAST_WRITE)

    async def _write(self) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                if self._finishing:
                    return
                if not await self._flush():
                    return
                self._arm()
        except Exception:  # our own bug: end this one stream loudly, the client reconnects to a fresh state
            log.exception("%s: %s: the stream failed", self.member.gateway, self.member.id)
            if self._reader is not None:
                self._reader.cancel()

    async def _flush(self) -> bool:
        """Write all that is due. In a method of its own, so that an idle writer holds no response in its frame."""
        for response in self._stream.due(monotonic()):
            if self._finishing or not await self._sent(response):
                return False
        return True

    async def _sent(self, response: Response) -> bool:
        try:
            await self._context.write(response.body)
        except Exception as error:  # grpc.aio has no one class for "the client is gone"; the reader ends the stream
            log.debug("%s: %s: %s", self.member.gateway, self.member.id, error)
            return False
        pushed = self._metrics.pushed(self.member.gateway, _METRIC_NAMES[response.type])
        pushed.responses.inc()
        pushed.bytes.inc(len(response.body))
        return True

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self._stream.next_deadline()
        if deadline is not None:
            self._timer = self._loop.call_later(max(0.0, deadline - monotonic()), self._wake.set)

    async def close(self) -> None:
        self._cache.unwatch(self)
        if self._timer is not None:
            self._timer.cancel()
        self._writer.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await self._writer
        self._connected.dec()
        self.on_close()
        log.info("%s: %s disconnected", self.member.gateway, self.member.id)
        self._on_progress(self.member.gateway, frozenset())

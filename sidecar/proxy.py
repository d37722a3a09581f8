"""Where there is no Envoy: a reverse proxy in front of one model server, with the same plugins.

    client ──► aiohttp server ──► Chain ──► aiohttp client ──► model server
           ◄── write, drained ◄── Chain ◄── read, piece by piece ◄──

Bodies are streamed both ways and never gathered, unless a plugin asked for that; who reads slowly slows down who
writes. HTTP/1 only: aiohttp neither speaks HTTP/2 nor tells HTTP/1's trailers, so trailers are dropped. A WebSocket is
passed on, see sidecar/proxy_upgrade.py. gRPC has a port of its own, see sidecar/proxy_grpc.py.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
from aiohttp import web
from yarl import URL

from sidecar.chain import Chain, Out
from sidecar.headers import HeaderList, Pairs
from sidecar.host import Host
from sidecar.memory import look_out
from sidecar.plugin import Entry, HttpRequest, HttpResponse, Reply, Value
from sidecar.proxy_config import Exchange, ProxyConfig, Recorder
from sidecar.proxy_upgrade import SWITCH, is_upgrade, tunnel
from sidecar.reload import Plugins

_log = logging.getLogger("sidecar")
_HOP_BY_HOP = frozenset(
    {"connection", "expect", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te"}
    | {"trailer", "transfer-encoding", "upgrade"}
)
_CALL_LIMIT = 1 << 20  # bytes of an answer to a plugin
_HEADER_LIMIT = 64 << 10

Pieces = AsyncIterator[tuple[bytes, bool]]


class CannotStart(Exception):
    """The configuration or the machine does not allow it; the message tells what to do."""


class Proxy:
    """What all requests share."""

    def __init__(self, config: ProxyConfig, recorder: Recorder | None = None) -> None:
        self.config = config
        self.recorder = recorder
        self.plugins = Plugins(config.plugins, config.folder, place="proxy")
        if self.plugins.faults:
            raise CannotStart("\n".join(map(str, self.plugins.faults)))
        self.properties: dict[str, Value] = {
            "namespace": config.namespace,
            "model": config.model or None,
            "version": config.version or None,
            "cluster": config.upstream,
        }
        self.session: aiohttp.ClientSession
        self.calls: aiohttp.ClientSession

    async def __aenter__(self) -> Proxy:
        config = self.config
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=config.connect_timeout, sock_read=config.idle_timeout)
        # Idle for longer than the model server allows is the way to lose a request: see keepAlive.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=self.config.keep_alive, ttl_dns_cache=5)
        self.session = aiohttp.ClientSession(
            connector=connector,
            timeout=timeout,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            max_field_size=_HEADER_LIMIT,
            max_line_size=_HEADER_LIMIT,
        )
        self.calls = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()
        await self.calls.close()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """One request over HTTP/1."""
        return await _Http(self, request).run()

    async def call(self, request: HttpRequest) -> HttpResponse:
        """A request of a plugin."""
        try:
            async with self.calls.request(
                request.method,
                request.url,
                headers=request.headers,
                data=request.body or None,
                timeout=aiohttp.ClientTimeout(total=request.timeout),
                allow_redirects=False,
            ) as response:
                body = await response.content.read(_CALL_LIMIT + 1)
                while len(body) <= _CALL_LIMIT and (more := await response.content.read(_CALL_LIMIT + 1 - len(body))):
                    body += more
                if len(body) > _CALL_LIMIT:
                    return HttpResponse(0, error=f"the answer is longer than {_CALL_LIMIT} bytes")
                pairs = tuple((name.lower(), value) for name, value in response.headers.items())
                return HttpResponse(response.status, pairs, body)
        except TimeoutError:
            return HttpResponse(0, error=f"no answer within {request.timeout:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return HttpResponse(0, error=str(error) or type(error).__name__)

    def allowed(self, url: str) -> bool:
        """Whether plugins may call it."""
        return any(url == one or url.startswith(f"{one}/") for one in (self.config.upstream, *self.config.calls))

    def record(self, exchange: Exchange) -> None:
        """Tell the metrics; their mistakes are not the client's."""
        if self.recorder is not None:
            try:
                self.recorder.record(exchange)
            except Exception:
                _log.exception("a request was not counted")


_SAID = "headgate."


class ProxyHost(Host):
    """The chain's host: calls as tasks, and a bell that rings when something paused may go on."""

    def __init__(self, proxy: Proxy, properties: dict[str, Value]) -> None:
        self.proxy = proxy
        self.properties = properties
        self.chain: Chain = proxy.plugins.pipeline.open(self)
        self.bell = asyncio.Event()
        self.metadata: dict[str, Value] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self.wants_log = bool(proxy.plugins.pipeline.editors)

    def property(self, name: str) -> Value:
        value = self.properties.get(name)
        return value if value is not None else self.proxy.properties.get(name)

    def set_metadata(self, namespace: str, key: str, value: Value) -> None:
        if len(self.metadata) < 100:
            self.metadata[f"{namespace}.{key}"] = value

    def said(self) -> dict[str, Value]:
        """What plugins said for the figures."""
        return {name.removeprefix(_SAID): value for name, value in self.metadata.items() if name.startswith(_SAID)}

    def start_call(self, chain: Chain, token: int, request: HttpRequest) -> None:
        if not self.proxy.allowed(request.url):
            raise ValueError(f"calls to {request.url.split('?')[0]} are not allowed: name its origin in `calls`")
        self._tasks[token] = asyncio.create_task(self._call(token, request))

    def cancel_call(self, token: int) -> None:
        task = self._tasks.pop(token, None)
        if task is not None:
            task.cancel()

    def wake(self, chain: Chain) -> None:
        def wake() -> None:
            chain.wake()
            self.bell.set()

        asyncio.get_running_loop().call_soon(wake)

    def access_log(self, entry: Entry) -> None:
        _log.debug("%s", entry)

    async def moved(self, request: bool) -> Out:
        """What came out in one direction; returns empty-handed when the host should read on."""
        chain = self.chain
        while True:
            out = chain.take_request() if request else chain.take_response()
            if out or not (chain.request_blocked if request else chain.response_blocked):
                return out
            self.bell.clear()
            # Both directions may wait: who rings must be heard by both, so none of them waits for long in vain.
            left = chain.deadline - self.now()
            try:
                async with asyncio.timeout(None if left == float("inf") else max(0.0, left)):
                    await self.bell.wait()
            except TimeoutError:
                chain.check(self.now())
                self.bell.set()

    async def _call(self, token: int, request: HttpRequest) -> None:
        response = await self.proxy.call(request)
        self._tasks.pop(token, None)
        self.chain.answer(token, response)
        self.bell.set()


class _Decided(Exception):
    """A plugin answers instead of the model server, or the stream is reset."""

    def __init__(self, reply: Reply | None) -> None:
        super().__init__()
        self.reply = reply


class _Http(ProxyHost):
    """One request over HTTP/1."""

    def __init__(self, proxy: Proxy, request: web.BaseRequest) -> None:
        super().__init__(proxy, {"source_address": request.remote, "protocol": _protocol(request)})
        self.properties["request_time"] = time.time()
        self.request = request
        self.switches = is_upgrade(request)
        self.switched: aiohttp.ClientResponse | None = None  # the model server's connection, when it does too
        self.headers = HeaderList(
            (
                (":method", request.method),
                (":path", request.rel_url.raw_path_qs if request.raw_path[:1] != "/" else request.raw_path),
                (":authority", request.host),
                (":scheme", "http"),
                *_passed_on(request.headers, without="host"),
                *(SWITCH if self.switches else ()),
            )
        )
        self.began = self.now()
        self.first: float | None = None
        self.sent = self.received = 0
        self.code = 0
        self.end = ""
        self.answered = False  # whether the model server's response has begun
        self.response: web.StreamResponse | None = None
        self.decided: asyncio.Future[Reply | None] = asyncio.get_running_loop().create_future()

    async def run(self) -> web.StreamResponse:
        by_plugin = False
        try:
            return await self._exchange()
        except _Decided as decided:
            by_plugin = not self.end
            if decided.reply is not None and self.response is None:
                return await self._reply(decided.reply)
            self.end = self.end or "aborted"
            return self._reset()
        except asyncio.CancelledError:
            self.end = self.end or "disconnected"
            raise
        except (aiohttp.ClientError, web.RequestPayloadError, ConnectionError):
            self.end = self.end or "disconnected"
            return self._reset()
        except TimeoutError:
            self.end = "timeout"
            return self._reset()
        finally:
            self._over(by_plugin)

    async def _exchange(self) -> web.StreamResponse:
        request = self.request
        if any(_surrogates(value) for _, value in self.headers) or request.method == "CONNECT":
            return await self._reply(Reply(400, b"the request cannot be passed on\n"))
        out = self._decide(self.chain.request_headers(self.headers, not request.body_exists))
        while out.headers is None:
            out = await self._request_out()
        if not self.headers.get(":path").startswith("/"):
            return await self._reply(Reply(400, b"the path has to begin with a slash\n"))
        async with AsyncExitStack() as stack:
            status, pairs, pieces, empty = await self._ask(out, stack)
            headers = HeaderList(((":status", str(status)), *pairs))
            out = self._decide(self.chain.response_headers(headers, empty))
            while True:
                await self._send(out)
                if out.end:
                    assert self.response is not None
                    if self.switched is not None and self.code == 101:
                        self.received, self.sent = await tunnel(request, self.switched, self.proxy.config.idle_timeout)
                    else:
                        await self._within(self.response.write_eof())
                    return self.response
                out = self._decide(await self.moved(request=False))
                if not out:
                    self._look()
                    data, end = await self._next(pieces)
                    out = self._decide(self.chain.response_body(data, end))

    # The request

    async def _request_out(self) -> Out:
        """What is to be sent upstream next; an empty one when there is nothing yet."""
        out = self._decide(await self.moved(request=True))
        if out:
            return out
        content = self.request.content
        if self.request.headers.get("Expect", "").lower() == "100-continue" and not self.received:
            transport = self.request.transport
            if transport is not None and not content.at_eof():
                transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        data = await self._within(content.readany())
        self.received += len(data)
        return self._decide(self.chain.request_body(data, content.at_eof()))

    async def _pieces(self, out: Out) -> AsyncIterator[bytes]:
        """The body as aiohttp's client wants it."""
        while True:
            if out.data:
                yield out.data
            if out.end:
                return
            try:
                out = await self._request_out()
            except _Decided as decided:
                if not self.decided.done():
                    self.decided.set_result(decided.reply)
                if self.answered and self.request.transport is not None:
                    self.end = "aborted"  # the other half may be waiting for the model server
                    self.request.transport.abort()
                await asyncio.Event().wait()  # until the request upstream is given up
            except (ConnectionError, aiohttp.ClientError, web.RequestPayloadError):
                self.end = "disconnected"
                raise

    async def _ask(self, out: Out, stack: AsyncExitStack) -> tuple[int, Pairs, Pieces, bool]:
        """Send the request on and wait for the response, or for a plugin that answers meanwhile."""
        headers = [(name, value) for name, value in self.headers if name[0] != ":"]
        authority = self.headers.get(":authority")
        method = self.headers.get(":method")
        call = asyncio.ensure_future(
            self.proxy.session.request(
                method,
                URL(self.proxy.config.upstream + self.headers.get(":path"), encoded=True),
                headers=[("host", authority), *headers] if authority else headers,
                data=None if out.end and not out.data else self._pieces(out),
                allow_redirects=False,
            )
        )
        try:
            await asyncio.wait((call, self.decided), return_when=asyncio.FIRST_COMPLETED)
            self._look()
            upstream = call.result()
        except BaseException as error:
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            if isinstance(error, aiohttp.ClientError | OSError | ValueError) and not self.end:
                return self._failed(error)
            raise
        self.answered = True
        stack.callback(upstream.close)  # does nothing when all of it has been read
        if upstream.status == 101:
            if not self.switches:
                return self._failed(aiohttp.ClientError("the model server switched protocols"))
            self.switched = upstream
            return 101, (*_passed_on(upstream.headers), *SWITCH), self._read(upstream), True
        no_body = method == "HEAD" or upstream.status in (204, 304) or upstream.headers.get("Content-Length") == "0"
        return upstream.status, _passed_on(upstream.headers), self._read(upstream), no_body

    def _failed(self, error: Exception) -> tuple[int, Pairs, Pieces, bool]:
        """The model server did not answer: it is told as an answer, and plugins see that too."""
        self.end = "upstream-failed"
        code, text = 502, b"the model server broke off\n"
        if isinstance(error, TimeoutError):
            code, text = 504, b"the model server did not answer in time\n"
        elif isinstance(error, aiohttp.ClientConnectorError):
            code, text = 503, b"the model server cannot be reached\n"
        _log.warning("%s: %s", self.proxy.config.upstream, str(error) or type(error).__name__)

        async def pieces() -> Pieces:
            yield text, True

        pairs = (("content-type", "text/plain; charset=utf-8"), ("content-length", str(len(text))))
        return code, pairs, pieces(), False

    # The response

    async def _read(self, upstream: aiohttp.ClientResponse) -> Pieces:
        content = upstream.content
        while True:
            data = await content.readany()
            end = content.at_eof()
            yield data, end
            if end:
                return

    async def _next(self, pieces: Pieces) -> tuple[bytes, bool]:
        try:
            got: tuple[bytes, bool] = await self._within(anext(pieces))
            return got
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(error, TimeoutError):
                raise
            self.end = "upstream-failed"
            _log.warning("%s broke off its response: %s", self.proxy.config.upstream, error or type(error).__name__)
            if self.response is None:
                raise _Decided(Reply(502, b"the model server broke off\n")) from None
            raise _Decided(None) from None

    async def _send(self, out: Out) -> None:
        if out.headers is not None:
            self.response = _response(out.headers.items())
            if self._may_have_trailers():
                self.response.force_close()
            self.code = self.response.status
            self.first = self.now()
            await self._within(self.response.prepare(self.request))
        if out.data and self.response is not None:
            self.sent += len(out.data)
            await self._within(self.response.write(out.data))

    def _may_have_trailers(self) -> bool:
        """aiohttp's parser in C (3.14.5) takes a request's last trailer for a header of the next one on the connection,
        which may be another user's where something in front of us joins them. So there is no next one.
        """
        return "transfer-encoding" in self.request.headers

    async def _reply(self, reply: Reply) -> web.StreamResponse:
        pairs = [(":status", str(reply.status)), *reply.headers]
        if reply.grpc_status is not None:
            pairs.append(("grpc-status", str(reply.grpc_status)))
        length = [] if reply.status in (204, 304) else [("content-length", str(len(reply.body)))]
        response = _response((*(pair for pair in pairs if pair[0] != "content-length"), *length))
        self.response, self.code, self.first = response, reply.status, self.now()
        if self._may_have_trailers() or not self.request.content.at_eof():
            response.force_close()  # nobody will read the rest of the request
        await self._within(response.prepare(self.request))
        if self.request.method != "HEAD" and length:
            self.sent += len(reply.body)
            await self._within(response.write(reply.body))
        await self._within(response.write_eof())
        return response

    def _reset(self) -> web.StreamResponse:
        """Break the connection off, so that nobody takes half a response for a whole one."""
        if self.request.transport is not None:
            self.request.transport.abort()
        return self.response if self.response is not None else web.Response(status=500)

    # Both

    def _decide(self, out: Out) -> Out:
        if out.reply is not None or out.abort:
            raise _Decided(out.reply)
        return out

    def _look(self) -> None:
        """Whether the sending half has met a plugin's answer."""
        if self.decided.done():
            raise _Decided(self.decided.result())

    async def _within(self, doing: Any) -> Any:
        async with asyncio.timeout(self.proxy.config.idle_timeout):
            return await doing

    def _over(self, by_plugin: bool) -> None:
        now = self.now()
        config = self.proxy.config
        entry: Entry = {
            "method": self.headers.get(":method"),
            "path": self.headers.get(":path"),
            "status": self.code,
            "duration": now - self.began,
            "source_address": self.request.remote,
        }
        self.chain.finish(entry)
        for token in list(self._tasks):
            self.cancel_call(token)
        self.proxy.record(
            Exchange(
                namespace=config.namespace,
                model=config.model,
                version=config.version,
                protocol="http",
                method=self.headers.get(":method"),
                code=self.code,
                grpc_status=None,
                shadow=self.headers.get("x-shadow") == "true",
                request_bytes=self.received,
                response_bytes=self.sent,
                duration=now - self.began,
                time_to_first_byte=None if self.first is None else self.first - self.began,
                request_id=self.headers.get("x-request-id"),
                end=self.end,
                by_plugin=by_plugin,
                said=self.said(),
            )
        )


async def serve_proxy(
    config: ProxyConfig,
    recorder: Recorder | None = None,
    started: Callable[[Proxy, tuple[int, ...]], None] | None = None,
    stop: asyncio.Event | None = None,
) -> None:
    """Serve until `stop` is set, or for ever. `started` is told the ports: HTTP, then gRPC if it is on."""
    stop = stop or asyncio.Event()
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(Proxy(config, recorder))
        server = web.Server(
            proxy.handle,
            handler_cancellation=True,  # a client that goes ends its request upstream
            access_log=None,
            auto_decompress=False,
            max_line_size=_HEADER_LIMIT,
            max_field_size=_HEADER_LIMIT,
        )
        runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=config.drain)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        host, _, port = config.listen.rpartition(":")
        site = web.TCPSite(runner, host.strip("[]"), int(port), backlog=1024)
        try:
            await site.start()
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise CannotStart(f"cannot listen on {config.listen}: {why} (set listen)") from None
        ports = [runner.addresses[0][1]]
        if config.grpc_listen is not None:
            from sidecar.proxy_grpc import GrpcProxy  # who has no gRPC need not load it

            grpc = GrpcProxy(proxy)
            grpc_port = await grpc.start()
            stack.push_async_callback(grpc.stop)
            if not grpc_port:
                raise CannotStart(f"cannot listen on {config.grpc_listen} for gRPC (set grpcListen)")
            ports.append(grpc_port)
        tasks = [
            asyncio.create_task(_tick(proxy)),
            asyncio.create_task(look_out(lambda: (proxy.plugins.pipeline,))),
        ]
        if config.reload:
            tasks.append(asyncio.create_task(proxy.plugins.watch()))
        stack.push_async_callback(_end, tasks)
        if started is not None:
            started(proxy, tuple(ports))
        await stop.wait()


async def _tick(proxy: Proxy) -> None:
    """Plugins' ticks."""
    while True:
        now = time.monotonic()
        proxy.plugins.pipeline.tick(now)
        # Looked at again each second: a reload may have brought others.
        await asyncio.sleep(min(1.0, max(0.01, proxy.plugins.pipeline.next_tick() - now)))


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _passed_on(headers: Any, without: str = "") -> Pairs:
    """Headers without those that are between two peers only."""
    named = {one.strip().lower() for value in headers.getall("Connection", ()) for one in value.split(",")}
    left_out = _HOP_BY_HOP | named | {without}
    return tuple((name.lower(), value) for name, value in headers.items() if name.lower() not in left_out)


def _response(pairs: Pairs) -> web.StreamResponse:
    status = next((value for name, value in pairs if name == ":status"), "500")
    response = web.StreamResponse(status=int(status))
    for name, value in pairs:
        if name[0] != ":":
            response.headers.add(name, value.encode("utf-8", "replace").decode())
    return response


def _protocol(request: web.BaseRequest) -> str:
    return f"HTTP/{request.version.major}.{request.version.minor}"


def _surrogates(text: str) -> bool:
    return any("\ud800" <= one <= "\udfff" for one in text)


__all__ = ["CannotStart", "Exchange", "Proxy", "ProxyConfig", "Recorder", "serve_proxy"]

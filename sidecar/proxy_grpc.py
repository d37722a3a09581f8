"""The proxy's gRPC half: any method of any service, unary or streaming, passed on as bytes through the same plugins.

Plugins see what is on the wire in Envoy too: messages in their five-byte frames as the body, `grpc-status` in the
response's trailers. grpcio speaks the HTTP/2 and handles compression, so plugins see messages uncompressed.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import unquote

import grpc
import grpc.aio

from sidecar.chain import Out
from sidecar.headers import HeaderList, Headers, Pairs
from sidecar.plugin import Entry, Reply
from sidecar.proxy import Proxy, ProxyHost
from sidecar.proxy_config import Exchange

_OPTIONS = [
    ("grpc.so_reuseport", 0),  # a taken port has to be an error
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
]
_OURS = frozenset({"content-type", "te", "user-agent", "host"})  # grpcio writes them itself
_UNAVAILABLE, _INTERNAL, _UNKNOWN = 14, 13, 2
_FROM_HTTP = {400: _INTERNAL, 401: 16, 403: 7, 404: 12, 413: 8, 429: 8, 502: 14, 503: 14, 504: 14}
_CODES = {code.value[0]: code for code in grpc.StatusCode}

Metadata = tuple[tuple[str, str | bytes], ...]


class GrpcProxy(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio has no types
    """Every method of every service."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.channel: grpc.aio.Channel
        self.server: grpc.aio.Server

    async def start(self) -> int:
        """Listen; the port. Port 0 when it cannot be had."""
        config = self.proxy.config
        self.channel = grpc.aio.insecure_channel(config.grpc_upstream, options=_OPTIONS)
        self.server = grpc.aio.server(handlers=(self,), options=_OPTIONS)
        try:
            port: int = self.server.add_insecure_port(config.grpc_listen)
        except RuntimeError:
            return 0
        if port:
            await self.server.start()
        return port

    async def stop(self) -> None:
        await self.server.stop(self.proxy.config.drain)
        await self.channel.close()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        method = handler_call_details.method

        async def handle(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
            await _Rpc(self, method, requests, context).run()

        return grpc.stream_stream_rpc_method_handler(handle)


class _Replied(Exception):
    def __init__(self, reply: Reply | None) -> None:
        super().__init__()
        self.reply = reply


class _NotFrames(Exception):
    pass


class _Rpc(ProxyHost):
    """One call."""

    def __init__(
        self, owner: GrpcProxy, method: str, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext
    ) -> None:
        super().__init__(owner.proxy, {"source_address": _address(context.peer()), "protocol": "HTTP/2"})
        self.properties["request_time"] = time.time()
        self.owner = owner
        self.requests = requests
        self.context = context
        self.method = method
        self.headers = HeaderList(
            (
                (":method", "POST"),
                (":path", method),
                (":authority", owner.proxy.config.grpc_upstream or ""),
                (":scheme", "http"),
                ("content-type", "application/grpc"),
                ("te", "trailers"),
                *_pairs(context.invocation_metadata()),
            )
        )
        self.began = self.now()
        self.first: float | None = None
        self.received = self.sent = 0
        self.status = _UNKNOWN
        self.end = ""

    async def run(self) -> None:
        by_plugin = False
        try:
            await self._exchange()
        except _Replied as replied:
            by_plugin = True
            self.end = self.end if replied.reply is not None else "aborted"
            await self._reply(replied.reply or Reply(500, b"the stream was broken off by a plugin", (), _INTERNAL))
        except _NotFrames as error:
            self.end = "aborted"
            await self._reply(Reply(500, str(error).encode(), (), _INTERNAL))
        except asyncio.CancelledError:
            self.status, self.end = 1, self.end or "disconnected"
            raise
        finally:
            self._over(by_plugin)

    async def _exchange(self) -> None:
        out = self._decide(self.chain.request_headers(self.headers))
        while out.headers is None:
            out = await self._request_out()
        call = self.owner.channel.stream_stream(self.headers.get(":path"))(
            metadata=_metadata(self.headers), timeout=self.context.time_remaining()
        )
        sending = asyncio.create_task(self._send_on(out, call))
        receiving = asyncio.create_task(self._receive(call))
        try:
            # A plugin may answer from either half; an end of the sending one is no end.
            await asyncio.wait((sending, receiving), return_when=asyncio.FIRST_COMPLETED)
            if sending.done() and sending.exception() is not None:
                sending.result()
            await receiving
        finally:
            for task in (sending, receiving):
                task.cancel()
            call.cancel()
            await asyncio.gather(sending, receiving, return_exceptions=True)

    async def _request_out(self) -> Out:
        out = self._decide(await self.moved(request=True))
        if out:
            return out
        message = await anext(self.requests, None)
        if message is None:
            return self._decide(self.chain.request_body(b"", True))
        self.received += len(message)
        return self._decide(self.chain.request_body(_frame(message)))

    async def _send_on(self, out: Out, call: Any) -> None:
        frames = _Frames()
        try:
            while True:
                for message in frames.feed(out.data):
                    await call.write(message)
                if out.end:
                    await call.done_writing()
                    return
                out = await self._request_out()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return  # the call is over: the receiving half tells why

    async def _receive(self, call: Any) -> None:
        frames = _Frames()
        initial = _pairs(await call.initial_metadata())
        headers = HeaderList(((":status", "200"), ("content-type", "application/grpc"), *initial))
        await self._pass_back(self._decide(self.chain.response_headers(headers)), frames)
        try:
            while (message := await call.read()) is not grpc.aio.EOF:
                self.sent += len(message)
                await self._pass_back(self._decide(self.chain.response_body(_frame(message))), frames)
        except grpc.aio.AioRpcError:
            pass  # its code and words are the trailers
        code, details = await call.code(), await call.details()
        trailers = HeaderList(
            (
                ("grpc-status", str(code.value[0])),
                *((("grpc-message", details.replace("\r", " ").replace("\n", " ")),) if details else ()),
                *_pairs(await call.trailing_metadata()),
            )
        )
        if code is grpc.StatusCode.UNAVAILABLE and self.first is None:
            self.end = "upstream-failed"
        out = self._decide(self.chain.response_trailers(trailers))
        while True:
            await self._pass_back(out, frames)
            if out.end:
                return
            out = self._decide(await self.moved(request=False))

    async def _pass_back(self, out: Out, frames: _Frames) -> None:
        while True:
            if out.headers is not None:
                self.first = self.now()
                await self.context.send_initial_metadata(_metadata(out.headers))
            for message in frames.feed(out.data):
                await self.context.write(message)
            if out.end:
                self._finish(out.trailers)
                return
            if not self.chain.response_blocked:
                return
            out = self._decide(await self.moved(request=False))

    def _finish(self, trailers: Headers | None) -> None:
        status = trailers.get("grpc-status", "2") if trailers is not None else "2"
        self.status = int(status) if status.isdecimal() and int(status) in _CODES else _UNKNOWN
        self.context.set_code(_CODES[self.status])
        if trailers is not None:
            self.context.set_details(trailers.get("grpc-message"))
            self.context.set_trailing_metadata(_metadata(trailers))

    async def _reply(self, reply: Reply) -> None:
        fallback = 0 if reply.status == 200 else _FROM_HTTP.get(reply.status, _UNKNOWN)
        self.status = fallback if reply.grpc_status is None else reply.grpc_status
        self.context.set_code(_CODES[self.status])
        self.context.set_details(reply.body.decode("utf-8", "replace").strip())
        self.context.set_trailing_metadata(_metadata(HeaderList(reply.headers)))

    def _decide(self, out: Out) -> Out:
        if out.reply is not None or out.abort:
            raise _Replied(out.reply)
        return out

    def _over(self, by_plugin: bool) -> None:
        config, now = self.proxy.config, self.now()
        entry: Entry = {
            "method": "POST",
            "path": self.method,
            "status": 200,
            "grpc_status": self.status,
            "duration": now - self.began,
            "source_address": self.properties["source_address"],
        }
        self.chain.finish(entry)
        self.proxy.record(
            Exchange(
                namespace=config.namespace,
                model=config.model,
                version=config.version,
                protocol="grpc",
                method="POST",
                code=200,
                grpc_status=self.status,
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


class _Frames:
    """Bytes of a body back to messages."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        messages = []
        rest = self._rest + data if self._rest else data
        while len(rest) >= 5:
            if rest[0]:
                raise _NotFrames("a plugin left something that is no uncompressed gRPC message in the body")
            length = int.from_bytes(rest[1:5], "big")
            if len(rest) < 5 + length:
                break
            messages.append(rest[5 : 5 + length])
            rest = rest[5 + length :]
        self._rest = rest
        return messages


def _frame(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


def _pairs(metadata: Any) -> Pairs:
    """Metadata as headers; binary values in base64, as on the wire."""
    return tuple(
        (name, base64.b64encode(value).decode() if isinstance(value, bytes) else value)
        for name, value in metadata or ()
    )


def _metadata(headers: Headers) -> Metadata:
    return tuple(
        (name, _binary(value) if name.endswith("-bin") else value)
        for name, value in headers.items()
        if name[0] != ":" and not name.startswith("grpc-") and name not in _OURS
    )


def _binary(value: str) -> bytes:
    try:
        return base64.b64decode(value + "=" * (-len(value) % 4))
    except ValueError:
        return value.encode()


def _address(peer: str) -> str:
    """ipv4:1.2.3.4:5 to 1.2.3.4."""
    kind, _, rest = peer.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return rest
    return unquote(rest.rpartition(":")[0]).strip("[]")

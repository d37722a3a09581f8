"""REST and gRPC on one port: the first bytes of a connection tell which of the two it speaks.

HTTP/1 connections are handed to aiohttp as they are; HTTP/2 ones, which grpc's own C core must accept itself, are
piped to the gRPC port. So a rollout's version can be one endpoint for both protocols, as real model servers often are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

PREFACE = b"PRI * HTTP/2.0"


class FirstBytes(asyncio.Protocol):
    """Holds a new connection until it has shown which protocol it speaks, then gives it away."""

    def __init__(self, http: Callable[[], asyncio.Protocol], grpc_port: int) -> None:
        self._http = http
        self._grpc_port = grpc_port
        self._seen = b""
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._seen += data
        if self._seen.startswith(PREFACE):
            self._transport.pause_reading()
            self._task = asyncio.get_running_loop().create_task(self._pipe())
        elif not PREFACE.startswith(self._seen):
            self._give(self._http())

    def _give(self, protocol: asyncio.Protocol) -> None:
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        protocol.data_received(self._seen)

    async def _pipe(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            far, _ = await loop.create_connection(lambda: Pipe(self._transport), "127.0.0.1", self._grpc_port)
        except OSError:
            self._transport.abort()
            return
        self._give(Pipe(far))
        self._transport.resume_reading()


class Pipe(asyncio.Protocol):
    """Copies what arrives to the other side, at the other side's pace; either end closing closes both."""

    def __init__(self, far: asyncio.Transport) -> None:
        self._far = far

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._near = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._far.write(data)

    def pause_writing(self) -> None:
        self._far.pause_reading()

    def resume_writing(self) -> None:
        if not self._far.is_closing():
            self._far.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._far.close()

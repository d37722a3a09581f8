"""A WebSocket through the proxy: once both sides have switched, bytes go both ways as they come, unread.

client ──► aiohttp's server connection ──► _Half ──► aiohttp's client connection ──► model server
       ◄────────────────────────────────── _Half ◄──
"""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.http import StreamWriter

_HELD = 256 << 10  # bytes of one way that wait for who reads slowly
PROTOCOL = "websocket"  # the only one that aiohttp lets go of
SWITCH = (("connection", "upgrade"), ("upgrade", PROTOCOL))


def is_upgrade(request: web.BaseRequest) -> bool:
    """Whether the client asks to speak WebSocket from here on."""
    tokens = {one.strip().lower() for value in request.headers.getall("Connection", ()) for one in value.split(",")}
    return "upgrade" in tokens and request.headers.get("Upgrade", "").lower() == PROTOCOL


async def tunnel(request: web.BaseRequest, upstream: aiohttp.ClientResponse, idle: float) -> tuple[int, int]:
    """Pass on bytes until one side ends, or nothing moves for `idle` seconds. Bytes from and to the client."""
    connection, transport = upstream.connection, request.transport
    if connection is None or connection.protocol is None or connection.transport is None or transport is None:
        return 0, 0
    loop = asyncio.get_running_loop()
    up, down = _Half(transport), _Half(connection.transport)
    request.protocol.set_parser(up)  # type: ignore[arg-type]
    connection.protocol.set_parser(down, down)
    ways = (
        loop.create_task(up.pump(StreamWriter(connection.protocol, loop))),
        loop.create_task(down.pump(StreamWriter(request.protocol, loop))),
    )
    try:
        moved = -1
        while moved != up.passed + down.passed:
            moved = up.passed + down.passed
            done, _ = await asyncio.wait(ways, timeout=idle, return_when=asyncio.FIRST_COMPLETED)
            if done:
                break
    except asyncio.CancelledError:
        if not transport.is_closing():
            raise
        # The client has gone, which is how this ends: aiohttp cancels who serves it.
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        connection.close()
        transport.close()
    return up.passed, down.passed


class _Half:
    """One way: what a connection of aiohttp's feeds, as it would a reader of WebSocket frames."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.passed = 0
        self._transport = transport
        self._held: list[bytes] = []
        self._size = 0
        self._over = False
        self._news = asyncio.Event()

    async def pump(self, writer: StreamWriter) -> None:
        """Send on what comes until its end."""
        while not self._over or self._held:
            self._news.clear()
            if not self._held:
                await self._news.wait()
                continue
            data = b"".join(self._held)
            self._held.clear()
            self._size = 0
            self._transport.resume_reading()
            await writer.write(data)
            await writer.drain()
            self.passed += len(data)

    # What aiohttp calls

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self._held.append(data)
        self._size += len(data)
        if self._size > _HELD:
            self._transport.pause_reading()
        self._news.set()
        return False, b""

    def feed_eof(self) -> None:
        self._over = True
        self._news.set()

    def set_exception(self, error: Any, cause: Any = None) -> None:
        self.feed_eof()

"""A server that does to its connections what it is told, in a thread of its own: misbehaviour on demand."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

Handler = Callable[["Peer"], Awaitable[None]]


class Peer:
    """One connection, as the server sees it. `number` counts them from 0."""

    def __init__(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number, self.reader, self.writer = number, reader, writer

    async def request(self) -> bytes:
        """Head and body of the next HTTP/1.1 request; b"" at the end of the connection."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
            lines = head.lower().split(b"\r\n")
            length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
            return head + await self.reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            return b""

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def gone(self) -> None:
        """Wait until the client has closed the connection."""
        try:
            while await self.reader.read(65536):
                pass
        except ConnectionError:
            pass

    def reset(self) -> None:
        """Close it with a RST."""
        plain: socket.socket = self.writer.get_extra_info("socket")
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class RawServer:
    def __init__(self, port: int) -> None:
        self.port = port
        self.peers: list[Peer] = []  # every connection that there has been
        self.requests: list[bytes] = []  # what handlers choose to keep

    def url(self, path: str = "/", scheme: str = "http") -> str:
        return f"{scheme}://127.0.0.1:{self.port}{path}"


@contextmanager
def raw_server(handler: Handler, tls: ssl.SSLContext | None = None) -> Iterator[RawServer]:
    """`handler(peer)` serves each connection, closed when it returns. What it raises, this raises at the end."""
    ready: list[RawServer] = []
    trouble: list[BaseException] = []
    started = threading.Event()
    loops: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def serve() -> None:
        running: set[asyncio.Task[None]] = set()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            running.add(task)
            peer = Peer(len(ready[0].peers), reader, writer)
            ready[0].peers.append(peer)
            try:
                await handler(peer)
            except (ConnectionError, asyncio.CancelledError):
                pass
            except BaseException as error:
                trouble.append(error)
            finally:
                running.discard(task)
                writer.close()

        stop = asyncio.Event()
        server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls, limit=1 << 22, backlog=1024)
        ready.append(RawServer(server.sockets[0].getsockname()[1]))
        loops.append((asyncio.get_running_loop(), stop))
        started.set()
        await stop.wait()
        server.close()
        for task in list(running):
            task.cancel()
        if running:
            await asyncio.wait(list(running), timeout=10)

    thread = threading.Thread(target=asyncio.run, args=(serve(),), name="raw server")
    thread.start()
    assert started.wait(30)
    try:
        yield ready[0]
    finally:
        loop, stop = loops[0]
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        if trouble:
            raise trouble[0]

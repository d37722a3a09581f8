"""The server's sockets: a unix socket or a loopback port, connections of Envoys, leaving without hurting a request."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import stat
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import cast

from sidecar.ext_proc.application import CHOICE, Application
from sidecar.ext_proc.figures import FigureFile
from sidecar.ext_proc.http2 import Connection, Handler, Stream
from sidecar.memory import look_out

_log = logging.getLogger("headgate.plugins")
_BACKLOG = 1024
_LEAVE = 5.0  # seconds that requests under way have when we leave


class CannotListen(Exception):
    """The address is taken, or not ours to take."""


class Link(asyncio.Protocol):
    """One connection."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._said_all = False
        application, flush = server.application, self.flush

        def opened(stream: Stream, path: str) -> Handler | None:
            return application.open(stream, path, flush)

        self.connection = Connection(opened, application.http2_limits(), CHOICE, self._send_early)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are none
        self._transport.set_write_buffer_limits(0)  # or uvloop's would keep what it is given until its turn ends
        self._server.links.add(self)
        self.flush()
        if self._server.leaving:
            self.drain()

    def data_received(self, data: bytes) -> None:
        connection = self.connection
        connection.receive(data)
        if (out := connection.take()) and self._transport is not None:
            self._transport.write(out)
        if connection.closed:
            self._end()

    def _send_early(self) -> None:
        """Send what there is while more waits to be read: Envoy can go on with it meanwhile."""
        if self._transport is not None:
            self._transport.write(self.connection.take())

    def flush(self) -> None:
        """Send what there is, and close when that was the last."""
        if self._transport is None:
            return
        if out := self.connection.take():
            self._transport.write(out)
        if self.connection.closed:
            self._end()

    def pause_writing(self) -> None:
        """The peer does not read: it gets no chance to ask for more."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self.connection.lost()
        self._server.gone(self)

    def drain(self) -> None:
        self.connection.drain()
        self.flush()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _end(self) -> None:
        """Close. A peer that has done nothing wrong may be sending still, if only that it takes our last answers: were
        the socket closed by then, it would notice while it sends, and never read them. So it closes first."""
        if self._transport is None or self._said_all:
            return
        self._said_all = True
        if self.connection.draining and not self.connection.broken:
            self._transport.write_eof()
        else:
            self._transport.close()


class Server:
    """Listens from `start` to `stop`."""

    def __init__(self, application: Application) -> None:
        self.application = application
        self.links: set[Link] = set()
        self.leaving = False
        self.port = 0
        self.metrics_port = 0
        self._server: asyncio.Server | None = None
        self._socket: Path | None = None
        self._inode = 0
        self._empty = asyncio.Event()

    async def start(self, listen: str) -> None:
        """`unix:PATH` or `HOST:PORT`; port 0 is any, then `port` tells which."""
        loop = asyncio.get_running_loop()
        self.leaving = False
        try:
            if listen.startswith("unix:"):
                self._socket = Path(listen.removeprefix("unix:"))
                made = _unix_socket(self._socket)
                self._inode = self._socket.stat().st_ino
                self._server = await loop.create_unix_server(lambda: Link(self), sock=made, backlog=_BACKLOG)
            else:
                host, _, port = listen.rpartition(":")
                self._server = await loop.create_server(
                    lambda: Link(self), host.strip("[]"), int(port), backlog=_BACKLOG
                )
                self.port = self._server.sockets[0].getsockname()[1]
        except OSError as error:
            raise CannotListen(f"cannot listen on {listen}: {(error.strerror or str(error)).lower()}") from None

    async def stop(self, within: float = _LEAVE) -> None:
        """Take no new requests, finish those under way, and close."""
        self.leaving = True
        if self._server is not None:
            self._server.close()
        if self._socket is not None and _inode(self._socket) == self._inode:  # else it is our successor's
            self._socket.unlink(missing_ok=True)
        for link in list(self.links):
            link.drain()
        if self.links:
            self._empty.clear()
            try:
                async with asyncio.timeout(within):
                    await self._empty.wait()
            except TimeoutError:
                for link in list(self.links):
                    link.abort()
        await self.application.calls.close()

    def gone(self, link: Link) -> None:
        self.links.discard(link)
        if not self.links:
            self._empty.set()


async def serve(
    application: Application,
    listen: str,
    *,
    metrics: tuple[str, int] | None = None,
    figures: Path | None = None,
    stop: asyncio.Event | None = None,
    started: Callable[[Server], None] = lambda server: None,
) -> None:
    """Run until `stop` is set or a signal comes.

    `metrics`: where /metrics is, if anywhere; `figures`: the folder from which the sidecar reads the same.
    """
    stop = stop or _on_signals()
    server = Server(application)
    async with AsyncExitStack() as stack:
        if metrics is not None:
            server.metrics_port = await _pages(application, *metrics, stack)
        await server.start(listen)
        started(server)
        await _until(stop, application, server, FigureFile(application, figures) if figures is not None else None)


async def _pages(application: Application, host: str, port: int, stack: AsyncExitStack) -> int:
    from aiohttp import web

    from sidecar.ext_proc.pages import pages

    runner = web.AppRunner(pages(application), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        raise CannotListen(f"cannot listen on {host}:{port}: {(error.strerror or str(error)).lower()}") from None
    return int(runner.addresses[0][1])


async def _until(stop: asyncio.Event, application: Application, server: Server, figures: FigureFile | None) -> None:
    tasks = [asyncio.create_task(_ticks(application)), asyncio.create_task(look_out(application.pipelines))]
    if application.spec.reload:
        tasks.append(asyncio.create_task(application.plugins.watch(application.reloaded)))
    if figures is not None:
        tasks.append(asyncio.create_task(figures.run()))
    try:
        await stop.wait()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        _log.info("no new requests for plugins: %d connections are to end", len(server.links))
        await server.stop()
        if figures is not None:
            figures.write()


async def _ticks(application: Application) -> None:
    while True:
        pipelines = application.pipelines()
        for pipeline in pipelines:
            pipeline.tick(time.monotonic())
        due = min(pipeline.next_tick() for pipeline in pipelines)
        await asyncio.sleep(min(1.0, max(0.001, due - time.monotonic())))


def _unix_socket(path: Path) -> socket.socket:
    """Listening at the path. What listened there until now loses it at once and without a gap: a new one is put in
    its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
        raise FileExistsError(17, "there is something else at this path")
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        fresh.unlink(missing_ok=True)
        made.bind(str(fresh))
        fresh.chmod(0o660)
        made.listen(_BACKLOG)
        fresh.replace(path)
    except BaseException:
        made.close()
        fresh.unlink(missing_ok=True)
        raise
    return made


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return -1


def _on_signals() -> asyncio.Event:
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    return stop

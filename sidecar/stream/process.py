"""The sidecar as a process that takes the stream, too: Envoy's figures, its requests, the pages that tell of both."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from sidecar.instruments import Family
from sidecar.metrics.admin import Address, Admin
from sidecar.metrics.exemplars import ByKey
from sidecar.metrics.follow import Follower
from sidecar.metrics.llm import Llms
from sidecar.metrics.pages import More, application
from sidecar.metrics.plugin_files import PluginFiles
from sidecar.metrics.process import CannotListen, first_of, on_signals, serving
from sidecar.stream.examples import exemplars
from sidecar.stream.figures import families
from sidecar.stream.losses import Losses
from sidecar.stream.pages import add_pages
from sidecar.stream.receiver import Receiver
from sidecar.stream.requests import KEPT, Requests

Started = Callable[[int, int], None]
"""Told the ports of the pages and of the stream, which are free choices where 0 was asked for."""


class _Told(More):
    """What the stream adds to the pages."""

    def __init__(self, receiver: Receiver, losses: Losses, also: More) -> None:
        self._receiver, self._losses, self._also = receiver, losses, also

    def families(self) -> tuple[Family, ...]:
        return (*families(self._receiver, self._losses), *self._also.families())

    def exemplars(self) -> ByKey:
        return exemplars(self._receiver.requests)

    @property
    def llms(self) -> Llms:
        return self._receiver.requests.llms


async def serve(
    envoy: Address,
    pages_at: tuple[str, int],
    stream_at: tuple[str, int],
    *,
    interval: float = 1.0,
    grace: float = 300.0,
    kept: int = KEPT,
    plugins: Path | None = None,
    stop: asyncio.Event | None = None,
    started: Started = lambda pages, stream: None,
) -> None:
    """Run until `stop` is set or a signal comes."""
    stop = stop or on_signals()
    async with Admin(envoy) as admin:
        follower = Follower(admin, interval=interval, grace=grace)
        requests = Requests(kept)
        receiver = Receiver(requests)
        losses = Losses(admin, lambda: requests.entries + requests.refused.total() - requests.refused["metadata"])
        files = None if plugins is None else PluginFiles(plugins)
        pages = application(follower, _Told(receiver, losses, files or More()))
        add_pages(pages, requests)
        server = await _listen(receiver, *stream_at)
        try:
            async with serving(pages, *pages_at) as port:
                started(port, server.sockets[0].getsockname()[1])
                running = (follower.run(), losses.run(interval), requests.llms.run(interval), stop.wait())
                await first_of(*running, *(() if files is None else (files.run(interval),)))
        finally:
            server.close()
            receiver.close()


async def _listen(receiver: Receiver, host: str, port: int) -> asyncio.Server:
    try:
        return await asyncio.get_running_loop().create_server(receiver.connection, host, port)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise CannotListen(f"cannot listen on {host}:{port} for the stream: {why}") from None

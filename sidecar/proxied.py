"""`headgate sidecar --proxy` as a process: the proxy, its figures, and the pages that tell them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from sidecar.instruments import Family
from sidecar.metrics.counted import INTERVAL, Counted
from sidecar.metrics.pages import More, application
from sidecar.metrics.process import on_signals, serving
from sidecar.proxy import Proxy, serve_proxy
from sidecar.proxy_config import ProxyConfig

Started = Callable[[int, tuple[int, ...]], None]
"""Told the port of the pages, and those of the proxy: HTTP, then gRPC if it is on."""


class _OfPlugins(More):
    """What the proxy's plugins count."""

    def __init__(self, proxies: list[Proxy]) -> None:
        self._proxies = proxies

    def families(self) -> tuple[Family, ...]:
        return tuple(family for one in self._proxies for family in one.plugins.pipeline.families(time.monotonic()))


async def serve(
    config: ProxyConfig,
    host: str,
    port: int,
    *,
    interval: float = INTERVAL,
    stop: asyncio.Event | None = None,
    started: Started = lambda pages, proxy: None,
) -> None:
    """Run until `stop` is set or a signal comes. CannotListen for the pages' port, CannotStart for all else."""
    stop = stop or on_signals()
    counted = Counted(config, interval=interval)
    proxies: list[Proxy] = []

    async with serving(application(counted, _OfPlugins(proxies)), host, port) as pages:

        def listening(proxy: Proxy, ports: tuple[int, ...]) -> None:
            proxies.append(proxy)
            counted.trouble = None
            started(pages, ports)

        taking = asyncio.create_task(counted.run())
        try:
            await serve_proxy(config, counted, listening, stop)
        finally:
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)
